import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from qwen35.errors import CheckpointError
from qwen35.weights.header import read_header


def write(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(begin: int, end: int, dtype: str = "F32", shape: tuple[int, ...] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape or [(end - begin) // 4], "data_offsets": [begin, end]}


def test_tensors_are_found_where_the_safetensors_package_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {
        "half": torch.randn(3, 5).to(torch.bfloat16),
        "full": torch.randn(2, 1, 4),
        "scalar": torch.tensor(7.0, dtype=torch.float16),
        "empty": torch.zeros(0, 3),
    }
    save_file(tensors, path, metadata={"format": "pt"})

    infos = read_header(path)

    assert infos.keys() == tensors.keys()
    data = path.read_bytes()
    for name, tensor in tensors.items():
        info = infos[name]
        assert info.shape == tuple(tensor.shape)
        assert info.path == path
        assert info.size_bytes == tensor.nbytes
        assert data[info.begin : info.end] == bytes(tensor.reshape(-1).view(torch.uint8).tolist())
    assert [infos[name].dtype for name in tensors] == ["BF16", "F32", "F16", "F32"]


def test_a_truncated_file_says_how_much_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(100)}, path)
    whole = path.read_bytes()

    path.write_bytes(whole[:-30])
    with pytest.raises(
        CheckpointError, match=f"truncated: expected {len(whole)} bytes, found {len(whole) - 30}"
    ):
        read_header(path)
    path.write_bytes(whole + b"!")
    with pytest.raises(
        CheckpointError, match=f"too long: expected {len(whole)} bytes, found {len(whole) + 1}"
    ):
        read_header(path)
    path.write_bytes(whole[:40])
    with pytest.raises(CheckpointError, match=r"its header alone needs \d+ bytes, found 40") as raised:
        read_header(path)
    assert raised.value.path == str(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "needs 8 bytes, found 0"),
        (b"\x05\x00", "needs 8 bytes, found 2"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "not a safetensors file"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match=rf"a\.safetensors: .*{reason}"):
        read_header(path)


@pytest.mark.parametrize(
    ("header", "data", "reason"),
    [
        (b"{]", b"", "not JSON"),
        (b"\xff\xfe", b"", "not JSON"),
        ([], b"", "expected a JSON object, found list"),
        (b'{"x": {}, "x": {}}', b"", "the key 'x' stands there twice"),
        ({"x": {"dtype": "F32", "shape": [1]}}, b"1234", "entry for 'x'"),
        ({"x": entry(0, 4) | {"data_offsets": [0]}}, b"1234", "entry for 'x'"),
        ({"x": entry(0, 4, shape=(2,))}, b"1234", r"'x' F32 \[2\] takes 8 bytes, the header gives 4"),
        ({"x": entry(0, 8), "y": entry(4, 12)}, bytes(12), "the data of 'y' overlap another tensor's"),
        ({"x": entry(0, 4), "y": entry(8, 12)}, bytes(12), "the data of 'y' .*leave a gap"),
        ({"x": entry(-4, 0)}, b"", "the data of 'x'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_damaged_header_is_named(tmp_path: Path, header: Any, data: bytes, reason: str) -> None:
    path = write(tmp_path / "a.safetensors", header, data)

    with pytest.raises(CheckpointError, match=rf"a\.safetensors: .*{reason}"):
        read_header(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a\.safetensors: cannot be read \(No such file"):
        read_header(tmp_path / "a.safetensors")
