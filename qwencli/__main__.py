"""Where the `qwen` command begins, and `python -m qwencli`: before anything else is imported."""

import signal
import sys
from types import FrameType

from qwencli.interrupts import Interrupts


def main() -> int:
    """Run the command line of this process; Ctrl-C while it is being imported ends it without a word."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, _end)
    from qwencli import app

    return app.main()


def _end(signum: int, frame: FrameType | None) -> None:
    """Not as an exception: an import that is left half-way may make another one of it."""
    interrupts = Interrupts()
    interrupts.signum = signum
    interrupts.leave()


if __name__ == "__main__":
    sys.exit(main())
