"""Work for the time in which the user reads and types: what was said last goes through the model once more.

The chat template writes a past answer otherwise than the model wrote it (its thinking is left out, say), so
the state after the answer cannot be gone on from. Here the conversation as the next prompt will hold it is
read already, and its state saved; the next question then costs its own tokens alone.
"""

import threading
import time
from collections.abc import Callable

from qwen35.engine.engine import Engine
from qwen35.engine.request import Request
from qwen35.errors import Qwen35Error

_STEP_S = 0.05  # between two looks at a wait, so that Ctrl-C ends it


class IdleWork:
    """Mutable; has a thread of its own while it works. Nobody else may use the engine then."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._is_stopped = False

    def begin(self, is_loading: Callable[[], bool], make: Callable[[], tuple[Engine, Request]]) -> None:
        """Read the conversation of a request, as far as it is known before the next question.

        What makes it is asked when the model is there; who stops this need not wait for it.
        """
        self.stop()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._work, args=(is_loading, make), daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the end: what goes on from there would have to compute the same."""
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(_STEP_S)
        self._thread = None

    def stop(self) -> None:
        """End it at the next chunk of tokens."""
        self._is_stopped = True
        self.finish()

    def _work(self, is_loading: Callable[[], bool], make: Callable[[], tuple[Engine, Request]]) -> None:
        while is_loading():
            if self._is_stopped:
                return
            time.sleep(_STEP_S)
        try:
            engine, request = make()
            engine.read_ahead(request, lambda: not self._is_stopped)
        except (Qwen35Error, MemoryError):
            pass  # the next question meets the same trouble, and tells of it
