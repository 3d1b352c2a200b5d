"""What a plan says is what loading does: places, sizes, and what fits."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.synthetic import SIZES as SYNTHETIC
from benchmarks.synthetic import config_json
from qwen35.config import ModelConfig
from qwen35.state import ModelState
from qwen35.weights.catalogue import RELEASES, SIZES, find_release
from qwen35.weights.pack import pack
from qwen35.weights.packed import open_manifest, packed_config
from qwen35.weights.placement import WORKING_BYTES, place
from qwen35.weights.plan import (
    KV_DTYPE,
    MemoryPlan,
    expected_speed,
    forecast,
    needs_disk,
    plan_memory,
    state_bytes,
)
from tests.model.reference import DENSE, MOE, Shape
from tests.model.weights.packing import least_ram, tiny_checkpoint, whole_ram

MEMORY, DISK = 20e9, 1e9  # bytes per second


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(tmp_path_factory.mktemp("moe"), MOE)


def packed(folder: Path, shape: Shape) -> Path:
    return pack(tiny_checkpoint(folder / "source", shape), folder / "out").folder


def plan_of(folder: Path, context: int = 100, ram: int | None = None) -> MemoryPlan:
    manifest = open_manifest(folder)
    return plan_memory(manifest, packed_config(folder, manifest), context, ram=ram)


@pytest.mark.parametrize("size", SIZES)
def test_the_catalogues_shapes_are_those_of_the_reference(size: str) -> None:
    assert SIZES[size].config == ModelConfig.from_dict(config_json(SYNTHETIC[size]), size)


def test_names_lead_to_one_release_each() -> None:
    aliases = [release.alias for release in RELEASES]
    assert len(set(aliases)) == len(aliases)
    for release in RELEASES:
        assert find_release(release.alias.upper()) == find_release(release.repo) == release
    assert find_release("7b") is None


@pytest.mark.parametrize("shape", [DENSE, MOE], ids=str)
def test_a_forecast_has_the_sizes_of_the_packed_model(tmp_path: Path, shape: Shape) -> None:
    folder = packed(tmp_path, shape)
    manifest = open_manifest(folder)
    config = packed_config(folder, manifest)
    own = forecast(config, "q4")
    assert (own.data_bytes, own.num_parameters) == (manifest.data_bytes, manifest.num_parameters)
    assert {name: entry.size_bytes for name, entry in own.tensors.items()} == {
        name: entry.size_bytes for name, entry in manifest.tensors.items()
    }
    for ram in (least_ram(folder), whole_ram(folder)):
        assert place(own, config, ram=ram) == place(manifest, config, ram=ram)


def test_the_plan_has_loadings_own_placement(moe: Path) -> None:
    manifest = open_manifest(moe)
    config = packed_config(moe, manifest)
    for ram in (None, whole_ram(moe), (least_ram(moe) + whole_ram(moe)) // 2, least_ram(moe)):
        assert plan_of(moe, ram=ram).placement == place(manifest, config, ram=ram)


def test_experts_and_layers_on_the_disk_are_counted(moe: Path) -> None:
    whole, least = plan_of(moe, ram=whole_ram(moe)), plan_of(moe, ram=least_ram(moe))
    assert (whole.expert_share, whole.streamed_bytes, needs_disk(whole)) == (1.0, 0, False)
    assert least.fits
    assert 0 < least.expert_share < 1
    assert least.streamed_bytes > 0
    assert needs_disk(least)
    assert least.memory.weights + least.memory.experts < whole.memory.weights + whole.memory.experts
    assert least.memory.total <= least_ram(moe)


def test_what_cannot_be_loaded_does_not_fit(moe: Path) -> None:
    planned = plan_of(moe, ram=least_ram(moe) - 1)
    assert not planned.fits
    assert planned.placement is None
    assert planned.why_not is not None
    assert "needs at least 0.3" in planned.why_not


def test_a_context_that_is_too_long_says_what_would_fit() -> None:
    config = SIZES["0.8b"].config
    manifest = forecast(config, "q4")
    planned = plan_memory(manifest, config, 262_144, ram=2_500_000_000)
    assert planned.why_not is not None
    possible = int(planned.why_not.split(" would fit")[0].rsplit(" ", 1)[1].replace(",", ""))
    assert plan_memory(manifest, config, possible, ram=2_500_000_000).fits
    assert not plan_memory(manifest, config, possible + 512, ram=2_500_000_000).fits


@pytest.mark.parametrize("size", ["0.8b", "35b-a3b"])
def test_states_are_counted_as_they_are(size: str) -> None:
    text = SIZES[size].config.text
    assert state_bytes(text) == ModelState(text, KV_DTYPE).size_bytes


def test_less_memory_is_never_faster() -> None:
    config = SIZES["35b-a3b"].config
    manifest = forecast(config, "q4")
    before = 0.0
    for gigabytes in (3, 4, 8, 12, 16, 24):
        planned = plan_memory(manifest, config, 1000, ram=gigabytes * 10**9)
        speed = expected_speed(planned, manifest, config, 1_800_000_000, MEMORY, DISK)
        assert before < speed.low <= speed.high
        assert speed.disk_bytes_low > 0 if gigabytes < 24 else speed.limit == "memory"
        before = speed.low


def test_a_model_without_pictures_needs_no_room_for_them(tmp_path: Path) -> None:
    config = SIZES["0.8b"].config
    with_pictures = plan_memory(forecast(config, "q4"), config, 1000, ram=10**10)
    text = replace(config, vision=None, architecture="Qwen3_5ForCausalLM")
    alone = plan_memory(forecast(text, "q4"), text, 1000, ram=10**10)
    assert with_pictures.memory.picture > 0
    assert alone.memory.picture == 0
    assert alone.memory.weights < with_pictures.memory.weights
    assert alone.memory.total > WORKING_BYTES
