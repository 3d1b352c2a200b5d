"""The checksum is the one defined, in whatever pieces, and finds what disks do to data."""

import numpy as np
import pytest

from qwen35.weights.checksum import BASE, Checksum, checksum

PAGE = 4096
PAGES = 600  # more than are weighed in one go


@pytest.fixture(scope="module")
def data() -> bytes:
    return np.random.default_rng(0).bytes(PAGES * PAGE)


def defined(data: bytes) -> str:
    """Word by word, in Python's own numbers."""
    data += bytes(-len(data) % 8)
    total = 0
    for word in reversed([data[i : i + 8] for i in range(0, len(data), 8)]):
        total = (total * BASE + int.from_bytes(word, "little")) % 2**64
    return f"{total:016x}"


@pytest.mark.parametrize("length", [0, 1, 8, 20, PAGE - 8, PAGE, PAGE + 4, 3 * PAGE + 17 * 8, PAGES * PAGE])
def test_it_is_the_defined_number(data: bytes, length: int) -> None:
    assert checksum(data[:length]) == defined(data[:length])
    assert checksum(memoryview(data)[:length]) == defined(data[:length])


@pytest.mark.parametrize("ends", [(0, 8), (8, 4096, 4104), (576, 1152, 300 * PAGE + 64), (599 * PAGE,)])
def test_pieces_give_the_same_as_the_whole(data: bytes, ends: tuple[int, ...]) -> None:
    own, begin = Checksum(), 0
    for end in (*ends, len(data)):
        own.update(data[begin:end])
        begin = end
    assert own.hexdigest() == checksum(data)


def test_every_flipped_bit_is_found(data: bytes) -> None:
    """Also in words of nothing but zeros or ones, and in the last, unfinished one."""
    for part in (data[: PAGE + 4], bytes(PAGE), b"\xff" * PAGE):
        expected = checksum(part)
        for position in (0, 1, 7, 8, 2047, 2048, PAGE - 1, len(part) - 1):
            for bit in range(8):
                flipped = bytearray(part)
                flipped[position] ^= 1 << bit
                assert checksum(bytes(flipped)) != expected, (position, bit)


@pytest.mark.parametrize("unit", [8, 64, 512, PAGE])
@pytest.mark.parametrize("apart", [1, 2, 64, 256, 512])
def test_what_changed_places_is_found(data: bytes, unit: int, apart: int) -> None:
    """Words, lines, sectors and pages; in tiles as they are packed, and in float32 that was bfloat16."""
    rounded = np.random.default_rng(1).standard_normal(len(data) // 4).astype("<f4").view("<u4")
    rounded &= np.uint32(0xFFFF0000)
    for whole in (data, rounded.tobytes()):
        swapped = bytearray(whole)
        other = apart * unit
        swapped[:unit], swapped[other : other + unit] = whole[other : other + unit], whole[:unit]
        assert checksum(bytes(swapped)) != checksum(whole)


@pytest.mark.parametrize("size", [512, PAGE])
@pytest.mark.parametrize("kind", ["zeros", "stale", "next", "all moved on"])
def test_pages_of_something_else_are_found(data: bytes, size: int, kind: str) -> None:
    begin, end = 5 * PAGE, 5 * PAGE + size
    other = {
        "zeros": bytes(size),
        "stale": np.random.default_rng(2).bytes(size),
        "next": data[end : end + size],
        "all moved on": data[begin - size : begin],
    }[kind]
    rest = data[begin:-size] if kind == "all moved on" else data[end:]
    assert checksum(data[:begin] + other + rest) != checksum(data)


def test_what_has_no_words_has_no_sum() -> None:
    assert Checksum().hexdigest() == checksum(b"") == checksum(bytes(24)) == "0" * 16
