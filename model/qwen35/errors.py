"""What a user can cause. Raised where the cause is known, caught in `qwencli.app` alone.

Each message says what was wrong, where, and what to do. A bug of ours is an `assert` or a plain
exception, which flies with its traceback.
"""


class Qwen35Error(Exception):
    """Base of every error that a user can cause. `kind` is the stable word in JSON output."""

    kind = "error"

    def __init__(self, message: str, *, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


class InputError(Qwen35Error):
    """A picture, document, text or message that cannot be used."""

    kind = "input"


class CheckpointError(Qwen35Error):
    """A model folder that is missing, incomplete, damaged or of an unknown architecture."""

    kind = "checkpoint"


class DoesNotFit(Qwen35Error):
    """More memory or context than there is."""

    kind = "does_not_fit"


class NetworkError(Qwen35Error):
    """A URL that gave nothing usable, a network that is not there."""

    kind = "network"


class UnwritableError(Qwen35Error):
    """Files cannot be written there: a full disk, no permission, somebody else's files."""

    kind = "output"
