"""What lies where, for how much memory."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

import qwen35
from qwen35.config import ModelConfig
from qwen35.errors import DoesNotFit
from qwen35.weights.manifest import Manifest, read_manifest
from qwen35.weights.pack import pack
from qwen35.weights.packed import PackedModel, packed_config
from qwen35.weights.placement import (
    CHUNK,
    LONG_CHUNK,
    NUM_BUFFERS,
    ROOM,
    WORKING_BYTES,
    Placement,
    place,
    row_bytes,
)
from qwen35.weights.stretches import layer_stretches, resident_stretches
from tests.model.reference import Shape
from tests.model.weights.packing import least_ram, tiny_checkpoint, whole_ram

MINI = Path(qwen35.__file__).parent / "builtin" / "mini"


@pytest.fixture
def manifest() -> Manifest:
    return read_manifest(MINI)


@pytest.fixture
def config(manifest: Manifest) -> ModelConfig:
    return packed_config(MINI, manifest)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Packed models of eight layers: dense with one embedding for both ends, MoE with two."""
    found = []
    for is_moe in (False, True):
        folder = tmp_path_factory.mktemp("model")
        shape = Shape(is_moe=is_moe, ratio=3, is_tied=not is_moe, num_layers=8)
        pack(tiny_checkpoint(folder / "source", shape), folder / "packed", "q4")
        found.append(folder / "packed")
    return found


def test_all_of_it_is_read_where_it_fits(manifest: Manifest, config: ModelConfig) -> None:
    exactly = WORKING_BYTES + manifest.data_bytes
    assert place(manifest, config, ram=exactly) == Placement("read", ram_bytes=exactly, fits=True)
    assert place(manifest, config) == Placement("read", fits=True)


