"""The training's parts: what each stage teaches, that a run survives, that what it writes can be read."""

from pathlib import Path

import pytest
import torch

from mini.batches import Batch, BatchMaker
from mini.curriculum import STAGES, Curriculum, Stage
from mini.losses import RouterBalance, answer_loss, token_weights
from mini.muon import Muon, orthogonalise
from mini.train import Clock, Run, learning_rate_factor, level_frames
from mini.write import write_checkpoint
from qwen35.config import ModelConfig
from qwen35.network.model import Qwen35
from qwen35.processing.processor import Processor
from qwen35.weights.load import load_model


def curriculum(stage: Stage) -> Curriculum:
    return Curriculum(stage, tokens_per_step=80)


def run_of(folder: Path, stage: Stage) -> Run:
    return Run(folder, stage, minutes=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def maker() -> BatchMaker:
    return BatchMaker()


def batch_with_pictures(maker: BatchMaker, stage: Stage, progress: float = 0.9) -> Batch:
    batches = (maker.make(step, progress, curriculum(stage)) for step in range(20))
    return next(batch for batch in batches if batch.pictures)


def taught(model: Qwen35) -> set[str]:
    """The parts of the model that got a gradient."""
    names = (name for name, p in model.named_parameters() if p.grad is not None and p.grad.any())
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize(
    ("stage", "progress", "parts"),
    [
        ("eyes", 0.0, {"visual"}),
        ("language", 0.0, {"language_model"}),
        ("together", 0.0, {"language_model", "visual"}),
        ("together", 0.9, {"language_model", "visual", "mtp"}),
    ],
)
def test_each_stage_teaches_its_parts(
    maker: BatchMaker, tmp_path: Path, stage: Stage, progress: float, parts: set[str]
) -> None:
    for apart in STAGES[:2]:
        run_of(tmp_path, apart).save()
    run = run_of(tmp_path, stage)
    run.clock.elapsed_s = progress * run.clock.budget_s
    losses = run.losses(batch_with_pictures(maker, stage, progress), RouterBalance(run.model))
    losses.total.backward()
    assert taught(run.model) == parts
    assert losses.total.isfinite()


def test_together_begins_with_the_eyes_of_one_and_the_language_of_the_other(tmp_path: Path) -> None:
    eyes, language = run_of(tmp_path, "eyes"), run_of(tmp_path, "language")
    with torch.no_grad():
        eyes.model.visual.merger.norm.weight.fill_(2)
        eyes.model.language_model.norm.weight.fill_(3)
        language.model.visual.merger.norm.weight.fill_(4)
        language.model.language_model.norm.weight.fill_(5)
        eyes.codes.biases["kind"].fill_(6)
    eyes.save()
    language.save()
    both = run_of(tmp_path, "together")
    assert (both.model.visual.merger.norm.weight == 2).all()
    assert (both.model.language_model.norm.weight == 5).all()
    assert (both.codes.biases["kind"] == 6).all()


def test_a_run_with_an_adopted_language_knows_it_when_it_goes_on(tmp_path: Path) -> None:
    run_of(tmp_path, "eyes").save()
    run_of(tmp_path, "language").save()
    run = run_of(tmp_path, "together")
    assert not run_of(tmp_path, "together").is_adopted
    run.is_adopted = run.is_whole = True
    run.save()
    assert run_of(tmp_path, "together").is_adopted
    assert run_of(tmp_path, "together").is_whole


def test_words_for_what_is_seen_count_more(maker: BatchMaker) -> None:
    weights = token_weights()
    factors = {" star": 6, " red": 3, " left": 3, " the": 1, "?": 1}
    assert {word: weights[maker.tokenizer.encode(word)[0]] for word in factors} == factors
    assert len(weights) >= maker.config.text.vocab_size


def test_adopted_eyes_rest_at_first(tmp_path: Path) -> None:
    run_of(tmp_path, "eyes").save()
    run_of(tmp_path, "language").save()
    run = run_of(tmp_path, "together")
    run.is_adopted = True
    learning = []
    for progress in (0.0, 0.9):
        run.clock.elapsed_s = progress * run.clock.budget_s
        run._rest_eyes()
        learning.append({name for name, p in run.model.visual.named_parameters() if p.requires_grad})
    assert {name.split(".")[0] for name in learning[0]} == {"merger"}
    run.is_whole = True
    run.clock.elapsed_s = 0
    run._rest_eyes()
    assert not any(p.requires_grad for p in run.model.visual.parameters())
    assert learning[1] == {name for name, _ in run.model.visual.named_parameters()}


def test_eyes_that_knew_no_clips_see_the_mean_of_two_frames(maker: BatchMaker, tmp_path: Path) -> None:
    model = run_of(tmp_path, "eyes").model
    visual = model.visual
    batch = batch_with_pictures(maker, "together")
    still, grids = batch.pictures.patches, [batch.pictures.grid] * len(batch.pictures.prefix)
    frames = still.view(len(still), 3, 2, -1)
    moved = frames.roll(1, dims=0)
    pair = torch.stack([frames[:, :, 0], moved[:, :, 1]], dim=2).flatten(1)
    mean = ((frames + moved) / 2).flatten(1)
    with torch.no_grad():
        before = visual(still, grids)
        assert not torch.allclose(visual(pair, grids), visual(mean, grids), atol=1e-4)
        level_frames(model)
        assert torch.allclose(visual(pair, grids), visual(mean, grids), atol=1e-4)
        assert torch.allclose(visual(still, grids), before, atol=1e-4)


def test_clips_teach_what_is_new_in_each_pair(maker: BatchMaker, tmp_path: Path) -> None:
    run_of(tmp_path, "eyes").save()
    run_of(tmp_path, "language").save()
    run = run_of(tmp_path, "together")
    batch = maker.make(0, 0.9, Curriculum("together", 150, clips=1.0))
    run.losses(batch, RouterBalance(run.model)).total.backward()
    for read in run.pointing.noticed.values():
        assert read.weight.grad is not None
        assert read.weight.grad.any()


def test_drafts_cost_the_trunk_nothing(maker: BatchMaker, tmp_path: Path) -> None:
    run = run_of(tmp_path, "language")
    with torch.no_grad():
        for p in run.model.parameters():  # layers begin silent, and would pass no gradient on
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)), alpha=0.02)
    batch, gradients = batch_with_pictures(maker, "language"), []
    for with_drafts in (False, True):
        run.model.zero_grad()
        balance, generator = RouterBalance(run.model), torch.Generator().manual_seed(0)
        losses = answer_loss(
            run.model, run.codes, batch, balance, generator, pointing=None, with_drafts=with_drafts
        )
        losses.total.backward()
        gradients.append(run.model.language_model.layers[0].linear_attn.in_proj_z.weight.grad.clone())
    # The balance of the MTP layer's router enters the mean over routers, nothing else.
    assert torch.nn.functional.cosine_similarity(*(g.flatten() for g in gradients), dim=0) > 0.999


