"""Inputs as the parts of a message: the one place that knows every kind of input."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from qwen35.errors import InputError
from qwen35.messages import Part, Sampling, TextPart, VideoPart
from qwencli.media.fetch import fetch
from qwencli.media.kinds import VIDEO_SUFFIXES
from qwencli.media.numbered import is_numbered
from qwencli.media.source import (
    AnySource,
    FileSource,
    is_data_uri,
    is_url,
    local_path,
    read_data_uri,
    read_path,
)
from qwencli.media.stdin import NAME as STDIN_NAME
from qwencli.media.stdin import read_piped_stdin, read_stdin
from qwencli.media.text import decode_text
from qwencli.values import PageRanges

MAX_FOLDER_FILES = 100
_SHOWN_OF_URL = 40  # characters
_NAMED_IN_NOTE = 4  # skipped files that a note names one by one


@dataclass(frozen=True, slots=True)
class Attachment:
    """One input and what it adds to the message."""

    source: str
    type: str  # image, video, pdf or text
    sha256: str
    size_bytes: int
    parts: tuple[Part, ...]

    @property
    def has_pages(self) -> bool:
        """Whether --pages chooses among them: a PDF, or a TIFF of several."""
        return self.type == "pdf" or (self.type == "image" and len(self.parts) > 1)


@dataclass(frozen=True, slots=True)
class Attacher:
    """Reads inputs. `notify` gets one line for whatever a person should know of an input.

    `on_progress` gets what goes on, bytes done and in total (0: not told), and "bytes". `sampling`: what is
    to be seen of each clip.
    """

    pages: PageRanges | None
    notify: Callable[[str], None]
    on_progress: Callable[[str, int, int, Literal["bytes"]], None]
    sampling: Sampling = field(default=Sampling(), kw_only=True)

    def attach_all(self, specs: Sequence[str]) -> list[Attachment]:
        """What `specs` name, in order; without any, what was piped in. Raises InputError or NetworkError."""
        if specs:
            attachments = [attachment for spec in specs for attachment in self._attach(spec)]
        else:
            piped = read_piped_stdin(self.notify)
            attachments = [self.decode(piped)] if piped else []
        if self.pages and not any(attachment.has_pages for attachment in attachments):
            self.notify("--pages has no effect: no input has pages")
        if self._chooses_seconds and not any(attachment.type == "video" for attachment in attachments):
            self.notify("--fps, --frames, --start and --end have no effect: no input is a video")
        return attachments

    @property
    def _chooses_seconds(self) -> bool:
        chosen = self.sampling
        return any(value is not None for value in (chosen.fps, chosen.num_frames, chosen.start, chosen.end))

    def _attach(self, spec: str) -> list[Attachment]:
        """One attachment, or those of a folder."""
        if spec == "-":
            return [self.decode(read_stdin(self.notify))]
        if is_url(spec):
            label = f"fetching {spec[:_SHOWN_OF_URL]}"
            return [self.decode(fetch(spec, lambda done, all_: self.on_progress(label, done, all_, "bytes")))]
        if is_data_uri(spec):
            return [self.decode(read_data_uri(spec))]
        if is_numbered(spec):
            return [self._attach_numbered(spec)]
        folder = local_path(spec)
        if folder.is_dir():
            return self._attach_folder(spec, folder)
        self.on_progress(f"reading {spec[-_SHOWN_OF_URL:]}", 0, 0, "bytes")  # gigabytes, perhaps
        return [self.decode(read_path(spec))]

    def _attach_folder(self, spec: str, folder: Path) -> list[Attachment]:
        """The usable files directly in `folder`, by name; hidden files and folders do not count."""
        try:
            found = [path for path in folder.iterdir() if path.is_file() and path.name[0] != "."]
        except OSError as error:
            raise InputError(f"{spec}: cannot be read ({error.strerror}).", path=spec) from None
        files = sorted(found, key=_by_number)
        if len(files) > MAX_FOLDER_FILES:
            raise InputError(
                f"{spec}: holds {len(files)} files; at most {MAX_FOLDER_FILES} go into one question. Frames "
                f"of a video may be more: name them by a pattern, such as {folder / 'frame%04d.png'}.",
                path=spec,
            )
        taken, skipped = [], []
        for file in files:
            try:
                taken.append(self.decode(read_path(str(file))))
            except InputError as error:
                skipped.append(str(error))
        if not taken:
            raise InputError(
                f"{spec}: is a folder without a usable picture, video, PDF or text file.", path=spec
            )
        self.notify(_folder_note(spec, len(taken), skipped))
        return taken

    def _attach_numbered(self, spec: str) -> Attachment:
        from qwencli.media.numbered import open_numbered

        clip, size_bytes = open_numbered(spec, self.notify)
        return Attachment(spec, "video", clip.sha256, size_bytes, (VideoPart(clip, self.sampling),))

    def decode(self, source: AnySource) -> Attachment:
        """What the bytes of an input add to a message. Raises InputError for what cannot be decoded."""
        # Each decoder is imported when an input needs it: text needs neither Pillow nor PDFium.
        parts: tuple[Part, ...]
        if isinstance(source, FileSource):
            from qwencli.media.video import open_clip

            self.on_progress(f"looking through {source.name[-_SHOWN_OF_URL:]}", 0, 0, "bytes")
            parts = (VideoPart(open_clip(source, self.notify), self.sampling),)
        elif source.kind.family == "image":
            from qwencli.media.animation import open_animation
            from qwencli.media.image import decode_pages

            moving = open_animation(source, self.notify)
            if moving:
                parts = (VideoPart(moving, self.sampling),)
            else:
                parts = decode_pages(source, self.pages, self.notify)
        elif source.kind.family == "pdf":
            from qwencli.media.pdf import render_pages

            parts = render_pages(source, self.pages, self.notify)
        else:
            suffix = Path(source.name).suffix.lower()
            if suffix in VIDEO_SUFFIXES:
                raise InputError(
                    f"{source.name}: holds text, in spite of its name; a failed download, perhaps. Pass a "
                    "video, or give it the name of a text file.",
                    path=source.name,
                )
            if suffix in _NEVER_TEXT:
                self.notify(f"{source.name}: holds text, in spite of its name; a failed download, perhaps")
            text = decode_text(source.data, source.name, self.notify).rstrip("\r\n")
            # Piped text stands for itself; a file is told apart from its neighbours by its name.
            title = "" if source.name == STDIN_NAME else f"File {source.name}:\n\n"
            parts = (TextPart(f"{title}{text}\n\n"),)
        type = "video" if isinstance(parts[0], VideoPart) else source.kind.family
        return Attachment(source.name, type, source.sha256, source.size_bytes, parts)


# Names are not believed, but a web page saved under a picture's name is worth a word.
_NEVER_TEXT = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".pdf")


def _by_number(path: Path) -> list[tuple[str, int]]:
    """A key that sorts f2.png before f10.png."""
    words = re.split(r"([0-9]+)", path.name)
    return [*zip(words[::2], [*map(int, words[1::2]), 0], strict=True)]


def _folder_note(spec: str, num_taken: int, skipped: list[str]) -> str:
    note = f"{spec}: {num_taken} file{'s'[: num_taken != 1]} used"
    if skipped:
        reasons = " ".join(skipped[:_NAMED_IN_NOTE])
        rest = f" And {len(skipped) - _NAMED_IN_NOTE} more." if len(skipped) > _NAMED_IN_NOTE else ""
        note += f", {len(skipped)} skipped. {reasons}{rest}"
    return note
