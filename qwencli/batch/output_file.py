"""The file that a batch writes: line by line, each whole and on the disk before it counts.

It may be cut off at any moment, by kill -9 or by the power: then at most its last line is torn, which is cut
away by whoever opens it next, and its item is asked again.
"""

import csv
import errno
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import IO, Self, get_args

from qwen35.errors import UnwritableError
from qwen35.weights.work_folder import sync_folder
from qwencli.batch.formats import Format, Line
from qwencli.batch.identity import Identity, Run
from qwencli.batch.targets import Done
from qwencli.errors import UsageError

_KINDS: tuple[Done, ...] = get_args(Done)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)  # of file systems that have none


@dataclass(frozen=True, slots=True)
class Found:
    """What an output held before this run: answers of the same run, lines of others, bytes of a torn line."""

    num_items: int = 0
    num_others: int = 0
    torn_bytes: int = 0


class OutputFile:
    """Mutable, to be closed; for one process at a time: its lock ends with the process.

    Knows what is done, by two numbers for each item; the text stays on the disk.
    """

    def __init__(self, path: Path, form: Format, run: Run, file: IO[bytes]) -> None:
        self.path, self.found = path, Found()
        self._format, self._run, self._file = form, run, file
        # By hashes of items' names: the hash of the content, times four, and which of `_KINDS` it is.
        self._done: dict[int, int] = {}
        self._has_stale = False  # lines that a later one replaces

    @classmethod
    def open(
        cls,
        path: Path,
        form: Format,
        run: Run,
        *,
        overwrite: bool = False,
        append: bool = False,
        retry: Collection[Done] = (),
    ) -> Self:
        """Make the file, or lock it, mend it and read what is done: not what is done as `retry` says.

        Failures to be asked again are dropped at once, answers when their item has a new one.

        What another run has left is refused unless `append` keeps it or `overwrite` drops everything.
        Raises UnwritableError, and UsageError for a file that is refused.
        """
        with _troubles(path):
            output = cls(path, form, run, _lock(path))
            try:
                output._new_path.unlink(missing_ok=True)  # of one that was killed
                if overwrite:
                    output._file.truncate(0)
                output._read(append=append, retry=retry)
                _sync_folder(path)
            except BaseException:
                output._file.close()
                raise
        return output

    def find(self, item: str, content: str) -> Done | None:
        """How the item was done, with this content; None: it is to be asked."""
        state = self._done.get(_number(item))
        if state is None or state >> 2 != int(content, 16):
            return None
        return _KINDS[state & 3]

    def write(self, item: str, line: bytes) -> None:
        """Add the line of an item. It is on the disk when this comes back; where it raises, none of it is."""
        with _troubles(self.path):
            self._add(line)
        self._has_stale = self._has_stale or _number(item) in self._done

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Drop the lines that later ones have replaced, unless something went wrong, and unlock."""
        try:
            if self._has_stale and kind is None:
                with _troubles(self.path):
                    self._rewrite(drop_failed=False)
        finally:
            self._file.close()

    def _read(self, *, append: bool, retry: Collection[Done]) -> None:
        end = 0
        num_others, difference, has_stale = 0, "", False
        for raw, line in _lines_of(self._file, self._format, self.path):
            end += len(raw)
            if line is None:
                continue
            identity = Identity.parse(line.id)
            if identity is None:
                raise _no_output(self.path)
            if identity.run != self._run:
                num_others, difference = num_others + 1, self._run.differences(identity.run)
                continue
            number = _number(line.item)
            has_stale = has_stale or number in self._done
            self._done[number] = int(identity.content, 16) << 2 | _KINDS.index(line.done_as)
        if num_others and not append:
            raise UsageError(
                f"{self.path}: {told_of_others(num_others, difference)}. Choose another output; or "
                "--append keeps them and adds those of this run, --overwrite drops them.",
                path=str(self.path),
            )
        torn_bytes = os.fstat(self._file.fileno()).st_size - end
        if torn_bytes:
            self._file.truncate(end)
        if end == 0:
            self._add(self._format.header)
        self.found = Found(len(self._done), num_others, torn_bytes)
        again = {number: kind for number, state in self._done.items() if (kind := _KINDS[state & 3]) in retry}
        for number in again:
            del self._done[number]
        drops_failed = "failed" in again.values()
        if has_stale or drops_failed:
            self._rewrite(drop_failed=drops_failed)
        self._has_stale = "incomplete" in again.values()

    def _rewrite(self, *, drop_failed: bool) -> None:
        """Write the file anew, of each item its last line, and put it in the place of the old one."""
        last: dict[int, int] = {}
        for place, (_, line) in enumerate(_lines_of(self._file, self._format, self.path)):
            if line is not None and self._is_own(line):
                is_dropped = drop_failed and line.done_as == "failed"
                last[_number(line.item)] = -1 if is_dropped else place
        path = self._new_path
        file = _open(path, os.O_TRUNC)
        try:
            os.fchmod(file.fileno(), stat.S_IMODE(os.fstat(self._file.fileno()).st_mode))
            for place, (raw, line) in enumerate(_lines_of(self._file, self._format, self.path)):
                if line is None or not self._is_own(line) or last[_number(line.item)] == place:
                    _write_all(file, raw)
            os.fsync(file.fileno())
            _try_lock(file, self.path)  # the name is locked at every moment
            path.replace(os.path.realpath(self.path))
        except BaseException:
            file.close()
            path.unlink(missing_ok=True)
            raise
        _sync_folder(path)
        self._file.close()
        self._file, self._has_stale = file, False

    @property
    def _new_path(self) -> Path:
        """Beside the file itself: a link to it stays one."""
        target = Path(os.path.realpath(self.path))
        return target.with_name(f".{target.name}.new")

    def _is_own(self, line: Line) -> bool:
        identity = Identity.parse(line.id)
        return identity is not None and identity.run == self._run

    def _add(self, line: bytes) -> None:
        size = os.fstat(self._file.fileno()).st_size
        try:
            _write_all(self._file, line)
            os.fsync(self._file.fileno())
        except OSError:
            with suppress(OSError):
                self._file.truncate(size)
            raise


def told_of_others(number: int, difference: str) -> str:
    """What to say of an output with so many lines of other runs."""
    return f"holds {number:,} answer{'s' if number > 1 else ''} of {difference}"


def read_output(path: Path, form: Format) -> Iterator[tuple[Line, Identity]]:
    """The lines of a file that is only looked at, and what they were made of; none where there is no file.

    Raises UsageError for what is no output of a batch.
    """
    if not path.is_file():
        return
    with _troubles(path), path.open("rb") as file:
        for _, line in _lines_of(file, form, path):
            identity = Identity.parse(line.id) if line else None
            if line and identity:
                yield line, identity


def _lines_of(file: IO[bytes], form: Format, path: Path) -> Iterator[tuple[bytes, Line | None]]:
    """Lines as bytes and as what they say: None for the header. One that is torn is not among them.

    Raises UsageError for what no batch has written.
    """
    file = open(file.fileno(), "rb", closefd=False)  # noqa: SIM115 (buffered, and of the same file)
    file.seek(0)
    header = form.header
    torn: bytes | None = None  # unless another line follows
    for raw in form.lines(file):
        if torn is not None:
            yield torn, _decoded(torn, form, path)  # no zeros of a power cut: those are at the end
            torn = None
        if not form.is_whole(raw) or b"\0" in raw:
            torn = raw
        elif header:
            if raw != header:
                raise _no_output(path)
            header = b""
            yield raw, None
        else:
            yield raw, _decoded(raw, form, path)
    if torn is not None and not _may_be_torn(torn, header or form.beginning):
        raise _no_output(path)


def _decoded(raw: bytes, form: Format, path: Path) -> Line:
    try:
        if not form.is_whole(raw):
            raise ValueError
        return form.decode(raw)
    except (ValueError, LookupError, TypeError, csv.Error):
        raise _no_output(path) from None


def _may_be_torn(piece: bytes, beginning: bytes) -> bool:
    """Whether this may be left of a line that was not written to its end; a power cut leaves zeros."""
    piece = piece.rstrip(b"\0")
    return piece[: len(beginning)] == beginning[: len(piece)]


def _no_output(path: Path) -> UsageError:
    return UsageError(
        f"{path}: is not what `qwen batch` writes with this --format, --as or --schema. Choose another "
        "output; --overwrite drops what it holds.",
        path=str(path),
    )


def _number(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest())


def _open(path: Path, flags: int = 0) -> IO[bytes]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnwritableError(f"{path}: is no file. Choose another output.", path=str(path))
    return os.fdopen(descriptor, "rb+", buffering=0)


def _lock(path: Path) -> IO[bytes]:
    """The file under its lock. Whoever held it may have put another file in its place meanwhile."""
    while True:
        file = _open(path)
        try:
            _try_lock(file, path)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def _try_lock(file: IO[bytes], path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UnwritableError(
            f"{path}: another `qwen batch` is writing to it. Wait for its end, or choose another output.",
            path=str(path),
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _write_all(file: IO[bytes], data: bytes) -> None:
    while data:
        data = data[file.write(data) :]


def _sync_folder(path: Path) -> None:
    """So that the file's name outlives a power cut, too."""
    with suppress(OSError):
        sync_folder(path.parent)


@contextmanager
def _troubles(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = (
            "Make room and start again: what is in it stays, whole."
            if error.errno in _FULL
            else "Choose another output."
        )
        raise UnwritableError(
            f"{path}: cannot be written ({error.strerror}). {hint}", path=str(path)
        ) from None
