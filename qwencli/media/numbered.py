"""Numbered picture files as a clip: frames/%04d.png, as FFmpeg writes and names them.

A folder stays a folder of single pictures: the pattern says that they belong together, and which.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from qwen35.errors import InputError
from qwencli.media.source import Source, read_path

if TYPE_CHECKING:
    import numpy as np

    from qwen35.messages import ImagePart
    from qwencli.media.animation import PictureClip

# Files say nothing of time. They are taken as what a model samples a video at, so that each is seen.
NUMBERED_FPS = 2.0
MAX_NUMBERED = 10_000
_NUMBER = re.compile(r"%(?:0(\d))?d")


def is_numbered(spec: str) -> bool:
    """Whether `spec` names numbered files, such as frames/%04d.png, and there is one."""
    try:
        return len(_NUMBER.findall(spec)) == 1 and not Path(spec).exists() and bool(_numbered_files(spec))
    except (OSError, ValueError, RuntimeError):  # too long for a name, a NUL, an unknown ~user
        return False


def open_numbered(spec: str, notify: Callable[[str], None]) -> "tuple[PictureClip, int]":
    """The files that `spec` names as a clip, in the order of their numbers, and their bytes in total.

    Raises InputError for a file that is no picture, and for too many.
    """
    import numpy as np

    from qwencli.media.animation import PictureClip
    from qwencli.media.image import decode_image
    from qwencli.media.timeline import Timeline

    by_number = _numbered_files(spec)
    files = [file for _, file in by_number]
    if len(files) > MAX_NUMBERED:
        raise InputError(
            f"{spec}: names {len(files):,} files; at most {MAX_NUMBERED:,} make a clip.", path=spec
        )
    pictures = "1 picture" if len(files) == 1 else f"{len(files)} pictures"
    notify(f"{spec}: {pictures}, taken as a clip of {NUMBERED_FPS:g} frames a second")
    if gaps := _gaps(sorted({number for number, _ in by_number})):
        notify(f"{spec}: {gaps}; the clip goes on as if nothing were missing")
    digest, size_bytes, sizes = hashlib.sha256(), 0, []
    for file in files:
        source = _picture_at(file)
        digest.update(bytes.fromhex(source.sha256))
        size_bytes += source.size_bytes
        sizes += _size_of(source)
    size = _first_good(files, notify).pixels.shape[:2]
    if num_other := sum(other != size for other in sizes):
        others = "1 picture is" if num_other == 1 else f"{num_other} pictures are"
        notify(f"{spec}: {others} of another size, and stretched to {size[1]}x{size[0]} as the first")
    starts = np.arange(len(files)) / NUMBERED_FPS

    def read(numbers: Sequence[int]) -> "Iterator[np.ndarray | None]":
        for number in numbers:
            try:
                yield decode_image(_picture_at(files[number]), lambda text: None).pixels
            except InputError:
                yield None

    timeline = Timeline(starts, len(files) / NUMBERED_FPS)
    return PictureClip(spec, digest.hexdigest(), (size[0], size[1]), timeline, read), size_bytes


def _gaps(numbers: Sequence[int]) -> str:
    """Which numbers are missing between the first and the last, in words; every tenth file has no gaps."""
    steps = [after - before for before, after in pairwise(numbers)]
    if not steps:
        return ""
    usual = min(steps)
    missing = sum(step // usual - 1 for step in steps)
    if not missing:
        return ""
    place = next(index for index, step in enumerate(steps) if step > usual)
    files = "1 number is" if missing == 1 else f"{missing:,} numbers are"
    return f"{files} missing, the first after {numbers[place]}"


def _size_of(source: Source) -> list[tuple[int, int]]:
    """(height, width), of a file whose header can be read."""
    from qwencli.media.image import open_picture, upright_size

    try:
        return [upright_size(open_picture(source))]
    except MemoryError:
        raise
    except Exception:  # whatever Pillow's parsers trip over: reading it will note it
        return []


def _first_good(files: Sequence[Path], notify: Callable[[str], None]) -> "ImagePart":
    """The first picture that can be decoded. Raises InputError for the first one where there is none."""
    from qwencli.media.image import decode_image

    trouble: InputError | None = None
    for file in files:
        try:
            return decode_image(_picture_at(file), notify)
        except InputError as error:
            trouble = trouble or error
    assert trouble is not None, "no file was named"
    raise trouble


def _numbered_files(spec: str) -> list[tuple[int, Path]]:
    path = Path(spec).expanduser()
    if not (match := _NUMBER.search(path.name)):  # a number in a folder's name is none of a frame
        return []
    digits = r"0|[1-9]\d*" if match[1] is None else rf"\d{{{int(match[1])},}}"
    suffix = f"(?i:{re.escape(path.name[match.end() :])})"  # cameras write .JPG
    name = re.compile(re.escape(path.name[: match.start()]) + f"({digits})" + suffix)
    try:
        found = [(int(m[1]), file) for file in path.parent.iterdir() if (m := name.fullmatch(file.name))]
    except OSError:
        return []
    return sorted(found)


def _picture_at(file: Path) -> Source:
    source = read_path(str(file))
    if not isinstance(source, Source) or source.kind.family != "image":
        raise InputError(f"{file}: is {source.kind.label} where a picture is meant.", path=str(file))
    return source
