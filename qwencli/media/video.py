"""Video files as clips, by PyAV: which frames there are, and those asked for, one at a time.

An open clip holds no decoder: each reading opens the file anew, seeks where frames are far apart, and
keeps no more than a few frames.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from qwen35.cores import num_cores
from qwen35.errors import InputError
from qwen35.processing.resize import resize_frame
from qwencli.media.frame_index import FrameIndex, read_index
from qwencli.media.source import FileSource
from qwencli.media.upright import Turn
from qwencli.media.watchdog import STALL_S, Beat, watched

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

# FFmpeg opens these alone, and files alone: a playlist would lead it elsewhere.
_FORMATS = (
    "mov,matroska,webm,avi,mpeg,mpegvideo,mpegts,flv,ogg,asf,ivf,mxf,h264,hevc,obu,rm,nut,m4v,dv,gif,apng"
)
_SEEK_FRAMES = 8  # a seek empties the decoder, whose threads are a few frames ahead
# Smaller frames are decoded in less time than it takes two threads to pass them on, above all after a seek.
_PIXELS_FOR_THREADS = 640 * 360
_MOST_READERS = 4  # of one clip


class VideoClip:
    """A `messages.Clip`. Mutable only in what it noted of frames that cannot be decoded."""

    def __init__(
        self, source: FileSource, stream: int, index: FrameIndex, turn: Turn, size: tuple[int, int]
    ) -> None:
        self.source = source.name
        self.height, self.width = size
        self.duration = index.timeline.duration
        self.fps = index.timeline.fps
        self.num_frames = index.timeline.num_frames
        self.starts = index.timeline.varying
        self.index = index
        self._file = source  # which may be a temporary one, and is there as long as this is
        self._stream = stream
        self._turn = turn
        self._bad: set[int] = set()

    @property
    def sha256(self) -> str:
        return self._file.sha256

    def frames(self, times: Sequence[float], size: tuple[int, int]) -> Iterator[np.ndarray]:
        """As `messages.Clip` has it."""
        wanted = [self.index.timeline.at(time) for time in times]
        if not wanted:
            return
        with ExitStack() as stack:
            # Resized on this side of the threads, while those decode on.
            reader_of: dict[int, Iterator[tuple[int, np.ndarray | None]]] = {}
            for share in self._shares(sorted({*wanted})):
                read = stack.enter_context(closing(watched(self.source, partial(self._read, share))))
                reader_of |= dict.fromkeys(share, read)
            last_number, picture = -1, None
            num_owed = 0  # pictures asked for before there was a good one
            for number, same in groupby(wanted):
                found, pixels = next(reader_of[number])
                if found != number:
                    self._bad.add(number)
                if pixels is not None and found > last_number:  # else the last good one stands in place
                    last_number, picture = found, self._resized(pixels, size)
                num_owed += len(list(same))
                if picture is not None:
                    yield from [picture] * num_owed
                    num_owed = 0
            if num_owed:
                later = self._later(dict.fromkeys(reader_of.values()))
                yield from [self._resized(later, size)] * num_owed

    def _shares(self, wanted: Sequence[int]) -> list[list[int]]:
        """Frames that are decoded one after another, in a thread each: of small ones far apart.

        Decoders of larger ones have threads of their own.
        """
        keys = np.searchsorted(self.index.keys, wanted, side="right")
        seeks = np.unique(keys, return_inverse=True)[1]  # one for each key frame to begin from
        is_far_apart = self.index.stamps is not None and len(wanted) < 2 * (seeks[-1] + 1)
        is_large = self.height * self.width > _PIXELS_FOR_THREADS
        count = min(num_cores(), _MOST_READERS) if is_far_apart and not is_large else 1
        shares: list[list[int]] = [[] for _ in range(count)]
        for number, seek in zip(wanted, seeks.tolist(), strict=True):
            shares[seek % count].append(number)
        return [share for share in shares if share]

    def _later(self, reads: Iterable[Iterator[tuple[int, np.ndarray | None]]]) -> np.ndarray:
        """Any good frame, where all that were asked for are bad, which `reads` yield then."""
        for read in reads:
            for _, pixels in read:
                if pixels is not None:
                    return pixels
        raise _undecodable(self.source)

    def notes(self) -> tuple[str, ...]:
        if not self._bad:
            return ()
        which = "1 frame" if len(self._bad) == 1 else f"{len(self._bad)} frames"
        return (f"{self.source}: {which} cannot be decoded; the last good one stands in place",)

    def _read(self, wanted: Sequence[int], beat: Beat) -> Iterator[tuple[int, np.ndarray | None]]:
        """The frames `wanted`, as they are coded, with their numbers.

        Where one is bad the last good one, or none; where all are bad one more, from behind them.
        """
        with open_container(self._file) as container:
            reader = _Reader(container, self._stream, self.index, frozenset(wanted), beat)
            for number in wanted:
                found, frame = reader.read(number)
                yield found, None if frame is None else _pixels(frame)
            if found < 0 and (frame := reader.next_good()) is not None:
                yield -1, _pixels(frame)

    def _resized(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Upright, and of that (height, width)."""
        turn = self._turn
        return turn.apply(resize_frame(pixels, turn.turned(size), columns_first=turn.is_transposed))


