import pytest
import torch

from qwen35.weights.names import Place, expert_places, place_of


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("model.language_model.embed_tokens.weight", "language_model.embed_tokens.weight"),
        ("model.language_model.layers.3.mlp.gate.weight", "language_model.layers.3.mlp.gate.weight"),
        ("model.language_model.norm.weight", "language_model.norm.weight"),
        ("model.visual.patch_embed.proj.bias", "visual.patch_embed.proj.bias"),
        ("lm_head.weight", "lm_head.weight"),
        ("mtp.layers.0.self_attn.q_proj.weight", "mtp.layers.0.self_attn.q_proj.weight"),
        # re-saves
        ("model.embed_tokens.weight", "language_model.embed_tokens.weight"),
        ("model.layers.3.mlp.gate.weight", "language_model.layers.3.mlp.gate.weight"),
        ("model.norm.weight", "language_model.norm.weight"),
        ("model.mtp.fc.weight", "mtp.fc.weight"),
        ("model.language_model.visual.pos_embed.weight", "visual.pos_embed.weight"),
        # fused experts, and one that only looks like theirs
        ("model.layers.0.mlp.experts.gate_up_proj", "language_model.layers.0.mlp.experts.gate_up_proj"),
        (
            "model.layers.0.mlp.shared_expert.up_proj.weight",
            "language_model.layers.0.mlp.shared_expert.up_proj.weight",
        ),
    ],
)
def test_every_spelling_leads_to_our_name(name: str, ours: str) -> None:
    assert place_of(name) == Place(ours)


@pytest.mark.parametrize(
    ("prefix", "ours"),
    [
        ("model.language_model.layers.2", "language_model.layers.2"),
        ("model.layers.2", "language_model.layers.2"),
        ("mtp.layers.0", "mtp.layers.0"),
        ("model.mtp.layers.0", "mtp.layers.0"),
    ],
)
def test_experts_one_by_one_lead_into_the_fused_parameters(prefix: str, ours: str) -> None:
    fused = {"gate": "gate_up_proj", "up": "gate_up_proj", "down": "down_proj"}
    for projection, parameter in fused.items():
        place = place_of(f"{prefix}.mlp.experts.17.{projection}_proj.weight")

        assert (place.parameter, place.expert, place.projection) == (
            f"{ours}.mlp.experts.{parameter}",
            17,
            projection,
        )
        assert str(place) == f"{ours}.mlp.experts.17.{projection}_proj.weight"


@pytest.mark.parametrize(("parameter", "shape"), [("gate_up_proj", (3, 10, 4)), ("down_proj", (3, 4, 5))])
def test_expert_places_fill_a_fused_parameter_once(parameter: str, shape: tuple[int, ...]) -> None:
    counts = torch.zeros(shape)

    for place in expert_places(f"language_model.layers.0.mlp.experts.{parameter}", shape):
        part = counts[place.index(shape)]
        assert tuple(part.shape) == place.shape(shape)
        part += 1

    assert (counts == 1).all()


def test_gate_rows_come_before_up_rows() -> None:
    gate, up = (place_of(f"model.layers.0.mlp.experts.1.{name}_proj.weight") for name in ("gate", "up"))
    fused = torch.zeros(2, 6, 4)

    fused[gate.index(fused.shape)] = 1
    fused[up.index(fused.shape)] = 2

    assert fused[:, :, 0].tolist() == [[0] * 6, [1, 1, 1, 2, 2, 2]]


def test_other_parameters_have_no_expert_places() -> None:
    assert list(expert_places("language_model.layers.0.mlp.up_proj.weight", (8, 4))) == []
