"""Packed folders that are whole are opened, all others are refused by name."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen35.errors import CheckpointError, DoesNotFit
from qwen35.weights import arena
from qwen35.weights.arena import Extent, Reader
from qwen35.weights.checksum import checksum
from qwen35.weights.layout import EXPERTS, TEXT, VISION
from qwen35.weights.manifest import MANIFEST, read_manifest
from qwen35.weights.pack import pack
from qwen35.weights.packed import PackedModel
from qwen35.weights.placement import LoadMode
from qwen35.weights.verify import verify
from tests.model.checkpoint import write_checkpoint
from tests.model.reference import MOE, reference_model
from tests.model.weights.packing import least_ram, whole_ram

MODEL = Path(__file__).resolve().parents[3] / "model"

QKV = "language_model.layers.0.linear_attn.in_proj_qkv.weight"
NORM = "language_model.norm.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    (folder / "source").mkdir()
    write_checkpoint(folder / "source", reference_model(MOE), MOE)
    return pack(folder / "source", folder / "q4").folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def flip(path: Path, offset: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """As another program would write it: with a checksum that fits."""
    values = json.loads((folder / MANIFEST).read_bytes())
    del values["sha256"]
    change(values)
    body = json.dumps(values).removeprefix("{").encode()
    sha256 = hashlib.sha256(body).hexdigest()
    (folder / MANIFEST).write_bytes(b'{"sha256": "%s",\n' % sha256.encode() + body)


@pytest.mark.parametrize("load", ["read", "mmap", "auto"])
def test_every_way_to_load_gives_the_same_bytes(whole: Path, load: LoadMode) -> None:
    import ctypes

    with PackedModel.open(whole, load) as model:
        model.wait_for("")
        manifest = model.manifest
        for name, entry in manifest.tensors.items():
            address, format_name, n, k = model.matrix(name)
            assert address % 64 == 0
            assert (format_name, n * k) == (entry.format, int(np.prod(entry.shape)))
            data = ctypes.string_at(address, entry.size_bytes)
            assert checksum(data) == entry.checksum, name
        for index, layer in [*enumerate(list(manifest.experts)[:4]), ("mtp.layers.0", "mtp.layers.0")]:
            (address, stride), format_name = model.experts(index), model.expert_format(index)
            assert (address % 4096, stride % 4096, format_name) == (0, 0, "q4")
            for e, expected in enumerate(manifest.experts[layer].checksums):
                record = ctypes.string_at(address + e * stride, stride)
                assert checksum(record) == expected


def test_what_is_there_is_told(whole: Path) -> None:
    with PackedModel.open(whole) as model:
        assert model.has(QKV)
        assert not model.has("language_model.layers.3.linear_attn.in_proj_qkv.weight")
        assert model.has_experts(3)
        assert model.has_experts("mtp.layers.0")
        assert not model.has_experts(4)
        assert model.config.text.num_mtp_layers == 1
        assert model.matrix("visual.patch_embed.proj.weight")[1:] == ("q8", 40, 3 * 2 * 16 * 16)
        assert model.matrix("language_model.layers.0.mlp.gate.weight")[1:] == ("f32", 7, 50)
        assert model.vector("language_model.layers.0.linear_attn.conv1d.weight").shape[1:] == (1, 4)
        with pytest.raises(AssertionError, match="is packed as q4"):
            model.vector(QKV)


def test_close_is_safe(whole: Path) -> None:
    for load in ("read", "mmap"):
        model = PackedModel.open(whole, load)  # type: ignore[arg-type]
        norm = model.vector(NORM)
        expected = norm.copy()
        with pytest.raises(ValueError, match="read-only"):
            norm[0] = 1
        model.close()
        model.close()
        with pytest.raises(AssertionError, match="closed"):
            model.matrix(QKV)
        assert np.array_equal(norm, expected)


def test_progress_counts_to_the_end(whole: Path) -> None:
    steps: list[tuple[int, int]] = []
    model = PackedModel.open(whole, "read", lambda done, total: steps.append((done, total)))
    model.wait_for("")
    assert steps[-1] == (model.manifest.data_bytes,) * 2


def test_what_is_waited_for_is_there(whole: Path) -> None:
    with PackedModel.open(whole, "mmap") as mapped:
        for prefix in ("visual.", "language_model.norm", "mtp.", "language_model.layers.3."):
            with PackedModel.open(whole, "read") as model:
                model.wait_for(prefix)
                for name, entry in model.manifest.tensors.items():
                    if name.startswith(prefix):
                        sides = [m._bytes(name, entry.offset, entry.size_bytes) for m in (model, mapped)]
                        assert np.array_equal(*sides), name


def test_what_is_in_memory_where_it_is_short_is_the_same(whole: Path) -> None:
    """Whatever stays of the layers; the others are brought by a LayerStream (tests/model/experts)."""
    step = 20_000
    with PackedModel.open(whole, "mmap") as mapped:
        for ram in range(least_ram(whole), whole_ram(whole), step):
            with PackedModel.open(whole, ram=ram) as model:
                elsewhere = {name for layer in model.streamed for name in layer.stretch.names}
                model.wait_for("")
                for name, entry in model.manifest.tensors.items():
                    if name not in elsewhere:
                        sides = [m._bytes(name, entry.offset, entry.size_bytes) for m in (model, mapped)]
                        assert np.array_equal(*sides), name


def test_a_file_that_fails_while_it_is_read_is_named(whole: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(whole, copy)
    model = PackedModel.open(copy, "mmap")
    size_bytes = model.manifest.files["vision.bin"].size_bytes
    extents = [Extent(copy / "text.bin", 4096), Extent(copy / "vision.bin", size_bytes + 4096)]
    reader = Reader(extents)
    with pytest.raises(CheckpointError, match=r"vision\.bin: became shorter"):
        reader.wait_for(1, size_bytes + 4096)


def test_the_file_that_is_waited_for_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture's encoder must not wait for the experts that lie before it."""
    monkeypatch.setattr("qwen35.weights.arena._PIECE", 4096)
    order, real, may_read = [], arena.read_into, threading.Semaphore(4)  # one piece for each thread

    def read_slowly(path: Path, offset: int, memory: memoryview) -> None:
        may_read.acquire()
        order.append(path.name)
        real(path, offset, memory)

    monkeypatch.setattr("qwen35.weights.arena.read_into", read_slowly)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x" * 4096 * 16)
    reader = Reader([Extent(tmp_path / name, 4096 * 16) for name in ("a", "b")])
    waiter = threading.Thread(target=reader.wait_for, args=(1, 4096 * 16))
    waiter.start()
    while reader._wanted != 1:
        time.sleep(0.001)
    may_read.release(1000)
    waiter.join()
    last = max(index for index, name in enumerate(order) if name == "b")
    assert order[:last].count("a") <= 8 + 4  # taken before it was wanted, or while b's last ones were read