class _Reader:
    """Mutable: where the decoder stands in its file. Numbers are those of the index, asked for in order."""

    def __init__(
        self,
        container: "InputContainer",
        stream: int,
        index: FrameIndex,
        wanted: frozenset[int],
        beat: Beat,
    ) -> None:
        self._container = container
        self._stream: VideoStream = container.streams[stream]  # type: ignore[assignment]
        is_large = self._stream.codec_context.height * self._stream.codec_context.width > _PIXELS_FOR_THREADS
        self._stream.thread_type = "AUTO" if is_large else "NONE"
        self._index = index
        self._wanted = {int(index.stamps[number]) for number in wanted} if index.stamps is not None else None
        self._beat = beat
        self._seeks_by: int | None = 0  # which of a key frame's places to seek by; None: no more
        self._frames = self._decode()
        self._last: VideoFrame | None = None  # the last good one that was decoded
        self._last_number = -1
        self._ahead: tuple[int, VideoFrame] | None = None  # decoded already, for a later question

    def read(self, number: int) -> "tuple[int, VideoFrame | None]":
        """The frame of that number; or the last good one before it and its number; or -1 and None."""
        self._seek(number)
        while self._step(number) and self._last_number < number:
            pass
        return self._last_number, self._last

    def next_good(self) -> "VideoFrame | None":
        """Any frame later than all that were read."""
        if self._ahead is None:
            self._step(self._index.timeline.num_frames)
            return self._last
        return self._ahead[1]

    def _step(self, number: int) -> bool:
        """One frame further, but not beyond `number`; whether there was one."""
        if self._last_number >= number:
            return False
        found = self._ahead or next(self._frames, None)
        self._ahead = None
        if found is None:
            return False
        if found[0] > number:
            self._ahead = found
            return False
        self._last_number, self._last = found
        return True

    def _seek(self, number: int) -> None:
        """To the last key frame before `number`, where that leaves out more than it costs."""
        key = self._index.key_before(number)
        position = self._ahead[0] if self._ahead else self._last_number
        if self._seeks_by is None or key is None or key[0] <= position + _SEEK_FRAMES:
            return
        for way in range(self._seeks_by, 2):
            self._seeks_by = way
            self._go_to(key[1][way])
            self._ahead = next(self._frames, None)
            if self._ahead is not None and self._ahead[0] <= number and self._is_key(self._ahead[0]):
                return
        # This container leads astray. Then from the beginning, and never again.
        self._seeks_by, self._ahead = None, None
        self._go_to(int(self._index.key_places[0].min()))

    def _is_key(self, number: int) -> bool:
        """Whether that can be the first frame after a seek.

        MPEG program streams give the first one of a pack another time stamp then.
        """
        return self._container.format.name != "mpeg" or bool(np.isin(number, self._index.keys))

    def _go_to(self, place: int) -> None:
        import av

        self._frames.close()
        # Where it fails, the decoder stays where it is, and what comes next tells.
        with suppress(av.error.FFmpegError, OSError):
            self._container.seek(place, stream=self._stream, backward=True)
        self._frames = self._decode()

    def _decode(self) -> "Generator[tuple[int, VideoFrame]]":
        """The good frames from here on, with their numbers."""
        import av

        decoder, stamps = self._stream.codec_context, self._index.stamps
        # Of H.264, frames on which no others depend are left out unless they are asked for.
        leaves_out = decoder.name == "h264" and stamps is not None
        number = -1
        packets = self._container.demux(self._stream)
        while True:
            self._beat()
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                if leaves_out:
                    is_wanted = self._wanted is None or packet.pts in self._wanted or packet.size == 0
                    decoder.skip_frame = "DEFAULT" if is_wanted else "NONREF"
                decoded = decoder.decode(packet if packet.size else None)
            except (EOFError, IndexError):  # the latter at the end, of streams that came late
                return
            except av.error.FFmpegError:
                if packet is None or packet.size == 0:
                    return
                number += 1  # of files whose frames are counted: this one is missing
                continue
            for frame in decoded:
                number = number + 1 if stamps is None else self._number_of(frame, number)
                if not frame.is_corrupt:
                    yield number, frame

    def _number_of(self, frame: "VideoFrame", last: int) -> int:
        return last + 1 if frame.pts is None else self._index.number_of(frame.pts)


