"""Keys that are hit while no prompt is there to take them."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_STDIN = 0


@contextmanager
def kept_for_the_prompt(is_terminal: bool) -> Iterator[None]:
    """Keys do not show up in an answer, and Enter stays Enter, until the next prompt reads them.

    Without this the terminal would make a line feed of it, which is the key for a new line there. Ctrl-C
    stays what it is. Nothing is done on Windows, whose console does neither.
    """
    if sys.platform == "win32" or not is_terminal:
        yield
        return
    import termios

    before = termios.tcgetattr(_STDIN)
    quiet = list(before)
    quiet[0] = before[0] & ~termios.ICRNL
    quiet[3] = before[3] & ~(termios.ECHO | termios.ICANON)

    def apply_again(signum: int, frame: FrameType | None) -> None:
        if os.tcgetpgrp(_STDIN) == os.getpgrp():  # else it is not ours to set, and would stop us
            termios.tcsetattr(_STDIN, termios.TCSANOW, quiet)

    termios.tcsetattr(_STDIN, termios.TCSANOW, quiet)
    # Ctrl-Z gives the terminal to a shell, and `fg` gives it back as the shell has it.
    previous = signal.signal(signal.SIGCONT, apply_again)
    try:
        yield
    finally:
        signal.signal(signal.SIGCONT, previous)
        termios.tcsetattr(_STDIN, termios.TCSANOW, before)
