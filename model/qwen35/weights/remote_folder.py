"""A repository of a hub as `Files`: config, tokenizer and headers are fetched, the weights stay there."""

import hashlib
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from qwen35.config import ModelConfig
from qwen35.errors import CheckpointError, NetworkError
from qwen35.weights.checkpoint import INDEX, SINGLE_FILE, read_tensors
from qwen35.weights.header import LENGTH_BYTES, TensorInfo, parse_json
from qwen35.weights.manifest import MANIFEST
from qwen35.weights.remote import Hub, RemoteFile, Repo
from qwen35.weights.source import Files
from qwen35.weights.sources.safetensors import SMALL_FILES
from qwen35.weights.work_folder import write_synced, writing

ABOUT_WEIGHTS = ("config.json", INDEX, "quantize_config.json", "quant_config.json")

_LONGEST_HEADER = 100 << 20  # as the format's own library has it
_NUM_CONNECTIONS = 8


@dataclass(frozen=True, slots=True)
class Remote:
    """What is known of a repository's model before its weights are fetched.

    Paths in `tensors` are REPO/FILE: they lead nowhere here, and name the file in errors. `weights` are the
    files that these lie in, in the order of their names, `headers` how each begins.
    """

    files: Files
    weights: tuple[RemoteFile, ...]
    headers: dict[str, bytes]


def open_remote(hub: Hub, repo: Repo, keep: Path | None = None) -> Remote:
    """Fetch what tells about the weights, with `keep` (a folder) all small files, which then lie there.

    Raises NetworkError, and CheckpointError for what is not a whole model of this family.
    """
    small = _Small(hub, repo, keep)
    if "config.json" not in repo.files:
        raise _no_model(repo)
    where = f"{repo.name}/config.json"
    ModelConfig.from_dict(parse_json(Path(where), small.fetch("config.json")), where)
    names = [name for name in (*ABOUT_WEIGHTS, *(SMALL_FILES if keep else ())) if name in repo.files]
    weights = _weight_files(repo, small)
    with ThreadPoolExecutor(_NUM_CONNECTIONS, "header") as pool:
        fetched = pool.map(small.fetch, names)
        headers = list(pool.map(lambda file: _fetch_header(hub, repo, file, keep), weights))
        contents = dict(zip(names, fetched, strict=True))
    tensors = {
        name: replace(info, path=Path(repo.name) / info.path.name)
        for name, info in _read_headers(repo, weights, headers, contents.get(INDEX)).items()
    }
    version = [repo.name, repo.commit, [(file.name, file.size_bytes, file.sha256) for file in weights]]
    files = Files(Path(repo.name), tensors, contents.get, lambda: version)
    return Remote(files, weights, dict(zip((file.name for file in weights), headers, strict=True)))


def check_content(repo: Repo, file: RemoteFile, data: bytes) -> None:
    """Raise NetworkError where `data` are not the file that the hub tells of."""
    if file.sha256:
        is_right = hashlib.sha256(data).hexdigest() == file.sha256
    else:
        is_right = file.git_sha1 in (None, _git_sha1(data))
    if not is_right:
        raise NetworkError(
            f"{repo.name}/{file.name}: what came is not what the hub tells of (its checksum differs). "
            "Run the same command again.",
            path=f"{repo.name}/{file.name}",
        )


def _git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class _Small:
    """Small files, each checked; those of an earlier run are taken from `keep`."""

    hub: Hub
    repo: Repo
    keep: Path | None

    def fetch(self, name: str) -> bytes:
        file = self.repo.files[name]
        kept = self.keep / name if self.keep else None
        if kept and kept.exists():
            data = kept.read_bytes()
            try:
                check_content(self.repo, file, data)
                return data
            except NetworkError:
                pass  # not whole, or of another commit
        data = self.hub.fetch(self.repo, file)
        check_content(self.repo, file, data)
        if kept:
            with writing(kept):
                kept.parent.mkdir(parents=True, exist_ok=True)
                write_synced(kept, data)
        return data


def _no_model(repo: Repo) -> CheckpointError:
    advice = "Give a repository with config.json and safetensors files."
    if gguf := sorted(name for name in repo.files if name.endswith(".gguf")):
        what = f"holds GGUF files ({gguf[0]}, ...) and no config.json"
        advice = "Download one of them, then: qwen models pack FILE.gguf; or give the original repository."
    elif MANIFEST in repo.files:
        what = "has no config.json"
    else:
        what = "has no config.json: not a model"
    return CheckpointError(f"{repo.name}: {what}. {advice}", path=repo.name)


def _weight_files(repo: Repo, small: _Small) -> tuple[RemoteFile, ...]:
    """The single file, or the shards that the index lists."""
    if SINGLE_FILE in repo.files:
        return (repo.files[SINGLE_FILE],)
    if INDEX not in repo.files:
        kinds = sorted({Path(name).suffix for name in repo.files} & {".gguf", ".bin", ".pth", ".pt"})
        found = f", only {', '.join(kinds)} files" if kinds else ""
        raise CheckpointError(
            f"{repo.name}: neither {SINGLE_FILE} nor {INDEX} is there{found}. Weights are taken from "
            "safetensors files alone.",
            path=repo.name,
        )
    weight_map = parse_json(Path(repo.name) / INDEX, small.fetch(INDEX)).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{repo.name}/{INDEX}: the key 'weight_map' is missing or empty.", path=repo.name
        )
    shards = sorted(set(map(str, weight_map.values())))
    if outside := [name for name in shards if Path(name).name != name]:
        raise CheckpointError(
            f"{repo.name}/{INDEX}: names a file outside the folder: {outside[0]!r}.", path=repo.name
        )
    if missing := [name for name in shards if name not in repo.files]:
        raise CheckpointError(
            f"{repo.name}: {missing[0]} is not there, but {INDEX} lists it ({len(missing)} of {len(shards)} "
            "shards missing). The repository is not whole.",
            path=repo.name,
        )
    return tuple(repo.files[name] for name in shards)


def _fetch_header(hub: Hub, repo: Repo, file: RemoteFile, keep: Path | None) -> bytes:
    """The file's beginning, up to its first tensor: not a byte of that is fetched twice."""
    kept = keep / f"{file.name}.header" if keep else None
    if kept and kept.exists():
        return kept.read_bytes()
    data = bytearray(min(LENGTH_BYTES, file.size_bytes))
    hub.read(repo, file, 0, memoryview(data), is_patient=False)
    length = int.from_bytes(data, "little")
    if length <= min(file.size_bytes - len(data), _LONGEST_HEADER):  # else there is none: reading it says so
        text = bytearray(length)
        hub.read(repo, file, len(data), memoryview(text), is_patient=False)
        data += text
    if kept:
        with writing(kept):
            write_synced(kept, bytes(data))
    return bytes(data)


def _read_headers(
    repo: Repo, weights: Sequence[RemoteFile], headers: Sequence[bytes], index: bytes | None
) -> dict[str, TensorInfo]:
    """What a folder with these files would hold. One is made, of holes behind the headers."""
    with tempfile.TemporaryDirectory(prefix="qwen-") as made:
        folder = Path(made)
        for file, header in zip(weights, headers, strict=True):
            with (folder / file.name).open("wb") as stub:
                stub.write(header)
                stub.truncate(file.size_bytes)
        if index is not None:
            (folder / INDEX).write_bytes(index)
        try:
            return read_tensors(folder)
        except CheckpointError as error:
            message = str(error).replace(str(folder), repo.name)
            raise CheckpointError(message, path=repo.name) from None
