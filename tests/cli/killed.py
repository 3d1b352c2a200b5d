"""`qwen` that is killed in the middle of its work on the saved states: at the n-th thing it does to a file.

Run as a process: `python -m tests.cli.killed N WORDS`, with the folder of states in KILLED_IN. It ends as
after `kill -9`: nothing is cleaned up, no buffer is written.
"""

import os
import signal
import sys

from qwencli import app

EVENTS = (
    "open",
    "os.rename",
    "os.link",
    "os.remove",
    "os.mkdir",
    "os.listdir",
    "os.chmod",
    "sqlite3.connect",
)


def kill_at(number: int, folder: str) -> None:
    seen = 0

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal seen
        if event in EVENTS and any(folder in str(arg) for arg in args[:2]):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


if __name__ == "__main__":
    kill_at(int(sys.argv.pop(1)), os.environ["KILLED_IN"])
    sys.exit(app.main())
