"""Where reading is told to look, against the attention layer's own sums."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from mini.batches import BatchMaker
from mini.cells import COLUMNS
from mini.losses import RouterBalance, encode, of_pictures, see
from mini.marks import NOWHERE
from mini.pointing import LOOKING_HEADS
from mini.sample import make_sample
from mini.train import Run
from qwen35.network.attention import GatedAttention
from qwen35.network.text import Past


def documents(maker: BatchMaker):  # type: ignore[no-untyped-def]
    samples = [make_sample("document", seed, "val", (112, 192), 2) for seed in range(3)]
    return maker.collate(samples, (7, 12), None)


def test_the_attention_on_a_token_is_that_of_the_layer(tmp_path: Path) -> None:
    """The layer's own output, with values that mark one token, tells its share as well."""
    maker = BatchMaker()
    run = Run(tmp_path, "together", 1, torch.device("cpu"), start_from=shipped())
    model = run.model
    batch = documents(maker)
    assert batch.pictures is not None
    attention = next(m for m in model.modules() if isinstance(m, GatedAttention))
    layer = [m for m in model.language_model.modules() if isinstance(m, GatedAttention)].index(attention)
    seen = see(model, batch.pictures, encode(model, batch.pictures), with_drafts=False)
    attend_as_ever = F.scaled_dot_product_attention
    for rows in batch.rows:
        past = Past([of_pictures(layer, rows.pictures) for layer in seen.layers])
        model(rows.ids, rows.positions, past=past)
        found = run.reading._log_attention().exp()  # (R, heads, T, S + T)
        assert torch.allclose(found.sum(-1), torch.ones(found.shape[:3]), atol=1e-5)
        for token in (5, 40, found.shape[-1] - 3):
            outputs: list[torch.Tensor] = []

            def attend(query, k, v, mask, outputs=outputs, token=token, **options):  # type: ignore[no-untyped-def]
                marks = torch.zeros_like(v)
                marks[:, :, token] = 1.0
                outputs.append(attend_as_ever(query, k, marks, mask, **options))
                return outputs[-1]

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(F, "scaled_dot_product_attention", attend)
                model(rows.ids, rows.positions, past=past)
            expected = outputs[layer][..., 0][:, LOOKING_HEADS]
            assert torch.allclose(found[..., token], expected, atol=1e-5)


def test_what_is_told_is_learnt(tmp_path: Path) -> None:
    """Twenty steps on the same three documents: the eyes know more of them, and attention looks there."""
    maker = BatchMaker()
    run = Run(tmp_path, "together", 1, torch.device("cpu"), start_from=shipped(), eyes_rest=0.0)
    run.clock.step = 100
    balance, batch = RouterBalance(run.model), documents(maker)
    assert any((rows.sources[..., 0] != NOWHERE).any() for rows in batch.rows if rows.sources is not None)
    figures = []
    run._set_rates()
    for _ in range(20):
        losses = run.losses(batch, balance)
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_([*run.model.parameters(), *run.helpers.parameters()], 1.0)
        for optimiser in run.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        figures.append(losses.figures)
    assert figures[-1]["read_answer"] < 0.7 * figures[0]["read_answer"]
    for name in ("line", "wanted_field", "noticed_offset"):
        is_all = figures[0][name] == figures[-1][name] == 1.0  # found at once, and never lost
        assert is_all or figures[-1][name] > figures[0][name]
    assert figures[-1]["wanted_line"] >= figures[0]["wanted_line"]  # which the shipped weights know already


def shipped() -> Path:
    import qwen35.builtin

    return Path(qwen35.builtin.__file__).parent / "mini-bf16"


def test_rows_that_read_nothing_cost_nothing(tmp_path: Path) -> None:
    """Short questions about a scene stand in a group of their own, beside those answered in JSON."""
    maker = BatchMaker()
    run = Run(tmp_path, "together", 1, torch.device("cpu"), start_from=shipped())
    samples = [make_sample("scene", seed, "val", (150, 140), 10) for seed in range(3)]
    batch = maker.collate(samples, maker._grid((150, 140)), None)
    reads = [
        (rows.sources[..., 0] != NOWHERE).any().item() for rows in batch.rows if rows.sources is not None
    ]
    assert reads == [False, True]
    labels = batch.pictures.labels.view(3, -1, len(COLUMNS))[..., COLUMNS.index("centre")]
    for rows in batch.rows:
        for row, time in (rows.sources[..., 0] != NOWHERE).nonzero().tolist():
            assert labels[rows.pictures[row], rows.sources[row, time, 0]] == 1  # a shape's centre
    assert run.losses(batch, RouterBalance(run.model)).total.isfinite()
