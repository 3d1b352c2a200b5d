"""Clips that PyAV itself has written: which frames are shown, and when."""

import threading
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import av
import numpy as np
import pytest

from qwen35.errors import InputError
from qwen35.processing.resize import resize_frame
from qwencli.media.frame_index import FrameIndex, _table_of, read_index
from qwencli.media.timeline import Timeline
from qwencli.media.upright import Turn
from qwencli.media.watchdog import watched as watched_work
from tests.media.clips import COLOURS, all_times, colours_of, counter, encode, number_of, numbers, opened


@pytest.fixture(scope="module", params=["3", "0"], ids=["B-frames", "no B-frames"])
def clip_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 frames at 25 a second, a key frame each 50. Without B-frames its table alone is read first."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    return encode(path, map(counter, range(200)), g="50", bf=request.param)


def test_what_is_known_before_decoding(clip_file: Path) -> None:
    clip = opened(clip_file)
    assert (clip.height, clip.width, clip.num_frames) == (96, 160, 200)
    assert (clip.duration, clip.fps) == pytest.approx((8.0, 25.0))
    assert clip.source == str(clip_file)
    assert len(clip.sha256) == 64


def test_every_frame_is_the_one_asked_for(clip_file: Path) -> None:
    clip = opened(clip_file)
    assert numbers(clip, all_times(clip)) == list(range(200))
    assert clip.notes() == ()


def test_the_frame_that_is_shown_at_a_time_lasts_until_the_next(clip_file: Path) -> None:
    times = [0.0, 0.03, 0.0399999, 0.04, 0.07, 4.0, 4.03, 7.999, 60.0]
    assert numbers(opened(clip_file), times) == [0, 0, 1, 1, 1, 100, 100, 199, 199]


@pytest.mark.parametrize("num_cores", [1, 3])
def test_sparse_frames_are_those_of_a_dense_reading(
    clip_file: Path, num_cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many of them are decoded at once."""
    monkeypatch.setattr("qwencli.media.video.num_cores", lambda: num_cores)
    clip = opened(clip_file)
    dense = list(clip.frames(all_times(clip), (48, 80)))
    for places in ([], [0, 199], [3, 51, 52, 149, 150], [49, 99, 198], [120], [10, 10, 60, 60]):
        sparse = list(clip.frames([place / 25 for place in places], (48, 80)))
        for place, frame in zip(places, sparse, strict=True):
            np.testing.assert_array_equal(frame, dense[place])


def test_distant_frames_are_decoded_at_once_and_none_twice(
    clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that follow one key frame by one reader; near ones by a single one."""
    monkeypatch.setattr("qwencli.media.video.num_cores", lambda: 3)
    clip = opened(clip_file)
    clip.index = watched = Watched(**{name: getattr(clip.index, name) for name in clip.index.__slots__})
    readers: list[str] = []

    def counted(name: str, produce: Any) -> Any:
        readers.append(name)
        return watched_work(name, produce)

    monkeypatch.setattr("qwencli.media.video.watched", counted)
    keys = watched.keys.tolist()
    assert len(keys) > 3
    for wanted, num_readers in (([*keys[:2], keys[1] + 10, *keys[2:]], 3), (range(0, 200, 5), 1)):
        watched.decoded.clear()
        readers.clear()
        assert numbers(clip, [number / 25 for number in wanted]) == [*wanted]
        assert len(readers) == num_readers
        assert len(watched.decoded) == len({*watched.decoded})


def test_distant_frames_are_sought(clip_file: Path) -> None:
    clip = opened(clip_file)
    clip.index = watched = Watched(**{name: getattr(clip.index, name) for name in clip.index.__slots__})
    watched.decoded.clear()
    assert numbers(clip, [0.0, 7.0]) == [0, 175]
    assert not [number for number in watched.decoded if 20 < number < 150]


class Watched(FrameIndex):
    """Tells which frames the decoder gave."""

    decoded: ClassVar[list[int]] = []

    def number_of(self, stamp: int) -> int:
        self.decoded.append(super().number_of(stamp))
        return self.decoded[-1]


def test_colours_are_those_that_were_encoded(clip_file: Path) -> None:
    (frame,) = opened(clip_file).frames([1.0], (96, 160))
    np.testing.assert_allclose(colours_of(frame), COLOURS, atol=5)


def test_frames_are_resized_as_the_model_expects_it(clip_file: Path) -> None:
    clip = opened(clip_file)
    (whole,) = clip.frames([2.0], (96, 160))
    (small,) = clip.frames([2.0], (64, 160))
    np.testing.assert_array_equal(small, resize_frame(whole, (64, 160)))
    assert small.flags.c_contiguous


def test_a_clip_can_be_read_again_and_by_two_at_once(clip_file: Path) -> None:
    clip = opened(clip_file)
    first, second = clip.frames(all_times(clip), (48, 80)), clip.frames([4.0, 5.0], (48, 80))
    assert number_of(next(first)) == 0
    assert [number_of(frame) for frame in second] == [100, 125]
    assert number_of(next(first)) == 1


def test_a_reading_that_is_given_up_leaves_no_thread(clip_file: Path) -> None:
    frames = opened(clip_file).frames([0.0, 4.0, 7.0], (48, 80))
    next(frames)
    frames.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name == "decoder"]


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg"])
def test_other_codecs(codec: str, tmp_path: Path) -> None:
    clip = opened(encode(tmp_path / "clip.mkv", map(counter, range(40)), codec=codec))
    assert numbers(clip, all_times(clip)) == list(range(40))
    assert numbers(clip, [0.4, 1.4]) == [10, 35]


