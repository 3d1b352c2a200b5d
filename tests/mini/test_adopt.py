"""Another run's language model with this run's eyes."""

from pathlib import Path

import pytest
import torch

from mini import adopt as adoption
from mini.adopt import adopt, fit, take_whole, word_directions
from mini.batches import tokenizer_config
from mini.tokenizer import JSON_MERGES, MiniTokenizer
from mini.train import Run
from mini.write import write_checkpoint
from qwen35.network.model import Qwen35


def test_fit_finds_a_linear_map() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4000, 6, generator=generator)
    turn, shift = torch.randn(6, 5, generator=generator), torch.randn(5, generator=generator)
    found, offset = fit(inputs, inputs @ turn + shift)
    assert (found - turn).abs().max() < 0.02
    assert (offset - shift).abs().max() < 0.02


def test_language_understands_adopted_eyes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adoption, "NUM_PICTURES", 12)
    cpu = torch.device("cpu")
    theirs, ours = (Run(tmp_path / name, "eyes", 1, cpu) for name in ("theirs", "ours"))
    with torch.no_grad():
        for p in theirs.model.language_model.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)), alpha=0.05)
        out = ours.model.visual.merger.linear_fc2
        out.weight.copy_(out.weight.flip(0) * 2)  # the same eyes, in another tongue
    write_checkpoint(theirs.model, tmp_path / "checkpoint")
    adopt(ours.model, ours.codes, tmp_path / "checkpoint")
    features, expected = adoption.features_of(ours.model.visual, theirs.model.visual)
    kinds = word_directions(ours.model)
    free = torch.eye(128) - kinds.T @ torch.linalg.pinv(kinds.T)  # all but the directions of the kinds
    error = ((features - expected) @ free).square().sum()
    assert error < 0.05 * ((expected - expected.mean(0)) @ free).square().sum()
    mine, given = (run.model.language_model.norm.weight for run in (ours, theirs))
    assert (mine - given).abs().max() < 0.01  # as bfloat16 stores it


def test_a_checkpoint_of_fewer_tokens_is_taken_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token keeps its vector, wherever it stands; a new one begins as those that it was spelt with."""
    whole = MiniTokenizer.load()
    few = MiniTokenizer(whole.merges[: -len(JSON_MERGES)])
    theirs, ours = (Qwen35(tokenizer_config(tokenizer)) for tokenizer in (few, whole))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(torch.randn(p.shape, generator=generator).bfloat16())
    monkeypatch.setattr(MiniTokenizer, "load", lambda: few)
    write_checkpoint(theirs, tmp_path)
    take_whole(ours, tmp_path, whole)
    before, after = (model.language_model.embed_tokens.weight for model in (theirs, ours))
    for token, index in whole.ids.items():
        parts = [token] if token in few.ids else list(token)
        assert torch.equal(after[index], before[[few.ids[part] for part in parts]].mean(0))
    assert few.id("<|im_end|>") != whole.id("<|im_end|>")
    state = ours.state_dict()
    for name, p in theirs.state_dict().items():
        if name != "language_model.embed_tokens.weight":
            assert torch.equal(state[name], p), name
