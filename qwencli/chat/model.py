"""The chat's model, read in the background while its user types."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qwen35.processing.processor import Processor
from qwencli import runtime
from qwencli.known_models import KnownModel
from qwencli.settings import Settings

if TYPE_CHECKING:
    from qwen35.engine.engine import Engine
    from qwen35.engine.load import States

_STEP_S = 0.05  # between two looks at a wait, so that Ctrl-C ends it
OnProgress = Callable[[int, int], None]


class ChatModel:
    """Mutable: a thread of its own fills it. What went wrong there is raised where the result is wanted."""

    def __init__(self, known: KnownModel, settings: Settings, cache: Path, states: "States | None") -> None:
        self.known = known
        self.done_bytes = self.total_bytes = 0
        self.load_s = 0.0
        self._settings = settings
        self._cache = cache
        self._states = states
        self._notes: list[str] = []
        self._processor: Processor | None = None
        self._engine: Engine | None = None
        self._error: BaseException | None = None
        self._is_given_up = False
        self._thread = threading.Thread(target=self._load, daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        return self.known.name

    @property
    def is_loading(self) -> bool:
        return self._thread.is_alive()

    def processor(self) -> Processor:
        """Waits until the small files are read. Raises CheckpointError."""
        while self._processor is None and self._thread.is_alive():
            self._thread.join(_STEP_S)
        if self._processor is None:
            self._raise()
        assert self._processor is not None
        return self._processor

    def engine(self, on_progress: OnProgress) -> "Engine":
        """Waits until the model can be asked. Raises what `runtime.load` does."""
        while self._thread.is_alive():
            on_progress(self.done_bytes, self.total_bytes)
            self._thread.join(_STEP_S)
        if self._engine is None:
            self._raise()
        assert self._engine is not None
        return self._engine

    def take_notes(self) -> list[str]:
        """What a person should know of the loading, each once."""
        notes, self._notes = self._notes, []
        return notes

    def close(self) -> list[str]:
        """Wait for what the engine still saves; what is being loaded is given up. Returns notes on what went
        wrong."""
        self._is_given_up = True
        return self._engine.close() if self._engine else []

    def _load(self) -> None:
        started = time.perf_counter()
        try:
            processor = runtime.open_processor(self.known.folder)
            self._processor = processor
            self._engine = runtime.load(
                self.known.folder,
                processor,
                self._settings,
                self._cache,
                self._states,
                self._on_progress,
                lambda text: self._notes.append(text),
            )
            self.load_s = time.perf_counter() - started
            if self._is_given_up:
                self._engine.close(abandon=True)
        except BaseException as error:
            self._error = error

    def _on_progress(self, done: int, total: int) -> None:
        self.done_bytes, self.total_bytes = done, total

    def _raise(self) -> None:
        assert self._error is not None
        raise self._error