def test_frames_are_chosen_by_time_where_the_rate_varies(tmp_path: Path) -> None:
    stamps = [0, 1, 2, 3, 50, 51, 52, 125, 126]
    clip = opened(encode(tmp_path / "clip.mp4", map(counter, range(9)), stamps=stamps, bf="2"))
    assert clip.num_frames == 9
    assert clip.duration == pytest.approx(127 / 25, abs=0.05)
    assert numbers(clip, [0.0, 0.13, 1.0, 1.96, 2.0, 2.2, 4.9, 5.0]) == [0, 3, 3, 3, 4, 6, 6, 7]
    assert clip.starts is not None
    np.testing.assert_allclose(clip.starts, np.array(stamps) / 25, atol=1e-6)
    assert numbers(clip, clip.starts.tolist()) == list(range(9))


def test_rounded_time_stamps_are_those_of_a_constant_rate(tmp_path: Path) -> None:
    clip = opened(encode(tmp_path / "clip.mkv", map(counter, range(100)), fps=30))  # in milliseconds
    assert clip.starts is None
    assert numbers(clip, all_times(clip)) == list(range(100))


def test_frames_that_follow_each_other_at_once_are_told_apart() -> None:
    times = Timeline(np.array([0.0, 0.001, 0.002, 1.0, 2.0]), 3.0)
    assert [times.at(time) for time in (0.0, 0.001, 0.002, 0.998, 1.0, 2.5)] == [0, 1, 2, 3, 3, 4]


def test_a_clip_of_three_hours(tmp_path: Path) -> None:
    frames = (counter(number % 256) for number in range(540))  # one in twenty seconds
    stamps = range(0, 540 * 500, 500)
    clip = opened(encode(tmp_path / "clip.mp4", frames, stamps=stamps, g="50", preset="ultrafast"))
    assert (clip.num_frames, clip.duration) == (540, pytest.approx(3 * 3600, abs=20))
    clip.index = watched = Watched(**{name: getattr(clip.index, name) for name in clip.index.__slots__})
    watched.decoded.clear()
    assert numbers(clip, [0.0, 5405.0, 10_799.0]) == [0, 270 % 256, 539 % 256]
    assert len(watched.decoded) < 110


def test_a_clip_of_one_frame(tmp_path: Path) -> None:
    clip = opened(encode(tmp_path / "clip.mp4", [counter(77)]))
    assert (clip.num_frames, clip.duration > 0) == (1, True)
    assert numbers(clip, [0.0, 3.0]) == [77, 77]


@pytest.mark.parametrize(("height", "width"), [(98, 162), (270, 482), (64, 1024)])
def test_sizes_that_are_no_multiple_of_a_block(height: int, width: int, tmp_path: Path) -> None:
    frames = (counter(number, height, width) for number in range(12))
    clip = opened(encode(tmp_path / "clip.mp4", frames))
    assert (clip.height, clip.width) == (height, width)
    assert numbers(clip, all_times(clip), (height, width)) == list(range(12))


