"""Which frames a video file holds, told from its packets without decoding one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from qwencli.media.timeline import Timeline
from qwencli.media.watchdog import Beat

if TYPE_CHECKING:
    from av import Packet
    from av.container import InputContainer
    from av.video.stream import VideoStream

_CHECKED_PACKETS = 64
# AVINDEX_KEYFRAME, and AVINDEX_DISCARD_FRAME: before an edit list's beginning.
_KEY, _HIDDEN = 1, 2
_FALLBACK_FPS = 25.0  # of a bare stream that tells nothing


@dataclass(frozen=True, slots=True, eq=False)
class FrameIndex:
    """`stamps` (F,) int64: the decoder's time stamps, ascending.

    None where the file has none, or wrong ones: its frames are counted from the first one on, and nothing
    can be sought.
    """

    timeline: Timeline
    stamps: np.ndarray | None
    keys: np.ndarray  # (K,) int64, numbers of the key frames, ascending
    key_places: (
        np.ndarray
    )  # (K, 2) int64: their time stamps, and those of decoding; containers seek by either
    num_missing: int  # frames that the container promises and does not hold

    def key_before(self, number: int) -> tuple[int, list[int]] | None:
        """The last key frame not after frame `number`, and its two places; None without one."""
        key = int(np.searchsorted(self.keys, number, side="right")) - 1
        return None if key < 0 else (int(self.keys[key]), self.key_places[key].tolist())

    def number_of(self, stamp: int) -> int:
        """The number of the frame of that time stamp. Not for files without."""
        assert self.stamps is not None
        return int(np.searchsorted(self.stamps, stamp, side="right")) - 1


def read_index(container: "InputContainer", stream: "VideoStream", beat: Beat) -> FrameIndex | None:
    """All frames of `stream`, to the end or to what is damaged; None where there is none.

    Told by its packets, or by the container's own table where that is enough.
    """
    shown: list[tuple[int | None, int | None, bool]] = []
    num_packets = last_duration = 0
    last_stamp: int | None = None
    is_vp8 = stream.codec_context.name == "vp8"
    packets = _packets(container, stream, beat)
    first = [*islice(packets, _CHECKED_PACKETS)]
    if (table := _table_of(container, stream, first)) is not None:
        return table
    for packet in chain(first, packets):
        if packet.size == 0:
            continue
        num_packets += 1
        # Packets before an edit list's beginning are decoded, but not shown.
        if packet.is_discard or (is_vp8 and not _is_shown_vp8(packet)):
            continue
        shown.append((packet.pts, packet.dts, packet.is_keyframe))
        if packet.pts is not None and (last_stamp is None or packet.pts >= last_stamp):
            last_stamp, last_duration = packet.pts, packet.duration or 0
    if not shown:
        return None
    # Other containers count fields, or guess.
    promised = stream.frames if container.format.name.startswith("mov") else 0
    num_missing = max(0, promised - num_packets)
    unit = float(stream.time_base or 0)
    if _has_stamps(container, stream, shown) and unit:
        return _by_stamps(shown, last_duration, unit, num_missing)
    seconds = 0.0 if _begins_anew(shown) else float((stream.duration or 0) * unit)
    rate = len(shown) / seconds if seconds else float(stream.average_rate or _FALLBACK_FPS)
    timeline = Timeline(np.arange(len(shown)) / rate, len(shown) / rate)
    return FrameIndex(timeline, None, np.zeros(0, np.int64), np.zeros((0, 2), np.int64), num_missing)


def _packets(container: "InputContainer", stream: "VideoStream", beat: Beat) -> "Iterator[Packet]":
    """To the end, or to what is damaged."""
    import av

    try:
        for packet in container.demux(stream):
            beat()
            yield packet
    except (av.error.FFmpegError, EOFError, IndexError):  # the last one at the end, of streams that came late
        return


def _table_of(container: "InputContainer", stream: "VideoStream", first: "list[Packet]") -> FrameIndex | None:
    """The index by the table that MP4 has of its frames, which spares the reading of them all.

    It tells when frames are decoded: None where that is not when they are shown, or where the table does not
    agree with the `first` packets or with the length of the file.
    """
    if not container.format.name.startswith("mov") or stream.codec_context.has_b_frames:
        return None
    entries = stream.index_entries
    if len(entries) < _CHECKED_PACKETS or len(entries) != stream.frames:  # fragments come without
        return None
    told_of_each = map(attrgetter("timestamp", "flags"), entries)
    stamps, flags = np.fromiter(told_of_each, np.dtype((np.int64, 2)), len(entries)).T
    # A file that was cut off lacks its last frames: others are looked at here and there.
    looked_at = {
        *range(0, len(entries), _CHECKED_PACKETS),
        *range(len(entries) - _CHECKED_PACKETS, len(entries)),
    }
    ends_at = max(entries[number].pos + entries[number].size for number in looked_at)
    if (flags & _HIDDEN).any() or (np.diff(stamps) <= 0).any() or ends_at > container.size:
        return None
    for packet, stamp in zip(first, stamps.tolist(), strict=False):
        if not packet.pts == packet.dts == stamp or packet.is_discard:
            return None
    unit, keys = float(stream.time_base or 0), np.flatnonzero(flags & _KEY)
    starts = (stamps - stamps[0]) * unit
    gap = float(starts[-1]) / (len(starts) - 1)
    told = float((stream.duration or 0) * unit) - float(starts[-1])  # of the last frame
    timeline = Timeline(starts, float(starts[-1]) + (told if told > 0 else gap))
    places = np.stack([stamps[keys]] * 2, axis=1)
    return FrameIndex(timeline, np.ascontiguousarray(stamps), keys, places, 0)


def _has_stamps(
    container: "InputContainer", stream: "VideoStream", shown: Sequence[tuple[int | None, int | None, bool]]
) -> bool:
    """Whether the packets tell when their frames are shown.

    AVI knows the order of decoding alone: what it tells of reordered frames is a guess, and wrong.
    """
    if "avi" in container.format.name.split(",") and stream.codec_context.has_b_frames:
        return False
    return all(pts is not None for pts, _, _ in shown) and not _begins_anew(shown)


def _begins_anew(shown: Sequence[tuple[int | None, int | None, bool]]) -> bool:
    """Whether time goes back: files that were put one behind the other, whose frames would be mixed."""
    dts = [dts for _, dts, _ in shown if dts is not None]
    return any(later < sooner for sooner, later in pairwise(dts))


def _by_stamps(
    shown: Sequence[tuple[int | None, int | None, bool]], last_duration: int, unit: float, num_missing: int
) -> FrameIndex:
    stamps = np.unique(np.array([pts for pts, _, _ in shown], np.int64))
    starts = (stamps - stamps[0]) * unit
    gap = float(starts[-1]) / (len(starts) - 1) if len(starts) > 1 else 1 / _FALLBACK_FPS
    timeline = Timeline(starts, float(starts[-1]) + (last_duration * unit or gap))
    keys = sorted((pts, pts if dts is None else dts) for pts, dts, is_key in shown if is_key)
    return FrameIndex(
        timeline,
        stamps,
        np.searchsorted(stamps, np.array([pts for pts, _ in keys], np.int64)),
        np.array(keys, np.int64).reshape(-1, 2),
        num_missing,
    )


def _is_shown_vp8(packet: "Packet") -> bool:
    """VP8 hides reference frames among the others; a bit of the first byte tells (RFC 6386, 9.1)."""
    return bool(memoryview(packet)[0] & 0x10)
