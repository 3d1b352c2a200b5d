"""The training's parts: what each phase teaches, that a run survives, that what it writes can be read."""

from pathlib import Path

import pytest
import torch

from mini.batches import Batch, BatchMaker, Curriculum
from mini.losses import RouterBalance, answer_loss, found_loss, picture_loss
from mini.muon import Muon, orthogonalise
from mini.train import Clock, Run, learning_rate_factor
from mini.write import write_checkpoint
from qwen35.config import ModelConfig
from qwen35.network.model import Qwen35
from qwen35.processing.processor import Processor
from qwen35.weights.load import load_model

CURRICULUM = Curriculum(tokens_per_step=80)


@pytest.fixture(scope="module")
def maker() -> BatchMaker:
    return BatchMaker()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run", minutes=1, device=torch.device("cpu"))


def batch_with_pictures(maker: BatchMaker, progress: float) -> Batch:
    batches = (maker.make(step, progress, CURRICULUM) for step in range(20))
    return next(batch for batch in batches if batch.pictures)


def taught(model: Qwen35) -> set[str]:
    """The parts of the model that got a gradient."""
    names = (name for name, p in model.named_parameters() if p.grad is not None and p.grad.any())
    return {name.split(".")[0] for name in names}


def test_the_encoder_learns_alone_from_labels(run: Run, maker: BatchMaker) -> None:
    losses = picture_loss(run.model, run.heads, batch_with_pictures(maker, 0.0))
    losses.total.backward()
    assert taught(run.model) == {"visual"}
    assert losses.total.isfinite()


@pytest.mark.parametrize(
    ("vision_rests", "with_drafts", "parts"),
    [
        (True, False, {"language_model"}),
        (False, False, {"language_model", "visual"}),
        (False, True, {"language_model", "visual", "mtp"}),
    ],
)
def test_each_phase_teaches_its_parts(
    run: Run, maker: BatchMaker, vision_rests: bool, with_drafts: bool, parts: set[str]
) -> None:
    batch = batch_with_pictures(maker, 0.9)
    losses = answer_loss(
        run.model,
        run.heads,
        batch,
        RouterBalance(run.model),
        vision_rests=vision_rests,
        with_drafts=with_drafts,
    )
    losses.total.backward()
    assert taught(run.model) == parts
    assert losses.total.isfinite()


def test_drafts_cost_the_trunk_nothing(run: Run, maker: BatchMaker) -> None:
    batch, gradients = batch_with_pictures(maker, 0.9), []
    for with_drafts in (False, True):
        run.model.zero_grad()
        balance = RouterBalance(run.model)
        answer_loss(
            run.model, run.heads, batch, balance, vision_rests=True, with_drafts=with_drafts
        ).total.backward()
        gradients.append(run.model.language_model.layers[0].linear_attn.in_proj_z.weight.grad.clone())
    # The balance of the MTP layer's router enters the mean over routers, nothing else.
    assert torch.nn.functional.cosine_similarity(*(g.flatten() for g in gradients), dim=0) > 0.999


def test_small_talk_needs_no_picture(run: Run, maker: BatchMaker) -> None:
    batch = next(b for b in (maker.make(step, 0.9, CURRICULUM) for step in range(200)) if not b.pictures)
    losses = answer_loss(
        run.model, run.heads, batch, RouterBalance(run.model), vision_rests=False, with_drafts=True
    )
    losses.total.backward()
    assert taught(run.model) == {"language_model", "mtp"}


def test_labels_lie_where_things_were_drawn(maker: BatchMaker) -> None:
    batch = batch_with_pictures(maker, 0.0)
    assert batch.pictures is not None
    assert batch.pictures.centres.sum() > 0
    is_centre = batch.pictures.centres == 1
    # At its centre a shape has a kind, a colour and a place, but where it is smaller than a token.
    for labels in (batch.pictures.kinds, batch.pictures.colours, batch.pictures.places):
        assert (labels[is_centre] != 0).float().mean() > 0.9


def test_what_is_there_counts_as_much_as_what_is_empty() -> None:
    logits = torch.zeros(100, 2)
    logits[:, 0] = 3.0  # says "empty" everywhere
    labels = torch.zeros(100, dtype=torch.long)
    labels[0] = 1
    assert found_loss(logits, labels) > 3


def test_a_run_goes_on_where_it_was_saved(run: Run) -> None:
    for parameter in run.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for optimiser in run.optimisers:
        optimiser.step()
    run.clock.step, run.clock.elapsed_s = 7, 12.5
    run.save()
    again = Run(run.folder, minutes=1, device=torch.device("cpu"))
    assert (again.clock.step, again.clock.elapsed_s) == (7, 12.5)
    for mine, theirs in zip(run.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    momentum = next(iter(again.optimisers[0].state.values()))["momentum"]
    assert momentum.any()


def test_the_written_checkpoint_is_the_model_in_the_official_layout(run: Run, tmp_path: Path) -> None:
    write_checkpoint(run.model, tmp_path)
    loaded = load_model(tmp_path, ModelConfig.from_folder(tmp_path), device="cpu")
    for (name, mine), read in zip(run.model.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(mine.to(read.dtype), read), name
    assert Processor.from_folder(tmp_path).template is not None


def test_a_new_run_may_start_from_a_checkpoint(run: Run, tmp_path: Path) -> None:
    write_checkpoint(run.model, tmp_path)
    with torch.no_grad():
        run.model.language_model.norm.weight.add_(1)
    run.start_from(tmp_path)
    assert run.model.language_model.norm.weight.abs().max() == 0


def test_orthogonalise_levels_the_singular_values() -> None:
    matrices = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.5
    assert values.max() < 1.4


def test_muon_goes_downhill() -> None:
    weight = torch.nn.Parameter(torch.randn(8, 6, generator=torch.Generator().manual_seed(0)))
    optimiser = Muon([weight], lr=0.05)
    before = weight.square().sum().item()
    for _ in range(20):
        weight.square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    assert weight.square().sum().item() < before


def test_the_rate_warms_up_holds_and_falls() -> None:
    assert learning_rate_factor(0, 0.0) == 0
    assert learning_rate_factor(1000, 0.5) == 1
    assert 0 < learning_rate_factor(1000, 0.9) < 0.5
    assert learning_rate_factor(1000, 1.0) == 0
    assert Clock(budget_s=10, elapsed_s=20).progress == 1
