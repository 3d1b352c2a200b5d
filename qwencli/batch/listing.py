"""Inputs of a batch as items, one by one: folders, patterns, lists, files of items.

They may be gone through more than once (to count and check them, then to answer them), and only names are
held meanwhile.
"""

import fnmatch
import glob
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from qwen35.errors import InputError
from qwencli.batch.items import Item, columns_of
from qwencli.batch.items_file import SUFFIXES, bad_line, read_items
from qwencli.errors import UsageError
from qwencli.media.kinds import VIDEO_SUFFIXES
from qwencli.media.numbered import is_numbered
from qwencli.media.source import is_data_uri, is_url, local_path
from qwencli.templates.places import MissingColumn, Places, unknown_name

# What is taken of a folder where no --include says it. Names alone decide: a broken picture is to be told.
_TAKEN = (
    *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".jp2", ".qoi"),
    *VIDEO_SUFFIXES,
    *(".pdf", ".txt", ".md"),
)
_SHOWN_ENDS = 6
_BOM = b"\xef\xbb\xbf"  # of Windows, before a text in UTF-8
_CHUNK_BYTES = 1 << 20


@dataclass(slots=True)
class Listing:
    """What was given on the command line, to be entered.

    Mutable: it counts, anew each time that it is gone through.

    `question` None: each line of an items file has its own. `output`: a file that is never an item.
    """

    inputs: Sequence[str]
    question: Places | None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    is_null_separated: bool = False
    output: Path | None = None
    num_repeated: int = 0
    left_out: Counter[str] = field(default_factory=Counter)  # files of folders, by the ends of their names
    never: Counter[str] = field(default_factory=Counter)  # what of folders cannot be an item
    empty: list[str] = field(default_factory=list)  # inputs without an item, and why
    missing: Counter[str] = field(default_factory=Counter)  # names in the question that items do not have
    known: set[str] = field(default_factory=set)  # names that some item has
    _stdin: IO[bytes] | None = None
    _num_filtered: int = 0  # of an input, by --include and --exclude
    _read: set[str] = field(default_factory=set)  # files of items, gone through already

    def __iter__(self) -> Iterator[Item]:
        """Each item once. Raises InputError for an input that is not there, UsageError where nobody asks."""
        self.num_repeated = 0
        self.left_out, self.missing, self.known = Counter(), Counter(), set()
        self.never, self.empty, self._read = Counter(), [], set()
        seen: set[int] = set()  # numbers, not names: there may be millions
        for spec in self.inputs:
            self._num_filtered, is_empty = 0, True
            for item in self._items_of(spec):
                is_empty = False
                if item.place and _number(item.id) in seen:
                    item = bad_line(item.place, f"the id {item.id!r} has been on a line before.")
                if (number := _number(item.id)) in seen:
                    self.num_repeated += 1
                else:
                    seen.add(number)
                    yield item
            if is_empty:
                self.empty.append(self._why_empty(spec))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._stdin:
            self._stdin.close()

    def left_out_notes(self) -> list[str]:
        """On the files of folders that are no items."""
        notes = []
        if total := self.left_out.total():
            ends = ", ".join(end for end, _ in self.left_out.most_common(_SHOWN_ENDS))
            notes.append(
                f"{total:,} file{'s' if total > 1 else ''} left out, by name no picture, video, PDF or text "
                f"({ends}); --include takes {'them' if total > 1 else 'it'}"
            )
        if self.never:
            notes.append(
                f"left out: {', '.join(f'{number:,} {what}' for what, number in self.never.items())}"
            )
        return notes

    def _why_empty(self, spec: str) -> str:
        where = "standard input" if spec == "-" else spec
        if number := self._num_filtered:
            said = [f"--include {pattern!r}" for pattern in self.include]
            said += [f"--exclude {pattern!r}" for pattern in self.exclude]
            files = "the only file" if number == 1 else f"none of the {number:,} files"
            return f"{files} in {where} {'does not pass' if number == 1 else 'passes'} {', '.join(said)}"
        if spec == "-":
            return "standard input named none"
        return f"{spec} is empty" if spec.lower().endswith(SUFFIXES) else f"{spec} holds none"

    def _items_of(self, spec: str) -> Iterator[Item]:
        if spec == "-":
            yield from self._piped()
            return
        if is_url(spec) or is_data_uri(spec) or is_numbered(spec):
            yield self._item_of(spec)
            return
        path = local_path(spec)
        if path.is_dir():
            yield from self._folder(str(path))
        elif spec.lower().endswith(SUFFIXES) and path.is_file():
            yield from self._items_file(str(path))
        elif path.exists():
            yield self._item_of(str(path))
        elif glob.has_magic(spec):
            yield from self._pattern(str(path))
        else:
            raise InputError(f"{spec}: no such file.", path=spec)

    def _items_file(self, path: str) -> Iterator[Item]:
        try:
            with Path(path).open("rb") as lines:
                yield from self._lines(lines, path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}).", path=path) from None

    def _folder(self, spec: str) -> Iterator[Item]:
        """All that lies in it, in the order of names; what is hidden does not count."""
        for entry in _walk(os.path.normpath(spec)):
            if isinstance(entry, Item):
                yield entry
            elif _is_folder(entry):
                self.never["link to a folder"] += 1
            elif not entry.is_symlink() and not entry.is_file():
                self.never["pipe, socket or device"] += 1  # which might never give anything
            elif self._is_wanted(entry.path, os.path.relpath(entry.path, spec)):
                yield self._item_of(entry.path)

    def _pattern(self, spec: str) -> Iterator[Item]:
        paths = [path for path in sorted(glob.glob(spec, recursive=True)) if os.path.isfile(path)]  # noqa: PTH113, PTH207
        if not paths:
            raise InputError(f"{spec}: matches no file.", path=spec)
        for path in paths:
            if not self._passes(path) or self._is_output(path):
                continue
            if path.lower().endswith(SUFFIXES):
                yield from self._items_file(path)
            else:
                yield self._item_of(path)

    def _piped(self) -> Iterator[Item]:
        """Standard input: paths, one a line (or between NULs), or the lines of an items file."""
        self._stdin = self._stdin or _spooled_stdin()
        self._stdin.seek(0)
        beginning = self._stdin.read(len(_BOM) + 1).removeprefix(_BOM)
        is_items_file = not self.is_null_separated and beginning.startswith(b"{")
        self._stdin.seek(0)
        if is_items_file:
            yield from self._lines(self._stdin, "stdin")
            return
        for raw in _split(self._stdin, b"\0" if self.is_null_separated else b"\n"):
            path = os.fsdecode(raw if self.is_null_separated else raw.rstrip(b"\r"))
            if path and self._passes(path) and not self._is_output(path):
                yield self._item_of(path)

    def _lines(self, lines: IO[bytes], source: str) -> Iterator[Item]:
        path = os.path.abspath(source)  # noqa: PTH100 (Path.resolve follows links, too)
        if path in self._read:
            self.num_repeated += 1
            return
        self._read.add(path)
        yield from read_items(lines, source, self._ask_line if self.question else None)

    def _is_wanted(self, path: str, name: str) -> bool:
        """Whether a file of a folder is an item."""
        if self._is_output(path) or not self._passes(name):
            return False
        end = Path(path).suffix.lower()
        if self.include or end in _TAKEN:
            return True
        self.left_out[end or Path(path).name] += 1
        return False

    def _passes(self, path: str) -> bool:
        names = (path, path.rpartition("/")[2])

        def matches(patterns: Sequence[str]) -> bool:
            return any(fnmatch.fnmatch(name, pattern) for pattern in patterns for name in names)

        passes = (not self.include or matches(self.include)) and not matches(self.exclude)
        self._num_filtered += not passes
        return passes

    def _is_output(self, path: str) -> bool:
        if self.output is None or Path(path).name != self.output.name:
            return False
        with suppress(OSError):
            return self.output.samefile(path)
        return False

    def _item_of(self, spec: str) -> Item:
        """The command's question about one input."""
        if self.question is None:
            raise UsageError(
                f"There is no question about {spec[:80]}. Ask one: qwen batch ... 'Describe this.'"
            )
        id = spec if is_url(spec) else os.path.normpath(spec)
        if is_data_uri(spec):
            id = f"data:{_digest(spec).hex()}"
        try:
            return self._ask(id, (spec,), columns_of(spec))
        except MissingColumn as error:
            raise UsageError(unknown_name(error.name, self.known)) from None

    def _ask_line(self, id: str, inputs: tuple[str, ...], columns: Mapping[str, str]) -> Item:
        try:
            return self._ask(id, inputs, columns)
        except MissingColumn as error:
            self.missing[error.name] += 1
            raise InputError(f"has no {error.name!r}, which the question names.") from None

    def _ask(self, id: str, inputs: tuple[str, ...], columns: Mapping[str, str]) -> Item:
        assert self.question is not None
        self.known.update(columns)
        return Item(id, inputs, self.question.fill(columns))


