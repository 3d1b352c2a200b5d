"""Signals that ask a chat to end."""

import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

# What some library makes of the exception that a signal raises: nothing.
DEAF = """
import time
from qwencli.chat import stops
stops.GRACE_S = 0.3
with stops.Stops():
    words = ["ready"]
    while True:
        try:
            while words:
                print(words.pop(), flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            pass
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_chat_that_cannot_end_by_itself_is_ended(signum: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signum)
        assert process.wait(timeout=30) == 128 + signum
    finally:
        process.kill()
        process.communicate()


def test_one_that_ends_in_time_is_left_to_do_so() -> None:
    code = DEAF.replace("while True:", "for _ in range(1):") + "time.sleep(0.6)\nprint('saved')"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, b"saved\n")