def test_small_talk_needs_no_picture(maker: BatchMaker, tmp_path: Path) -> None:
    run = run_of(tmp_path, "language")
    batches = (maker.make(step, 0.9, curriculum("language")) for step in range(200))
    batch = next(batch for batch in batches if not batch.pictures)
    run.losses(batch, RouterBalance(run.model)).total.backward()
    assert taught(run.model) == {"language_model"}


def test_no_two_stages_draw_the_same_pictures() -> None:
    seeds = [{curriculum(stage).seed(index) for index in range(10_000)} for stage in STAGES]
    assert not seeds[0] & seeds[1] | seeds[1] & seeds[2] | seeds[0] & seeds[2]


def test_a_run_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    run = run_of(tmp_path, "eyes")
    for parameter in run.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for optimiser in run.optimisers:
        optimiser.step()
    run.clock.step, run.clock.elapsed_s = 7, 12.5
    run.save()
    again = run_of(tmp_path, "eyes")
    assert (again.clock.step, again.clock.elapsed_s) == (7, 12.5)
    for mine, theirs in zip(run.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    momentum = next(iter(again.optimisers[0].state.values()))["momentum"]
    assert momentum.any()


def test_the_written_checkpoint_is_the_model_in_the_official_layout(tmp_path: Path) -> None:
    run = run_of(tmp_path, "eyes")
    write_checkpoint(run.model, tmp_path)
    loaded = load_model(tmp_path, ModelConfig.from_folder(tmp_path), device="cpu")
    for (name, mine), read in zip(run.model.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(mine.to(read.dtype), read), name
    assert Processor.from_folder(tmp_path).template is not None


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
