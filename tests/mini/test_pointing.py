"""Where attention is told to look, against the layer's own sums and against what was drawn."""

import random
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from mini.batches import IGNORE, BatchMaker
from mini.cells import COLUMNS, number_of
from mini.curriculum import Curriculum
from mini.losses import encode, of_pictures, see, token_weights
from mini.pointing import LOOKING_HEADS
from mini.sample import make_sample
from mini.scene_questions import COLOURS, KINDS, PLACES, scene_questions
from mini.train import Run
from qwen35.network.attention import GatedAttention
from qwen35.network.text import Past


@pytest.mark.parametrize("seed", range(200))
def test_what_a_question_names_is_in_its_words(seed: int) -> None:
    things = [("red", "circle", "top left"), ("grey", "star", "centre"), ("red", "square", "bottom right")]
    for question in scene_questions(things, 10, random.Random(seed)):
        words = question.question.lower().replace("gray", "grey").replace("center", "centre")
        kind, colour, place = question.asked
        assert bool(kind) == any(name in words for name in KINDS)
        assert not kind or kind in words
        assert bool(colour) == any(name in words for name in COLOURS)
        assert not colour or colour in words
        if place:
            assert question.task in ("shape", "thing", "colour")
            assert place in PLACES


def test_the_share_on_a_shape_is_that_of_the_attention_layer(tmp_path: Path) -> None:
    """The layer's own output, with values that mark what is asked about, tells the share as well."""
    maker = BatchMaker()
    run = Run(tmp_path, "eyes", 1, torch.device("cpu"))
    model, pointing = run.model, run.pointing
    with torch.no_grad():
        for p in model.language_model.parameters():  # layers begin silent
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)), alpha=0.05)
    samples = [make_sample("scene", seed, "val", (150, 140), 8, 1.0) for seed in range(2)]
    batch = maker.collate(samples, maker._grid((150, 140)), None)
    assert batch.pictures is not None
    attention = next(m for m in model.modules() if isinstance(m, GatedAttention))
    seen = see(model, batch.pictures, encode(model, batch.pictures), with_drafts=False)
    is_picture = batch.pictures.prefix[0] == model.config.image_token_id
    attend_as_ever, num_rows = F.scaled_dot_product_attention, 0
    for rows in batch.rows:
        past = Past([of_pictures(layer, rows.pictures) for layer in seen.layers])
        model(rows.ids, rows.positions, past=past)
        is_there = pointing._matches(rows, batch.pictures)
        row, time = ((rows.targets != IGNORE) & is_there.any(1, keepdim=True)).nonzero(as_tuple=True)
        if not len(row):
            continue
        share = pointing._attention_on(row, time, is_there[row], is_picture)

        given = pointing._seen
        assert given is not None
        assert given.past is not None
        marks = torch.zeros_like(given.past.v)
        marks[:, :, is_picture] = is_there[:, None, :, None].float().expand(-1, marks.shape[1], -1, 64)
        outputs: list[torch.Tensor] = []

        def attend(query, k, v, mask, outputs=outputs, marks=marks, **options):  # type: ignore[no-untyped-def]
            v = torch.cat([marks, torch.zeros_like(v[:, :, marks.shape[2] :])], dim=2)
            outputs.append(attend_as_ever(query, k, v, mask, **options))
            return outputs[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(F, "scaled_dot_product_attention", attend)
            model(rows.ids, rows.positions, past=past)
        layer = [m for m in model.language_model.modules() if isinstance(m, GatedAttention)].index(attention)
        expected = outputs[layer][row, :, time, 0][:, LOOKING_HEADS]
        assert torch.allclose(share, expected, atol=1e-5)
        assert 0 < share.max() < 1
        num_rows += len(row)
    assert num_rows > 10


def test_what_is_pointed_at_is_what_was_asked(tmp_path: Path) -> None:
    maker = BatchMaker()
    run = Run(tmp_path, "eyes", 1, torch.device("cpu"))
    curriculum = Curriculum("together", 400, reads=False)
    columns = [COLUMNS.index(name) for name in ("kind", "colour", "place")]
    num_pointed = 0
    for batch in (maker.make(index, 0.5, curriculum) for index in range(12)):
        if batch.pictures is None:
            continue
        labels = batch.pictures.labels.view(len(batch.pictures.prefix), -1, len(COLUMNS))[..., columns]
        for rows in batch.rows:
            is_there = run.pointing._matches(rows, batch.pictures)
            for index, asked in enumerate(rows.asked):
                here = labels[rows.pictures[index]]
                fits = ((asked == 0) | (here == asked)).all(-1) & (here[:, 0] > 0)
                pointed = here[is_there[index]]
                num_pointed += len(pointed)
                if not asked.any():
                    assert not len(pointed)
                elif fits.any():
                    assert ((asked == 0) | (pointed == asked)).all()
                else:  # nothing is as the question says: its kind, if it names one
                    assert (pointed[:, 0] == asked[0]).all()
    assert num_pointed > 100


def test_the_losses_fall_where_attention_does_as_it_is_told(tmp_path: Path) -> None:
    """A step against them makes them smaller: they depend on what they should teach."""
    maker = BatchMaker()
    run = Run(tmp_path, "eyes", 1, torch.device("cpu"))
    with torch.no_grad():
        for p in run.model.language_model.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)), alpha=0.05)
    batch = maker.collate(
        [make_sample("scene", 5, "val", (150, 140), 10, 1.0)], maker._grid((150, 140)), None
    )

    def losses() -> tuple[torch.Tensor, torch.Tensor]:
        assert batch.pictures is not None
        seen = see(run.model, batch.pictures, encode(run.model, batch.pictures), with_drafts=False)
        parts = []
        for rows in batch.rows:
            past = Past([of_pictures(layer, rows.pictures) for layer in seen.layers])
            run.model(rows.ids, rows.positions, past=past)
            image_id = run.model.config.image_token_id
            assert image_id is not None
            parts.append(run.pointing.loss(rows, batch.pictures, token_weights(), image_id))
        known, looks = zip(*parts, strict=True)
        return torch.stack(known).mean(), torch.stack(looks).mean()

    parameters = [*run.model.language_model.parameters(), *run.pointing.parameters()]
    for index in range(2):
        before = losses()
        gradients = torch.autograd.grad(before[index], parameters, allow_unused=True)
        length = torch.sqrt(sum(g.square().sum() for g in gradients if g is not None))
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                if g is not None:
                    p -= 0.05 * g / length
        assert losses()[index] < before[index]


def test_names_have_the_numbers_of_the_cells() -> None:
    assert [number_of("kind", kind) for kind in ("", *KINDS)] == list(range(len(KINDS) + 1))
    assert number_of("place", "bottom right") == len(PLACES)
