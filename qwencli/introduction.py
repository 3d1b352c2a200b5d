"""Who answers: said once about the built-in model, which is small and no Qwen."""

from collections.abc import Callable

from qwencli.folders import Folders
from qwencli.known_models import KnownModel

_INTRODUCTION = (
    "mini is a small built-in model of its own: it sees plain shapes, and reads block letters in squares "
    "alone; -m selects another (this is said once)"
)


def introduce(model: KnownModel, folders: Folders, notify: Callable[[str], None]) -> None:
    """Notify the first time that this user asks the built-in model."""
    if model.origin != "built-in":
        return
    marker = folders.state / "introduced-mini"
    if marker.exists():
        return
    notify(_INTRODUCTION)
    try:
        folders.state.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError:  # a read-only home: it is said again next time
        pass
