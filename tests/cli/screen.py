"""A program in a real terminal emulator, tmux: keys in, what the screen shows out."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Self

import pytest

needs_tmux = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("tmux") is None, reason="needs Linux, and tmux"
)


class Screen:
    """One terminal, with a server of its own. To be entered."""

    def __init__(self, words: list[str], *, columns: int = 100, rows: int = 40, **environ: str) -> None:
        self._size = ("-x", str(columns), "-y", str(rows))
        self._socket = f"qwen-test-{uuid.uuid4().hex[:8]}"
        # The shell outlives the program, and tells how it ended; Ctrl-C is the program's alone.
        self._words = ["sh", "-c", f'trap : INT; {shlex.join(words)}; echo "exit code $?"; exec sleep 600']
        self._environ = os.environ | {"TERM": "xterm-256color"} | environ

    def __enter__(self) -> Self:
        self._tmux("-f", "/dev/null", "new-session", "-d", *self._size, *self._words)
        return self

    def __exit__(self, *error: object) -> None:
        self._tmux("kill-server")

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)

    def press(self, *keys: str) -> None:
        """Keys by tmux's names: Enter, C-c, M-Enter, Tab."""
        self._tmux("send-keys", *keys)

    def say(self, text: str) -> None:
        self.type(text)
        self.press("Enter")

    def paste(self, text: str) -> None:
        """As a terminal pastes into a program that asked for brackets around it."""
        self._tmux("set-buffer", text)
        self._tmux("paste-buffer", "-p")

    def text(self) -> str:
        """What the screen shows, and what has scrolled out of it."""
        shown = self._tmux("capture-pane", "-p", "-J", "-S", "-200")
        return "\n".join(line.rstrip() for line in shown.splitlines()).rstrip()

    def wait_for(self, pattern: str, limit_s: float = 25) -> str:
        """The screen as soon as it holds `pattern`, a regular expression."""
        end = time.monotonic() + limit_s
        while not re.search(pattern, text := self.text(), re.MULTILINE):
            assert time.monotonic() < end, f"no {pattern!r} on the screen:\n{text}"
            time.sleep(0.05)
        return text

    def pid(self) -> int:
        """Of the program, which runs in a shell."""
        shell = self._tmux("display-message", "-p", "#{pane_pid}").strip()
        return int(Path(f"/proc/{shell}/task/{shell}/children").read_text().split()[0])

    def wait_for_exit(self) -> int:
        """The exit code, 128 and more for a signal: tmux itself tells it of some ends alone."""
        return int(self.wait_for(r"^exit code \d+$").rpartition("exit code ")[2].split()[0])

    def _tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", self._socket, *words],
            capture_output=True,
            text=True,
            env=self._environ,
            timeout=30,
            cwd=Path.cwd(),
        )
        return done.stdout
