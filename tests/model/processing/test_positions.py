from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from qwen35.config import ModelConfig
from qwen35.processing.positions import mrope_positions
from tests.model.reference import DENSE, TOKEN_ID, reference_model

IMAGE, VIDEO = TOKEN_ID["<|image_pad|>"], TOKEN_ID["<|video_pad|>"]
Grid = tuple[int, int, int]

# A number is that many text tokens, a grid of t = 1 an image, a list of one grid a clip.
Piece = int | Grid | list[Grid]
LAYOUTS: dict[str, list[Piece]] = {
    "text": [9],
    "image first": [(1, 4, 6), 3],
    "image last": [5, (1, 2, 2)],
    "the reference's example": [4, (1, 4, 6), 2],
    "several images": [3, (1, 2, 8), 1, (1, 8, 2), 4, (1, 6, 6), 2],
    "clip": [3, [(3, 4, 6)], 5],
    "images and clips": [2, (1, 4, 4), 3, [(2, 4, 8)], 1, (1, 2, 2), 2, [(1, 6, 2)], 3],
}


@pytest.fixture
def config(folder: Path) -> ModelConfig:
    return ModelConfig.from_folder(folder)


def lay_out(pieces: list[Piece]) -> tuple[list[int], list[Grid], list[Grid], list[Grid]]:
    """Ids, and the grids of all, of images and of clips. A clip's frames stand apart, two tokens between."""
    ids: list[int] = []
    grids: list[Grid] = []
    images: list[Grid] = []
    clips: list[Grid] = []
    for piece in pieces:
        if isinstance(piece, int):
            ids += [7] * piece
        elif isinstance(piece, list):
            t, h, w = piece[0]
            ids += ([7, 7] + [VIDEO] * (h * w // 4)) * t
            grids += piece
            clips += piece
        else:
            ids += [IMAGE] * (piece[1] * piece[2] // 4)
            grids.append(piece)
            images.append(piece)
    return ids, grids, images, clips


@pytest.mark.parametrize("name", LAYOUTS)
def test_positions_match_transformers(name: str, config: ModelConfig) -> None:
    ids, grids, images, clips = lay_out(LAYOUTS[name])
    kinds = [1 if i == IMAGE else 2 if i == VIDEO else 0 for i in ids]
    expected, delta = reference_model(DENSE).model.get_rope_index(
        torch.tensor([ids]),
        mm_token_type_ids=torch.tensor([kinds]),
        image_grid_thw=torch.tensor(images) if images else None,
        video_grid_thw=torch.tensor(clips) if clips else None,
    )

    positions, mrope_delta = mrope_positions(np.array(ids), config, grids)

    np.testing.assert_array_equal(positions, expected[:, 0].numpy())
    assert positions.dtype == np.int64
    assert mrope_delta == delta.item()


def test_the_reference_document_is_obeyed(config: ModelConfig) -> None:
    ids, grids, _, _ = lay_out(LAYOUTS["the reference's example"])

    positions, delta = mrope_positions(np.array(ids), config, grids)

    assert positions.tolist() == [
        [0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 7, 8],
        [0, 1, 2, 3, 4, 4, 4, 5, 5, 5, 7, 8],
        [0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8],
    ]
    assert delta == -3


def test_neighbouring_images_are_told_apart(config: ModelConfig) -> None:
    ids, grids, _, _ = lay_out([(1, 2, 4), (1, 2, 2), 1])

    positions, _ = mrope_positions(np.array(ids), config, grids)

    assert positions.tolist() == [[0, 0, 2, 3], [0, 0, 2, 3], [0, 1, 2, 3]]


def test_grids_that_do_not_fill_the_placeholders_are_a_bug(config: ModelConfig) -> None:
    with pytest.raises(AssertionError, match="disagree"):
        mrope_positions(np.array([7, IMAGE, 7]), config, [(1, 2, 4)])
    with pytest.raises(AssertionError, match="interrupted"):
        mrope_positions(np.array([IMAGE, 7, IMAGE]), config, [(1, 2, 4)])


def test_models_of_text_alone_count_tokens(config: ModelConfig) -> None:
    positions, delta = mrope_positions(np.array([5, IMAGE, 6]), replace(config, vision=None), [])

    assert positions.tolist() == [[0, 1, 2]] * 3
    assert delta == 0
