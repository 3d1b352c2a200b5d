"""A program on a terminal of its own: what it writes there, byte by byte."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Session:
    code: int
    screen: str  # everything written to the terminal, escape sequences included


def run_in_terminal(
    *words: object,
    script: str,
    model: Path,
    interrupt_after: str | None = None,
    signum: int = signal.SIGINT,
    stderr: int | None = None,
    limit_s: float = 60,
    **environ: str,
) -> Session:
    """`qwen WORDS -m MODEL` with a scripted engine on an 80x24 terminal.

    Once the text `interrupt_after` is seen, the process gets `signum`. `stderr`: not the terminal, but this.
    """
    ours, theirs = pty.openpty()
    environment = os.environ | {"SCRIPTED_ENGINE": script, "TERM": "xterm-256color"} | environ
    environment |= {"COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cli.scripted", *map(str, words), "-m", str(model)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs if stderr is None else stderr,
        env=environment,
        start_new_session=True,
    )
    os.close(theirs)
    screen = b""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                data = os.read(ours, 65536)
            except OSError:  # the other end is closed: the program has ended
                break
            screen += data
            if interrupt_after and interrupt_after.encode() in screen:
                process.send_signal(signum)
                interrupt_after = None
    else:
        process.kill()
    code = process.wait()
    os.close(ours)
    return Session(code, screen.decode())
