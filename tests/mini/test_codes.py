"""What lies in a picture token, and the vectors that say it."""

import random

import numpy as np
import pytest
import torch

from mini.cells import COLUMNS, NUM_VALUES, Cells, label_cells
from mini.codes import Codes, found_loss
from mini.labels import Glyph, Sample, Shape
from mini.sample import make_sample
from mini.scene_questions import COLOURS, KINDS

GRID = (8, 10)
PIXELS = np.zeros((128, 160, 3), np.uint8)


def column(cells: Cells, name: str) -> tuple[np.ndarray, np.ndarray]:
    index = COLUMNS.index(name)
    return cells.values[:, index].reshape(GRID), cells.is_sure[:, index].reshape(GRID)


def test_a_shape_is_labelled_where_it_lies() -> None:
    star = Shape("star", "red", x=88, y=56, radius=30)  # in the token (3, 5), in the middle of the picture
    cells = label_cells(Sample(world="scene", pixels=PIXELS, questions=[], shapes=[star]), GRID)
    for name, value in (("kind", KINDS.index("star")), ("colour", COLOURS.index("red")), ("place", 4)):
        values, is_sure = column(cells, name)
        assert values[3, 5] == 1 + value
        assert is_sure[3, 5]
        assert not is_sure[3, 7], "at its edge"
        assert values[0, 0] == 0
        assert is_sure[0, 0]
    centres, _ = column(cells, "centre")
    assert np.argwhere(centres).tolist() == [[3, 5]]


def test_the_smallest_shape_has_its_labels() -> None:
    # Its radius is less than the way to the middle of the nearest token.
    dot = Shape("circle", "blue", x=80, y=64, radius=9)
    cells = label_cells(Sample(world="scene", pixels=PIXELS, questions=[], shapes=[dot]), GRID)
    kinds, is_sure = column(cells, "kind")
    assert (kinds[is_sure] > 0).sum() == 1


def test_a_part_of_a_scene_has_no_places() -> None:
    star = Shape("star", "red", x=88, y=56, radius=30)
    sample = Sample(world="scene", pixels=PIXELS, questions=[], shapes=[star])
    values, is_sure = column(label_cells(sample, GRID, has_places=False), "place")
    assert not values[is_sure].any()
    assert not is_sure[3, 5]


def test_tokens_in_raster_order_spell_the_text() -> None:
    sample = make_sample("text", 3, "train", (128, 160))
    cells = label_cells(sample, GRID)
    slots = cells.values[:, COLUMNS.index("char0") :]
    spelt = "".join(chr(31 + value) for value in slots.flatten() if value)
    drawn = sorted(sample.glyphs, key=lambda glyph: (glyph.y, glyph.x))
    assert spelt == "".join(glyph.char for glyph in drawn)


def test_lines_are_numbered_from_the_top() -> None:
    glyphs = [Glyph("a", 20, 100), Glyph("b", 20, 20), Glyph("c", 40, 60)]
    cells = label_cells(Sample(world="text", pixels=PIXELS, questions=[], glyphs=glyphs), GRID)
    lines, _ = column(cells, "line")
    assert [lines[1, 1], lines[3, 2], lines[6, 1]] == [1, 2, 3]


@pytest.fixture
def codes() -> Codes:
    return Codes(128)


def labels_of(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    cells = label_cells(make_sample("scene", seed, "train", (128, 160)), GRID)
    return torch.from_numpy(cells.values), torch.from_numpy(cells.is_sure)


def test_codes_of_different_things_do_not_meet(codes: Codes) -> None:
    products = codes.table @ codes.table.T - torch.eye(len(codes.table))
    plain = sum(count for name, count in NUM_VALUES.items() if not name.startswith("char"))
    assert products[:plain].abs().max() < 1e-5
    assert products.abs().max() < 0.9  # a character is much the same in every slot


def test_every_column_has_its_own_codes(codes: Codes) -> None:
    together = torch.cat([codes.of(name)[1:] for name in COLUMNS])
    assert torch.equal(together, codes.table)
    assert not codes.of("kind")[0].any()


def test_what_is_said_is_understood(codes: Codes) -> None:
    values, is_sure = labels_of(5)
    loss, figures = codes.loss(codes.say(values, is_sure.float()), (values, is_sure))
    assert set(figures.values()) == {1.0}
    silence, _ = codes.loss(torch.zeros(len(values), 128), (values, is_sure))
    assert loss < 0.2 * silence


def test_an_imagined_picture_can_still_be_understood(codes: Codes) -> None:
    labels = labels_of(random.Random(0).randrange(100))
    imagined = codes.imagine(labels, torch.Generator().manual_seed(0))
    assert not torch.equal(imagined, codes.imagine(labels, torch.Generator().manual_seed(1)))
    _, figures = codes.loss(imagined, labels)
    assert figures["colour"] > 0.9


def test_what_is_there_counts_as_much_as_what_is_empty() -> None:
    logits = torch.zeros(100, 2)
    logits[:, 0] = 3.0  # says "empty" everywhere
    labels = torch.zeros(100, dtype=torch.long)
    labels[0] = 1
    assert found_loss(logits, labels) > 3