def _pixels(frame: "VideoFrame") -> np.ndarray:
    """(height, width, 3) uint8 RGB, transparency on white."""
    if not any(component.is_alpha for component in frame.format.components):
        return frame.to_ndarray(format="rgb24")
    pixels = frame.to_ndarray(format="rgba").astype(np.uint16)
    alpha = pixels[:, :, 3:]
    return ((pixels[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _undecodable(name: str) -> InputError:
    return InputError(f"{name}: no frame of it can be decoded. Convert or download it again.", path=name)


def _display_matrix(frame: "VideoFrame") -> bytes | None:
    """As the container has it: how the frame is to be turned."""
    found = frame.side_data.get("DISPLAYMATRIX")
    return None if found is None else bytes(found)  # type: ignore[call-overload]


def open_container(source: FileSource) -> Any:
    """Raises InputError for what is no video, or a damaged one."""
    import av

    try:
        return av.open(
            str(source.path),
            metadata_errors="ignore",
            timeout=STALL_S,
            options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"},
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{source.name}: looks like {source.kind.label}, but cannot be opened ({reason}): damaged, or "
            "cut off. Download or convert it again.",
            path=source.name,
        ) from None


def open_clip(source: FileSource, notify: Callable[[str], None]) -> VideoClip:
    """What there is to know of a video before its frames are asked for: a pass through its packets.

    The first good frame is decoded. Raises InputError for a file without pictures, and a damaged one.
    """

    def produce(beat: Beat) -> Iterator[VideoClip]:
        with open_container(source) as container:
            stream = _video_stream(container, source)
            index = read_index(container, container.streams[stream], beat)
        if index is None:
            raise InputError(
                f"{source.name}: holds no frames: empty, damaged, or cut off. Download it again.",
                path=source.name,
            )
        yield _with_first_frame(source, stream, index, beat)

    (clip,) = watched(source.name, produce)
    if num_missing := clip.index.num_missing:
        promised = clip.num_frames + num_missing
        notify(
            f"{source.name}: is damaged or cut off: {clip.num_frames:,} of {promised:,} frames are there "
            f"({clip.duration:.1f} s)"
        )
    return clip


def _video_stream(container: "InputContainer", source: FileSource) -> int:
    """The index of the stream that moves: not the picture on a sound file's cover."""
    from av.stream import Disposition

    moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not moving:
        found = sorted({stream.type for stream in container.streams if stream.type != "video"})
        told = " and ".join(found) + " only" if found else "nothing"
        raise InputError(
            f"{source.name}: no video stream (found: {told}). Pass a file that holds pictures.",
            path=source.name,
        )
    best = next((s for s in moving if s.disposition & Disposition.default), moving[0])
    if best.codec_context is None or not best.codec_context.codec:
        raise InputError(
            f"{source.name}: there is no decoder for its pictures. Convert it to H.264.", path=source.name
        )
    return int(best.index)


def _with_first_frame(source: FileSource, stream: int, index: FrameIndex, beat: Beat) -> VideoClip:
    with open_container(source) as container:
        frame = _Reader(container, stream, index, frozenset([0]), beat).next_good()
        if frame is None:
            raise _undecodable(source.name)
        turn = Turn.from_matrix(_display_matrix(frame))
        shape = container.streams[stream].sample_aspect_ratio or 1  # of a pixel: width to height
        size = turn.turned((frame.height, max(1, round(frame.width * shape))))
    return VideoClip(source, stream, index, turn, size)
