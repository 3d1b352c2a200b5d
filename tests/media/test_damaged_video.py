"""Damaged clips are decoded in a process of their own: whatever they hold, it neither hangs nor crashes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.media.clips import counter, encode, opened

NUM_VARIANTS = 60
_DECODE = """
import random, sys
from pathlib import Path
from qwen35.errors import InputError
from qwencli.media.source import FileSource, read_path
from qwencli.media.video import open_clip

whole, path, num_variants = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]), int(sys.argv[3])
for seed in range(num_variants):
    chance = random.Random(seed)
    data = bytearray(whole)
    # Everywhere, or in the tables alone, which stand at the end.
    first = 0 if seed % 2 else len(data) * 3 // 4
    for _ in range(chance.choice([1, 4, 40])):
        data[chance.randrange(first, len(data))] = chance.randrange(256)
    path.write_bytes(data)
    try:
        source = read_path(str(path))
        if not isinstance(source, FileSource):
            raise InputError(f"{path}: is no video any more")
        clip = open_clip(source, lambda text: None)
        times = [clip.duration * part / 5 for part in range(6)]
        frames = list(clip.frames(times, (32, 64)))
        assert [frame.shape for frame in frames] == [(32, 64, 3)] * 6
        print("decoded")
    except InputError as error:
        assert str(path) in str(error), error
        print("refused")
"""


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_flipped_bytes_never_hang_or_crash(name: str, tmp_path: Path) -> None:
    path = encode(tmp_path / name, map(counter, range(30)), g="10", bf="2")
    words = [sys.executable, "-c", _DECODE, path, tmp_path / f"damaged{path.suffix}", str(NUM_VARIANTS)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = done.stdout.split()
    assert len(outcomes) == NUM_VARIANTS
    assert outcomes.count("decoded") > NUM_VARIANTS // 4
    assert done.stderr == ""


def test_a_stream_that_appears_at_the_end_of_a_damaged_file_changes_nothing() -> None:
    """PyAV stumbles over it when the file has ended: an IndexError."""
    clip = opened(Path(__file__).with_name("late_stream.flv"))
    assert clip.num_frames == 53
    assert len([*clip.frames([0.0, clip.duration], (32, 64))]) == 2
