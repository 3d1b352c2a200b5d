"""Keys are equal where, and only where, what they stand for is equal."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen35.cache.keys import Medium, media_of, prefix_keys
from qwen35.processing.processor import MediaSpan, ModelInput

PAD = 9  # the placeholder's id, which text may hold as well


@dataclass(frozen=True)
class Shown:
    """A picture: what it shows, and its number of tokens."""

    key: bytes
    length: int


Piece = int | Shown
pieces = st.one_of(
    st.sampled_from([0, 1, PAD]),
    st.builds(Shown, st.sampled_from([b"a" * 32, b"b" * 32]), st.integers(1, 3)),
)
prompts = st.lists(pieces, max_size=6)


def laid_out(prompt: list[Piece]) -> tuple[np.ndarray, list[Medium], dict[int, tuple[Piece, ...]]]:
    """Ids, pictures, and what stands before each length that is not within a picture."""
    ids: list[int] = []
    media, meanings = [], {}
    for number, piece in enumerate(prompt):
        if isinstance(piece, Shown):
            media.append(Medium(len(ids), len(ids) + piece.length, piece.key))
            ids += [PAD] * piece.length
        else:
            ids.append(piece)
        meanings[len(ids)] = tuple(prompt[: number + 1])
    return np.array(ids, np.int64), media, meanings


@settings(deadline=None, max_examples=300)
@given(prompts, prompts, st.sampled_from(["m", "n"]), st.integers(0, 6))
def test_keys_are_equal_where_model_and_prefix_are(
    one: list[Piece], other: list[Piece], model: str, num_shared: int
) -> None:
    told: dict[tuple[str, tuple[Piece, ...]], str] = {}
    for name, prompt in (("m", one), (model, one[:num_shared] + other)):
        ids, media, meanings = laid_out(prompt)
        keys = prefix_keys(name, ids, media, range(len(ids) + 3))
        assert keys.keys() == meanings.keys()  # none of length 0, within a picture, or beyond the end
        for length, key in keys.items():
            assert told.setdefault((name, meanings[length]), key) == key
            assert prefix_keys(name, ids, media, [length]) == {length: key}  # whatever else is asked
    assert len(set(told.values())) == len(told)


def prompt_of(pixels: np.ndarray, grids: list[tuple[int, int, int]]) -> ModelInput:
    lengths = [t * h * w // 4 for t, h, w in grids]
    starts = [1 + sum(lengths[:n]) + n for n in range(len(grids))]
    size = sum(lengths) + len(grids) + 1
    spans = [
        MediaSpan(start, length, grid, "", "x.png", (1, 1), (1, 1))
        for start, length, grid in zip(starts, lengths, grids, strict=True)
    ]
    return ModelInput(
        "", np.zeros(size, np.int64), np.zeros((3, size), np.int64), 0, pixels, np.array(grids), tuple(spans),
        (), False,
    )  # fmt: skip


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((24, 6), np.float32)


def test_a_picture_goes_by_every_value_and_its_shape(pixels: np.ndarray) -> None:
    two = [(1, 2, 4), (1, 4, 4)]
    first, second = media_of(prompt_of(pixels, two))
    assert (first.start, first.end, second.start, second.end) == (1, 3, 4, 8)
    assert first.key != second.key
    turned = media_of(prompt_of(pixels, [(1, 4, 2), (1, 4, 4)]))
    assert (turned[0].key == first.key, turned[1].key) == (False, second.key)
    for place in (0, 7):
        changed = pixels.copy()
        changed[place, -1] = np.nextafter(changed[place, -1], np.float32(9))
        assert media_of(prompt_of(changed, two))[0].key != first.key
        assert media_of(prompt_of(changed, two))[1].key == second.key


def test_a_picture_is_the_same_wherever_it_stands(pixels: np.ndarray) -> None:
    twice = np.concatenate([pixels[:8], pixels[:8], pixels[8:]])
    one, same, other = media_of(prompt_of(twice, [(1, 2, 4), (1, 2, 4), (1, 4, 4)]))
    assert one.key == same.key != other.key


def test_names_of_files_and_pictures_do_not_matter(pixels: np.ndarray) -> None:
    prompt = prompt_of(pixels, [(1, 4, 6)])
    renamed = replace(prompt, media=(replace(prompt.media[0], source="y.png", sha256="0"),))
    assert media_of(prompt) == media_of(renamed)
