"""The weight files of a model folder: one safetensors file, or shards and the index that lists them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from qwen35.errors import CheckpointError
from qwen35.weights.formats import refuse_unsupported
from qwen35.weights.header import TensorInfo, parse_json, read_header
from qwen35.weights.reading import read_into

if TYPE_CHECKING:
    import torch

SINGLE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Checkpoint:
    """All tensors of a model folder by their names in the files. Data is read on demand."""

    def __init__(self, path: Path, tensors: Mapping[str, TensorInfo]) -> None:
        self.path = path
        self.tensors = tensors

    @classmethod
    def open(cls, folder: Path) -> "Checkpoint":
        """Read the headers of every weight file.

        Raises CheckpointError for a folder that is not whole, and for weights that only packing can read.
        """
        tensors = read_tensors(folder)
        refuse_unsupported(tensors)
        return cls(folder, tensors)

    def dtype(self, name: str) -> "torch.dtype":
        import torch

        dtypes = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
        return dtypes[self.tensors[name].dtype]

    def read(self, name: str, out: "torch.Tensor | None" = None, first: int = 0) -> "torch.Tensor":
        """One tensor in the file's dtype, on the CPU. Raises CheckpointError.

        It has memory of its own, or is written into `out` (contiguous, of that dtype): as many values as
        that holds, from the value `first` on.
        """
        import torch

        info = self.tensors[name]
        if out is None:
            out = torch.empty(info.shape, dtype=self.dtype(name))
        begin = info.begin + first * out.element_size()
        read_into(info.path, begin, memoryview(out.view(-1).view(torch.uint8).numpy().data))
        return out


def read_tensors(folder: Path) -> dict[str, TensorInfo]:
    """What the headers of all weight files hold, of whatever type. Raises CheckpointError."""
    if not folder.is_dir():
        raise CheckpointError(_why_no_folder(folder), path=str(folder))
    index = folder / INDEX
    if (folder / SINGLE_FILE).exists():
        return read_header(folder / SINGLE_FILE)
    if index.exists():
        return _read_shards(index)
    raise CheckpointError(_why_no_weights(folder), path=str(folder))


def _read_shards(index: Path) -> dict[str, TensorInfo]:
    """Follow the index; what it says and what the shards hold must agree."""
    try:
        weight_map = parse_json(index, index.read_bytes()).get("weight_map")
    except OSError as error:
        raise CheckpointError(f"{index}: cannot be read ({error.strerror}).", path=str(index)) from None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: the key 'weight_map' is missing or empty.", path=str(index))
    shards = sorted(set(map(str, weight_map.values())))
    if outside := [shard for shard in shards if Path(shard).name != shard]:
        raise CheckpointError(f"{index}: names a file outside the folder: {outside[0]!r}.", path=str(index))
    if missing := [shard for shard in shards if not (index.parent / shard).exists()]:
        raise CheckpointError(
            f"{index.parent / missing[0]}: no such file, but {INDEX} lists it "
            f"({len(missing)} of {len(shards)} shards missing). Download the missing files.",
            path=str(index.parent / missing[0]),
        )
    tensors: dict[str, TensorInfo] = {}
    for shard in shards:
        header = read_header(index.parent / shard)
        listed = {name for name, home in weight_map.items() if home == shard}
        if absent := sorted(listed - header.keys()):
            raise _disagree(index, shard, "lacks", absent)
        if unlisted := sorted(header.keys() - listed):
            raise _disagree(index, shard, "also holds", unlisted)
        tensors |= header
    return tensors


def _disagree(index: Path, shard: str, verb: str, names: list[str]) -> CheckpointError:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return CheckpointError(
        f"{index.parent / shard}: {verb} '{names[0]}'{more}, against what {INDEX} says. "
        "The files belong to different versions of the model: download all of them again.",
        path=str(index.parent / shard),
    )


def _why_no_folder(path: Path) -> str:
    if not path.exists():
        return f"{path}: no such folder. A model is a folder with config.json and *.safetensors."
    if path.suffix == ".gguf":
        return f"{path}: a GGUF file has to be packed first: qwen models pack {path}"
    return f"{path}: a file where a model folder is meant. Give the folder that holds config.json."


def _why_no_weights(folder: Path) -> str:
    start = f"{folder}: neither {SINGLE_FILE} nor {INDEX} is there"
    if found := sorted(folder.glob("*.gguf")):
        return (
            f"{start}, only {found[0].name}. GGUF files have to be packed first: qwen models pack {found[0]}"
        )
    for pattern in ("pytorch_model*.bin", "*.pth"):
        if found := sorted(folder.glob(pattern)):
            return (
                f"{start}, only {found[0].name}. Pickled files are not supported: use the safetensors files."
            )
    return f"{start}. Download the model's weights into the folder."