def test_a_file_that_ends_early_tells_how_much_is_there(clip_file: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.mp4"
    with (
        av.open(str(clip_file)) as source,
        av.open(str(whole), "w", options={"movflags": "faststart"}) as sink,
    ):
        stream = sink.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                sink.mux(packet)
    data = whole.read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: len(data) * 6 // 10])
    notes: list[str] = []
    clip = opened(path, notes)
    assert 20 < clip.num_frames < 200
    assert notes == [
        f"{path}: is damaged or cut off: {clip.num_frames} of 200 frames are there ({clip.duration:.1f} s)"
    ]
    found = numbers(clip, clip.index.timeline.starts.tolist())
    assert found[:-5] == list(range(clip.num_frames))[:-5]  # the last ones may refer to what is cut off


def test_frames_that_cannot_be_decoded_are_replaced_by_the_last_good_one(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mkv", map(counter, range(30)), codec="mjpeg")
    data = bytearray(path.read_bytes())
    starts = [place for place in range(len(data)) if data[place : place + 3] == b"\xff\xd8\xff"]
    for number in (10, 11):  # its headers are what a JPEG cannot do without
        data[starts[number] : starts[number] + 700] = bytes(700)
    path.write_bytes(data)
    clip = opened(path)
    assert numbers(clip, [place / 25 for place in range(8, 14)]) == [8, 9, 9, 9, 12, 13]
    assert clip.notes() == (f"{path}: 2 frames cannot be decoded; the last good one stands in place",)
    assert numbers(clip, [10 / 25, 12 / 25]) == [9, 12] or numbers(clip, [10 / 25, 12 / 25]) == [12, 12]


def test_among_distant_frames_the_last_good_one_stands_for_a_bad_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though they are decoded at once, and the good one by another decoder."""
    monkeypatch.setattr("qwencli.media.video.num_cores", lambda: 2)
    path = encode(tmp_path / "clip.mkv", map(counter, range(60)), codec="mjpeg")
    data = bytearray(path.read_bytes())
    starts = [place for place in range(len(data)) if data[place : place + 3] == b"\xff\xd8\xff"]
    for number in (15, 45):
        data[starts[number] : starts[number] + 700] = bytes(700)
    path.write_bytes(data)
    clip = opened(path)
    assert numbers(clip, [place / 25 for place in (0, 15, 30, 45)]) == [0, 14, 30, 44]
    assert clip.notes() == (f"{path}: 2 frames cannot be decoded; the last good one stands in place",)
    assert numbers(clip, [place / 25 for place in (15, 30, 45)]) == [14, 30, 44]


def test_before_the_first_good_frame_the_next_one_stands(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mkv", map(counter, range(20)), codec="mjpeg")
    data = bytearray(path.read_bytes())
    start = data.find(b"\xff\xd8\xff")
    data[start : start + 700] = bytes(700)
    path.write_bytes(data)
    clip = opened(path)
    assert numbers(clip, [0.0, 0.04, 0.08]) == [1, 1, 2]
    assert numbers(clip, [0.0]) == [1]
    assert len(clip.notes()) == 1


def test_a_clip_without_one_good_frame_is_refused(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mkv", map(counter, range(10)), codec="mjpeg")
    data = bytearray(path.read_bytes())
    for start in [place for place in range(len(data)) if data[place : place + 3] == b"\xff\xd8\xff"]:
        data[start : start + 700] = bytes(700)
    path.write_bytes(data)
    with pytest.raises(InputError, match="no frame of it can be decoded"):
        opened(path)


def test_sound_alone_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), "fltp", "mono")
        silence.sample_rate = 44100
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    with pytest.raises(InputError) as caught:
        opened(path)
    assert (
        str(caught.value) == f"{path}: no video stream (found: audio only). Pass a file that holds pictures."
    )


def test_a_file_without_its_table_is_refused(clip_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(clip_file.read_bytes()[:-2000])  # the table stands at the end
    with pytest.raises(InputError, match=r"looks like an MP4 .* cannot be opened .* cut off"):
        opened(path)
    path.write_bytes(clip_file.read_bytes()[:64])
    with pytest.raises(InputError, match=r"cut off"):
        opened(path)


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((1, 0, 0, 1), Turn()),
        ((0, 1, -1, 0), Turn(True, is_mirrored=True)),
        ((-1, 0, 0, -1), Turn(False, True, True)),
        ((0, -1, 1, 0), Turn(True, is_flipped=True)),
        ((-1, 0, 0, 1), Turn(False, is_mirrored=True)),
    ],
)
def test_a_display_matrix_turns_by_quarters(matrix: tuple[int, int, int, int], turn: Turn) -> None:
    a, b, c, d = (number << 16 for number in matrix)
    numbers = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], "<i4")
    assert Turn.from_matrix(numbers.tobytes()) == turn
    # A pixel right of the middle goes where the matrix sends (1, 0).
    pixels = np.zeros((3, 3, 3), np.uint8)
    pixels[1, 2] = 1
    x, y = matrix[:2]
    assert turn.apply(pixels)[1 + y, 1 + x, 0] == 1


def test_without_a_matrix_nothing_is_turned() -> None:
    assert Turn.from_matrix(None) == Turn() == Turn.from_matrix(b"short")


def test_the_table_of_an_mp4_tells_what_its_packets_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encode(tmp_path / "clip.mp4", map(counter, range(200)), g="50", bf="0")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        table = _table_of(container, stream, list(islice(container.demux(stream), 64)))
    monkeypatch.setattr("qwencli.media.frame_index._table_of", lambda *_: None)
    with av.open(str(path)) as container:
        packets = read_index(container, container.streams.video[0], lambda: None)
    assert table is not None
    assert packets is not None
    assert table.stamps is not None
    assert np.array_equal(table.stamps, packets.stamps)
    assert table.keys.tolist() == packets.keys.tolist() == [0, 50, 100, 150]
    assert np.allclose(table.timeline.starts, packets.timeline.starts)