def test_it_is_mapped_where_no_second_copy_fits(
    manifest: Manifest, config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def available(num_bytes: int) -> None:
        monkeypatch.setattr("qwen35.weights.placement.available_memory", lambda: num_bytes)

    available(2 * manifest.data_bytes)
    assert place(manifest, config) == Placement("read", fits=True)
    available(2 * manifest.data_bytes - 1)
    assert place(manifest, config) == Placement("mmap", fits=True)
    assert place(manifest, config, "read") == Placement("read", fits=True)
    ram = WORKING_BYTES + manifest.data_bytes
    assert place(manifest, config, ram=ram) == Placement("read", ram_bytes=ram, fits=True)


def test_experts_get_what_the_rest_leaves(manifest: Manifest, config: ModelConfig) -> None:
    experts = sum(entry.count * entry.stride for entry in manifest.experts.values())
    for missing in (1, experts // 2):
        placement = place(manifest, config, ram=WORKING_BYTES + manifest.data_bytes - missing)
        assert (placement.load, placement.expert_bytes) == ("read", experts - missing)


def test_where_few_experts_fit_they_get_what_the_vision_encoder_leaves(folders: list[Path]) -> None:
    """More memory never means far fewer experts in it."""
    manifest = read_manifest(folders[1])
    config = packed_config(folders[1], manifest)
    assert config.text.moe is not None
    some = config.text.moe.num_experts_per_tok * max(entry.stride for entry in manifest.experts.values())
    experts = sum(entry.count * entry.stride for entry in manifest.experts.values())
    rest = WORKING_BYTES + manifest.data_bytes - experts
    before, num_loose = 0, 0
    for ram in range(least_ram(folders[1]), rest + experts, 512):
        placement = place(manifest, config, ram=ram)
        assert placement.expert_bytes is not None
        assert placement.expert_bytes >= some
        if not placement.streamed:
            if placement.is_tight:
                assert placement.expert_bytes > min(experts // 2, ram - rest)
                assert placement.expert_bytes >= before
            else:
                num_loose += 1
                assert placement.expert_bytes == ram - rest >= experts // 2
                assert placement.expert_bytes >= min(before, experts // 2)
            before = placement.expert_bytes
    assert num_loose


def test_too_little_says_what_is_the_least(folders: list[Path]) -> None:
    for folder, what in zip(folders, ("layers", "layers and experts"), strict=True):
        manifest = read_manifest(folder)
        config, ram = packed_config(folder, manifest), least_ram(folder)
        assert place(manifest, config, ram=ram).streamed == tuple(range(config.text.num_hidden_layers))
        reason = rf"at least {ram / 1e9:.2f} GB.*its {what} on the disk; --ram allows"
        with pytest.raises(DoesNotFit, match=reason):
            place(manifest, config, ram=ram - 1)


def test_layers_on_the_disk_lie_evenly_between_others(folders: list[Path]) -> None:
    for folder in folders:
        manifest = read_manifest(folder)
        config = packed_config(folder, manifest)
        counts = []
        for ram in range(least_ram(folder), whole_ram(folder), 1024):
            streamed = place(manifest, config, ram=ram).streamed
            counts.append(len(streamed))
            gaps = [b - a for a, b in pairwise((*streamed, streamed[0] + 8))] if streamed else [8]
            assert max(gaps) - min(gaps) <= 1
        assert counts == sorted(counts, reverse=True)
        assert set(counts) == {0, 3, 4, 5, 6, 7, 8}  # two that share two buffers would save nothing


def test_what_stays_in_memory_fits(folders: list[Path]) -> None:
    for folder in folders:
        manifest = read_manifest(folder)
        config = packed_config(folder, manifest)
        layers = [each.size_bytes for each in layer_stretches(manifest, 8)]
        for ram in range(least_ram(folder), whole_ram(folder), 8192):
            placement = place(manifest, config, ram=ram)
            if placement.is_tight:
                stay = sum(
                    each.size_bytes for each in resident_stretches(manifest, config, placement.streamed)
                )
                buffers = NUM_BUFFERS * max((layers[i] for i in placement.streamed), default=0)
                assert WORKING_BYTES + stay + buffers + (placement.expert_bytes or 0) <= ram


def test_a_long_chunk_is_for_those_who_have_room(manifest: Manifest, config: ModelConfig) -> None:
    assert place(manifest, config, ram=WORKING_BYTES + manifest.data_bytes - 1).prefill_chunk == CHUNK
    layers = {
        name: replace(entry, count=10**5, checksums=("",) * 10**5) for name, entry in manifest.experts.items()
    }
    files = {name: replace(entry, size_bytes=10**11) for name, entry in manifest.files.items()}
    large = replace(manifest, experts=layers, files=files)
    extra = (LONG_CHUNK - CHUNK) * row_bytes(config.text)
    assert config.text.moe is not None
    least = config.text.moe.num_experts_per_tok * max(entry.stride for entry in layers.values())
    num_layers = config.text.num_hidden_layers
    ends = sum(each.size_bytes for each in resident_stretches(large, config, range(num_layers)))
    whole = sum(layer.size_bytes for layer in layer_stretches(large, num_layers))
    for missing, chunk, left in ((0, LONG_CHUNK, 7 * extra), (8, CHUNK, 8 * extra - 8)):
        ram = WORKING_BYTES + ends + least + 8 * extra - missing
        placement = Placement("read", least + left - whole, ram, chunk, is_tight=True)
        assert place(large, config, ram=ram) == placement


def test_what_is_free_decides_where_nothing_is_said(
    manifest: Manifest, config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = manifest.data_bytes  # of which a part is left alone
    monkeypatch.setattr("qwen35.weights.placement.available_memory", lambda: free)
    placement = place(manifest, config)
    experts = sum(entry.count * entry.stride for entry in manifest.experts.values())
    assert placement == Placement("read", int(ROOM * free) - (manifest.data_bytes - experts))
    monkeypatch.setattr("qwen35.weights.placement.available_memory", lambda: 1000)
    assert place(manifest, config) == Placement("mmap")


def test_layers_leave_room_for_the_rest_of_the_program(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(folders[0])
    config, least = packed_config(folders[0], manifest), least_ram(folders[0])
    # A share of the memory that is enough for the least: what decides is what it leaves.
    monkeypatch.setattr("qwen35.weights.placement.ROOM", (least - WORKING_BYTES + 9) / least)
    monkeypatch.setattr("qwen35.weights.placement.available_memory", lambda: least)
    assert place(manifest, config).streamed == tuple(range(8))
    monkeypatch.setattr("qwen35.weights.placement.available_memory", lambda: least - 1)
    assert place(manifest, config) == Placement("mmap")


def test_a_wish_is_followed(manifest: Manifest, config: ModelConfig) -> None:
    assert place(manifest, config, "mmap", ram=1) == Placement("mmap")
    assert place(manifest, config, "read") == Placement("read", fits=True)


def test_experts_on_the_disk_are_not_in_memory() -> None:
    manifest = read_manifest(MINI)
    with PackedModel.open(MINI, ram=WORKING_BYTES + manifest.data_bytes - 1) as model:
        assert model.placement.expert_bytes is not None
        model.wait_for("")
        assert model.vector("language_model.norm.weight").any()
        with pytest.raises(KeyError):
            model.experts(0)