def test_too_little_memory_is_said(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("qwen35.memory.mmap.mmap", refuse)
    with pytest.raises(DoesNotFit, match="Close other programs, or use a smaller model"):
        PackedModel.open(whole, "read")


def test_auto_maps_what_does_not_fit(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen35.weights.placement.available_memory", lambda: 1000)
    monkeypatch.setattr("qwen35.weights.packed.Reader", lambda *_: pytest.fail("read"))
    PackedModel.open(whole).close()


def test_opening_imports_no_torch(whole: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from qwen35.weights.packed import PackedModel; "
        "from qwen35.weights.pack import pack; PackedModel.open(Path(sys.argv[1])); "
        "print([name for name in ('torch', 'psutil', 'safetensors') if name in sys.modules])"
    )
    run = [sys.executable, "-c", code, str(whole)]
    out = subprocess.run(
        run, check=True, capture_output=True, text=True, env={"PYTHONPATH": str(MODEL)}
    ).stdout
    assert out == "[]\n"


def test_a_whole_model_verifies(whole: Path) -> None:
    steps: list[tuple[int, int]] = []
    found = verify(whole, lambda done, total: steps.append((done, total)))

    assert (found.num_tensors, found.num_records) == (len(read_manifest(whole).tensors), 35)
    assert (
        steps[-1][0]
        == steps[-1][1]
        == sum(path.stat().st_size for path in whole.iterdir() if path.name != MANIFEST)
    )


def refused(folder: Path, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason) as raised:
        PackedModel.open(folder)
    assert str(folder) in str(raised.value)


@pytest.mark.parametrize("file", [TEXT, EXPERTS, VISION, "tokenizer.json", "config.json"])
@pytest.mark.parametrize("length", [-1, 1])
def test_a_file_of_another_length_is_refused_at_open(copy: Path, file: str, length: int) -> None:
    data = (copy / file).read_bytes()
    (copy / file).write_bytes(data[:-1] if length < 0 else data + b"x")

    refused(
        copy, rf"{file}: {'truncated' if length < 0 else 'changed'}: [\d,]+ bytes, packed with [\d,]+\. Pack"
    )


@pytest.mark.parametrize("file", [TEXT, "chat_template.jinja"])
def test_a_missing_file_is_refused_at_open(copy: Path, file: str) -> None:
    (copy / file).unlink()
    refused(copy, rf"{file}: cannot be read \(No such file or directory\), but the manifest lists it")


def test_without_its_manifest_nothing_is_a_packed_model(copy: Path) -> None:
    (copy / MANIFEST).unlink()
    refused(copy, r"manifest\.json: no such file\. .* if packing was interrupted, run it again")


def test_no_flipped_bit_of_the_manifest_goes_unseen(copy: Path) -> None:
    data = (copy / MANIFEST).read_bytes()
    for offset in (0, 3, 12, 20, 75, 79, 80, 85, 95, 200, len(data) // 2, len(data) - 1):
        for bit in (0, 4, 7):
            (copy / MANIFEST).write_bytes(data)
            flip(copy / MANIFEST, offset, bit)
            refused(copy, "damaged: its own checksum|not the manifest of a packed model")
    (copy / MANIFEST).write_bytes(data[: len(data) // 2])
    refused(copy, "damaged: its own checksum does not fit")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda m: m.update(version=1),
            "version 1 of the format; this program reads 2. Update qwen, or pack the model again",
        ),
        (lambda m: m.update(format="other"), "its format is 'other', not 'qwen-packed'"),
        (
            lambda m: m["tensors"][QKV].update(format="q4m"),
            "packed as 'q4m', which this program does not know",
        ),
        (
            lambda m: m["experts"]["language_model.layers.0"].update(format="q3"),
            "packed as 'q3', which this program does not know",
        ),
        (lambda m: m.pop("experts"), "incomplete or malformed"),
        (lambda m: m["tensors"][QKV].pop("offset"), "incomplete or malformed"),
        (lambda m: m["tensors"][QKV].update(offset=1 << 40), f"place of '{QKV}' does not fit"),
        (lambda m: m["tensors"][QKV].update(offset=-4096), f"place of '{QKV}' does not fit"),
        (lambda m: m["tensors"][QKV].update(shape=[500, 50]), f"place of '{QKV}' does not fit"),
        (lambda m: m["experts"]["mtp.layers.0"].update(count=8), "experts of 'mtp.layers.0' do not fit"),
        (lambda m: m["files"].update({"../x": {"size_bytes": 1, "sha256": ""}}), "outside the folder"),
        (lambda m: m["tensors"].pop(NORM), f"does not describe the packed weights: '{NORM}' is None"),
    ],
)
def test_a_manifest_that_is_not_ours_is_refused(
    copy: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    rewrite_manifest(copy, lambda _: None)
    PackedModel.open(copy).close()
    rewrite_manifest(copy, change)
    refused(copy, reason)


def test_a_foreign_manifest_is_refused(copy: Path) -> None:
    (copy / MANIFEST).write_text('{"name": "an app", "icons": []}\n')
    refused(copy, "not the manifest of a packed model. Is this another program's folder?")


def test_another_config_than_the_packed_one_is_refused(copy: Path) -> None:
    text = (copy / "config.json").read_text()
    changed = text.replace('"moe_intermediate_size": 22', '"moe_intermediate_size": 21')
    assert changed != text
    (copy / "config.json").write_text(changed)
    refused(copy, r"config\.json: does not describe the packed weights: .*experts")


@pytest.mark.parametrize(
    ("name", "where"), [(QKV, 0), (QKV, 70), ("visual.blocks.1.mlp.linear_fc2.weight", 1000), (NORM, 7)]
)
def test_verify_names_the_tensor_with_a_flipped_bit(copy: Path, name: str, where: int) -> None:
    entry = read_manifest(copy).tensors[name]
    flip(copy / entry.file, entry.offset + where, 5)
    PackedModel.open(copy).close()  # sizes still fit

    with pytest.raises(CheckpointError) as raised:
        verify(copy)

    begin, end = f"{entry.offset:,}", f"{entry.offset + entry.size_bytes:,}"
    assert f"{copy / entry.file}: '{name}' is damaged (bytes {begin} to {end}). Pack" in str(raised.value)


def test_verify_names_the_first_expert_with_a_flipped_bit(copy: Path) -> None:
    entry = read_manifest(copy).experts["language_model.layers.2"]
    for e in (5, 3):
        flip(copy / EXPERTS, entry.offset + e * entry.stride + 100)

    with pytest.raises(
        CheckpointError, match=r"experts\.bin: expert 3 of 'language_model\.layers\.2' is damaged"
    ):
        verify(copy)


def test_verify_sees_what_lies_between_tensors_and_in_small_files(copy: Path) -> None:
    ends = {
        entry.offset + entry.size_bytes
        for entry in read_manifest(copy).tensors.values()
        if entry.file == TEXT
    }
    begins = {entry.offset for entry in read_manifest(copy).tensors.values() if entry.file == TEXT}
    gap = min(ends - begins)
    flip(copy / TEXT, gap)
    with pytest.raises(CheckpointError, match=r"text\.bin: damaged or changed since it was packed"):
        verify(copy)
    flip(copy / TEXT, gap)
    flip(copy / "tokenizer.json", 100)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: damaged or changed since it was packed"):
        verify(copy)
