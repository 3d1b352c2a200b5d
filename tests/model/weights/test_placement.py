"""What lies where, for how much memory."""

from dataclasses import replace
from pathlib import Path

import pytest

import qwen35
from qwen35.config import ModelConfig
from qwen35.errors import DoesNotFit
from qwen35.weights.manifest import Manifest, read_manifest
from qwen35.weights.packed import PackedModel, packed_config
from qwen35.weights.placement import (
    CHUNK,
    LONG_CHUNK,
    ROOM,
    WORKING_BYTES,
    Placement,
    place,
    row_bytes,
)

MINI = Path(qwen35.__file__).parent / "builtin" / "mini"


@pytest.fixture
def manifest() -> Manifest:
    return read_manifest(MINI)


@pytest.fixture
def config(manifest: Manifest) -> ModelConfig:
    return packed_config(MINI, manifest)


def test_all_of_it_is_read_where_it_fits(manifest: Manifest, config: ModelConfig) -> None:
    exactly = WORKING_BYTES + manifest.data_bytes
    assert place(manifest, config, ram=exactly) == Placement("read", ram_bytes=exactly)
    assert place(manifest, config) == Placement("read")


def test_experts_get_what_the_rest_leaves(manifest: Manifest, config: ModelConfig) -> None:
    experts = sum(entry.count * entry.stride for entry in manifest.experts.values())
    for missing in (1, experts // 2):
        placement = place(manifest, config, ram=WORKING_BYTES + manifest.data_bytes - missing)
        assert (placement.load, placement.expert_bytes) == ("read", experts - missing)


def test_too_little_says_what_is_the_least(manifest: Manifest, config: ModelConfig) -> None:
    assert config.text.moe is not None
    stride = max(entry.stride for entry in manifest.experts.values())
    experts = sum(entry.count * entry.stride for entry in manifest.experts.values())
    least = WORKING_BYTES + manifest.data_bytes - experts + config.text.moe.num_experts_per_tok * stride
    assert place(manifest, config, ram=least).expert_bytes == config.text.moe.num_experts_per_tok * stride
    with pytest.raises(DoesNotFit, match=rf"at least {least / 1e9:.2f} GB.*on the disk; --ram allows"):
        place(manifest, config, ram=least - 1)


def test_a_long_chunk_is_for_those_who_have_room(manifest: Manifest, config: ModelConfig) -> None:
    assert place(manifest, config, ram=WORKING_BYTES + manifest.data_bytes - 1).prefill_chunk == CHUNK
    layers = {
        name: replace(entry, count=10**5, sha256=("",) * 10**5) for name, entry in manifest.experts.items()
    }
    files = {name: replace(entry, size_bytes=10**11) for name, entry in manifest.files.items()}
    large = replace(manifest, experts=layers, files=files)
    extra = (LONG_CHUNK - CHUNK) * row_bytes(config.text)
    resident = large.data_bytes - sum(entry.count * entry.stride for entry in layers.values())
    ram = WORKING_BYTES + resident + 8 * extra
    assert place(large, config, ram=ram) == Placement("read", 7 * extra, ram, LONG_CHUNK)
    assert place(large, config, ram=ram - 8) == Placement("read", 8 * extra - 8, ram - 8, CHUNK)


def test_a_dense_model_has_no_experts_to_leave(manifest: Manifest, config: ModelConfig) -> None:
    dense = replace(config, text=replace(config.text, moe=None))
    with pytest.raises(DoesNotFit, match="--load mmap"):
        place(replace(manifest, experts={}), dense, ram=WORKING_BYTES + 1000)


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


def test_a_wish_is_followed(manifest: Manifest, config: ModelConfig) -> None:
    assert place(manifest, config, "mmap", ram=1) == Placement("mmap")
    assert place(manifest, config, "read") == Placement("read")


def test_experts_on_the_disk_are_not_in_memory() -> None:
    manifest = read_manifest(MINI)
    with PackedModel.open(MINI, ram=WORKING_BYTES + manifest.data_bytes - 1) as model:
        assert model.placement.expert_bytes is not None
        model.wait_for("")
        assert model.vector("language_model.norm.weight").any()
        with pytest.raises(KeyError):
            model.experts(0)