def _walk(folder: str) -> "Iterator[os.DirEntry[str] | Item]":
    """What lies below `folder`; an item that fails for a folder that cannot be read.

    Links to folders are told, and not followed: they may lead round in a circle.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if entry.name[0] != "."), key=lambda entry: entry.name)
    except OSError as error:
        yield Item(folder, error=InputError(f"{folder}: cannot be read ({error.strerror}).", path=folder))
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path)
        else:
            yield entry


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into what may not be entered: it is told when it is read
        return False


def _split(file: IO[bytes], separator: bytes) -> Iterator[bytes]:
    rest = b""
    while chunk := file.read(_CHUNK_BYTES):
        *whole, rest = (rest + chunk).split(separator)
        yield from whole
    yield rest


def _spooled_stdin() -> IO[bytes]:
    """Standard input in a temporary file, to be read twice."""
    import shutil
    import tempfile

    spooled = tempfile.TemporaryFile(prefix="qwen-")  # noqa: SIM115 (open as long as the listing)
    try:
        if os.isatty(0):
            raise UsageError(
                "'-' means a list on standard input: find scans -name '*.png' | qwen batch - ..."
            )
        with open(0, "rb", closefd=False) as stdin:
            shutil.copyfileobj(stdin, spooled)
    except OSError as error:
        raise UsageError(f"'-' means standard input, which cannot be read ({error.strerror}).") from None
    return spooled


def _number(text: str) -> int:
    return int.from_bytes(_digest(text))


def _digest(text: str) -> bytes:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
