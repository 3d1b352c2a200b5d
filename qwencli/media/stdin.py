"""Standard input: whether to read it, and not to hang where nobody will ever write to it."""

import os
import select
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from qwencli.errors import UsageError
from qwencli.media.source import AnySource, collect

NAME = "stdin"
PATIENCE_S = 2.0
_STDIN = 0
_CHUNK_BYTES = 2**16

Notify = Callable[[str], None]


def read_stdin(notify: Notify) -> AnySource:
    """All of standard input, asked for by `-`: waits as long as it takes.

    Raises UsageError where it is closed, InputError for what cannot be used.
    """
    if not _is_open():
        raise UsageError("'-' means standard input, but it is closed.")
    if os.isatty(_STDIN):
        notify("reading standard input from the terminal; end it with Ctrl-D")
    elif not _has_data_within(PATIENCE_S):
        notify("waiting for standard input ...")
    return collect(NAME, _chunks())


def read_piped_stdin(notify: Notify) -> AnySource | None:
    """What was piped or redirected into a command that names no input; None where there is nothing.

    A pipe may be one that a caller left open and never writes to, as services and `subprocess` do:
    after PATIENCE_S without a byte the answer goes on without it, with a note. Where another program
    is seen at its far end (`make | qwen ask ...`), it is waited for.
    """
    if not _is_open() or not _is_pipe_or_file():
        return None
    if not _has_data_within(PATIENCE_S):
        if not _has_producer():
            notify("nothing came on standard input within 2 s; going on without it (use - to wait)")
            return None
        notify("waiting for standard input ... (use < /dev/null to go on without it)")
    chunks = _chunks()
    first = next(chunks, b"")
    if not first:
        notify("standard input was empty")
        return None

    def all_chunks() -> Iterator[bytes]:
        yield first
        yield from chunks

    return collect(NAME, all_chunks())


def _chunks() -> Iterator[bytes]:
    while chunk := os.read(_STDIN, _CHUNK_BYTES):
        yield chunk


def _is_open() -> bool:
    try:
        os.fstat(_STDIN)
    except OSError:
        return False
    return True


def _is_pipe_or_file() -> bool:
    mode = os.fstat(_STDIN).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def _has_data_within(seconds: float) -> bool:
    """Whether a read would return at once, be it with data or with the end."""
    try:
        return bool(select.select([_STDIN], [], [], seconds)[0])
    except OSError:  # Windows can only wait for sockets
        return True


def _has_producer() -> bool:
    """Whether a process that is not one of our callers holds the pipe's far end (Linux; elsewhere False)."""
    pipe = os.fstat(_STDIN)
    callers = set(_callers())
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) in callers:
            continue
        try:
            descriptors = list((process / "fd").iterdir())
        except OSError:  # ended, or another user's
            continue
        for descriptor in descriptors:
            try:
                is_same = os.path.samestat(descriptor.stat(), pipe)
                # A symbolic link in fd/ has the owner's write bit where the descriptor can write.
                if is_same and descriptor.lstat().st_mode & stat.S_IWUSR:
                    return True
            except OSError:
                continue
    return False


def _callers() -> Iterator[int]:
    """This process, its parent, and so on."""
    pid = os.getpid()
    while pid > 0:
        yield pid
        try:
            fields = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return
        pid = int(fields.rpartition(")")[2].split()[1])
