"""A model of a hub, packed as it comes: from a server on this machine that fails in every way."""

import errno
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwen35.errors import CheckpointError, NetworkError, UnwritableError
from qwen35.weights import pull_run, remote, remote_ahead
from qwen35.weights.checkpoint import INDEX
from qwen35.weights.manifest import MANIFEST, Manifest, read_manifest
from qwen35.weights.pack import pack
from qwen35.weights.pull import Pulled, pull
from qwen35.weights.remote import Hub, Rate
from qwen35.weights.verify import verify
from qwen35.weights.work_folder import WorkFolder
from tests.hub_server import Fault, Site, hub_server
from tests.model.reference import MOE
from tests.model.weights.packing import contents, tiny_checkpoint

NAME = "acme/tiny"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("hub") / "source", MOE)


@pytest.fixture(scope="module")
def expected(source: Path) -> dict[str, bytes]:
    """What packing the same files in a folder gives."""
    return weights_of(pack(source, source.parent / "expected").folder)


@pytest.fixture
def site(source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The server, with a client that is quick to try again and asks for small pieces."""
    monkeypatch.setattr(remote, "DELAYS_S", (0.01, 0.01, 0.01))
    monkeypatch.setattr(remote, "IMPATIENT_S", (0.01,))
    monkeypatch.setattr(remote_ahead, "FIRST_BYTES", 50_000)
    monkeypatch.setattr(remote_ahead, "MOST_BYTES", 50_000)
    with hub_server() as site:
        site.repos[NAME] = source
        yield site


def fetch(site: Site, target: Path, **options: object) -> Pulled:
    with closing(Hub(site.url, site.token)) as hub:
        return pull(hub, hub.repo(NAME), target, **options)  # type: ignore[arg-type]


def weights_of(folder: Path) -> dict[str, bytes]:
    """All files but the manifest, which tells where they come from."""
    return {name: data for name, data in contents(folder).items() if name != MANIFEST}


def once(fault: Fault, file: str = FIRST, at: int = 100_000) -> Callable[[str, int], Fault | None]:
    """That fault, the first time that this file is asked for beyond a byte."""
    left = [fault]
    lock = threading.Lock()

    def choose(asked: str, begin: int) -> Fault | None:
        with lock:
            return left.pop() if left and asked == file and begin >= at else None

    return choose


def always(fault: Fault, file: str = FIRST, at: int = 100_000) -> Callable[[str, int], Fault | None]:
    return lambda asked, begin: fault if asked == file and begin >= at else None


def test_what_is_pulled_is_what_packing_gives(
    site: Site, source: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    stages: dict[str, tuple[int, int]] = {}

    pulled = fetch(
        site, tmp_path / "out", on_progress=lambda stage, done, total: stages.update({stage: (done, total)})
    )

    assert not pulled.was_there
    assert pulled.unchecked == ()
    assert weights_of(pulled.folder) == expected
    verify(pulled.folder)
    manifest = read_manifest(pulled.folder)
    packed = read_manifest(source.parent / "expected")
    assert manifest.source.name == f"{NAME}@{site.commit[:12]}"
    assert (manifest.tensors, manifest.experts, manifest.files) == (
        packed.tensors,
        packed.experts,
        packed.files,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    done, total = stages["fetching"]
    assert done == total == pulled.bytes_fetched
    # Each byte of the weights came once, headers included.
    sizes = {name: (source / name).stat().st_size for name in (FIRST, SECOND)}
    assert {name: site.bytes_sent(name) for name in sizes} == sizes


def test_the_token_goes_to_the_hub_alone(site: Site, tmp_path: Path) -> None:
    site.token, site.gated = "hf_secret", {NAME}
    fetch(site, tmp_path / "out")
    assert {given for server, given in site.authorizations if server == "hub"} == {"Bearer hf_secret"}
    assert {given for server, given in site.authorizations if server == "storage"} == {None}


def test_a_second_pull_finds_it_there_and_fetches_nothing(site: Site, tmp_path: Path) -> None:
    first = fetch(site, tmp_path / "out")
    site.sent.clear()
    second = fetch(site, tmp_path / "out")
    assert (second.was_there, second.manifest) == (True, first.manifest)
    assert site.sent == []


def test_a_newer_commit_is_not_written_over_an_older_one(site: Site, tmp_path: Path) -> None:
    fetch(site, tmp_path / "out")
    site.commit = "beef" * 10
    with pytest.raises(
        UnwritableError, match=r"packed from commit c0ffee0{6}; the repository is at beefbeefbeef"
    ):
        fetch(site, tmp_path / "out")


@pytest.mark.parametrize("fault", ["cut", "stall", "503", "429", "403"])
def test_what_may_get_better_is_tried_again(
    site: Site, expected: dict[str, bytes], tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """403: the address that the hub gave is too old for the storage; it is asked for anew."""
    monkeypatch.setattr(remote, "READ_TIMEOUT_S", 0.5)
    site.fault = once(fault)
    troubles: list[str] = []
    with closing(Hub(site.url, on_trouble=troubles.append)) as hub:
        pulled = pull(hub, hub.repo(NAME), tmp_path / "out")
    assert weights_of(pulled.folder) == expected
    assert len(troubles) == 1
    assert "trying again" in troubles[0]
    if fault == "cut":  # what had come was not asked for again
        assert site.bytes_sent(FIRST) <= (site.repos[NAME] / FIRST).stat().st_size


def test_signatures_that_age_are_renewed(site: Site, expected: dict[str, bytes], tmp_path: Path) -> None:
    site.max_age = 12
    assert weights_of(fetch(site, tmp_path / "out").folder) == expected
    assert sum("/resolve/" in path and FIRST in path for path in site.requests) > 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("cut", r"peer closed connection .*\)\. What has come so far is kept"),
        ("503", r"answered 503 Service Unavailable\). What has come so far is kept"),
        ("404", r"127\.0\.0\.1 answered 404 Not Found\. What has come so far is kept"),
        ("html", "an HTML page came instead of the file"),
        ("whole", "sends whole files where byte ranges are asked for"),
        ("changed", r"changed while it was fetched \(its ETag was"),
    ],
)
def test_what_does_not_get_better_is_said_and_the_rest_is_kept(
    site: Site, expected: dict[str, bytes], tmp_path: Path, fault: Fault, message: str
) -> None:
    site.fault = always(fault, at=150_000)
    with pytest.raises(NetworkError, match=message):
        fetch(site, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    site.fault = lambda *_: None

    pulled = fetch(site, tmp_path / "out")

    assert pulled.bytes_resumed > 0
    assert weights_of(pulled.folder) == expected


@pytest.mark.parametrize("when", ["in one run", "after an interrupt"])
def test_a_wrong_byte_is_found_by_the_files_hash(
    site: Site, expected: dict[str, bytes], tmp_path: Path, when: str
) -> None:
    """Also where two processes read the file, each a part: the hash goes on."""
    site.fault = once("wrong byte")
    if when == "after an interrupt":
        interrupt(site, tmp_path / "out", after=300_000)
    with pytest.raises(
        NetworkError, match=rf"{FIRST}: what came is not what the hub tells of .* thrown away"
    ):
        fetch(site, tmp_path / "out")
    assert not (tmp_path / "out").exists()

    pulled = fetch(site, tmp_path / "out")

    assert weights_of(pulled.folder) == expected
    assert pulled.bytes_resumed == 0  # it was in the first file: all that came after it was not kept either


def test_a_wrong_byte_in_a_small_file_is_found(site: Site, source: Path, tmp_path: Path) -> None:
    site.fault = once("wrong byte", "tokenizer_config.json", 0)
    with pytest.raises(NetworkError, match=r"tokenizer_config\.json: what came is not what the hub tells of"):
        fetch(site, tmp_path / "out")


class AtOnce(ThreadPoolExecutor):
    """Packs what it is given before it returns: a pull is then as far as what has come."""

    def submit(self, fn: Callable[..., Any], /, *args: object, **kwargs: object) -> "Future[Any]":
        packed = super().submit(fn, *args, **kwargs)
        packed.exception()
        return packed


def interrupt(site: Site, target: Path, after: int) -> None:
    """Stop a pull in this process when so many bytes have come, and all of them are packed and written."""

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "fetching" and done >= after:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pull_run, "ThreadPoolExecutor", AtOnce)
        with pytest.raises(KeyboardInterrupt):
            fetch(site, target, on_progress=stop)


def test_ctrl_c_keeps_what_has_come(site: Site, expected: dict[str, bytes], tmp_path: Path) -> None:
    interrupt(site, tmp_path / "out", after=400_000)
    lines = journal_lines(tmp_path / "out")
    assert len(lines) > 5
    site.sent.clear()

    pulled = fetch(site, tmp_path / "out")

    assert weights_of(pulled.folder) == expected
    assert pulled.unchecked == ()
    # What had been finished was not asked for, nor the headers.
    assert min(sent.begin for sent in site.sent if sent.file == FIRST) >= lines[-1]["hashed"]


def journal_lines(target: Path) -> list[dict]:
    journal = WorkFolder.beside(target).journal
    return [json.loads(line) for line in journal.read_bytes().split(b"\n")[1:-1]]


@pytest.mark.parametrize("damage", ["a byte of the data", "the last line", "all data"])
def test_what_the_journal_claims_is_checked(
    site: Site, expected: dict[str, bytes], tmp_path: Path, damage: str
) -> None:
    interrupt(site, tmp_path / "out", after=400_000)
    work, num_lines = WorkFolder.beside(tmp_path / "out"), len(journal_lines(tmp_path / "out"))
    if damage == "the last line":
        work.journal.write_bytes(work.journal.read_bytes()[:-20])
    for path in work.files.glob("*.bin"):
        if damage == "all data":
            path.unlink()
        elif damage == "a byte of the data":
            data = bytearray(path.read_bytes())
            data[: len(data) // 2 : 1000] = bytes(byte ^ 4 for byte in data[: len(data) // 2 : 1000])
            path.write_bytes(data)
    pulled = fetch(site, tmp_path / "out")
    assert weights_of(pulled.folder) == expected
    assert num_lines > 1


def test_an_unfinished_pull_of_something_else_is_left_alone_unless_told(
    site: Site, expected: dict[str, bytes], tmp_path: Path
) -> None:
    interrupt(site, tmp_path / "out", after=400_000)
    before = contents(tmp_path)
    with pytest.raises(UnwritableError, match=r"unfinished model of another .* --restart"):
        fetch(site, tmp_path / "out", quant="q8")
    assert contents(tmp_path) == before
    assert weights_of(fetch(site, tmp_path / "out", restart=True).folder) == expected


def test_two_pulls_share_one(site: Site, expected: dict[str, bytes], tmp_path: Path) -> None:
    site.bytes_per_s = 400_000.0  # of each connection
    results: list[Pulled] = []
    stages: list[str] = []
    first = threading.Thread(target=lambda: results.append(fetch(site, tmp_path / "out")))
    first.start()
    while not WorkFolder.beside(tmp_path / "out").journal.exists():
        time.sleep(0.01)
    second = fetch(site, tmp_path / "out", on_progress=lambda stage, *_: stages.append(stage))
    first.join()
    assert (second.was_there, results[0].was_there) == (True, False)
    assert set(stages) == {"waiting"}
    assert weights_of(second.folder) == expected
    assert site.bytes_sent(FIRST) == (site.repos[NAME] / FIRST).stat().st_size


def test_the_rate_is_limited_for_all_connections_together(site: Site, tmp_path: Path) -> None:
    rate = Rate(1e9)
    with closing(Hub(site.url, rate=rate)) as hub:
        pulled = pull(hub, hub.repo(NAME), tmp_path / "out")
    # Each byte was paid for: at 1 GB/s they took this long at least, one after another.
    assert rate.num_bytes >= pulled.bytes_fetched


def test_a_repository_of_another_family_is_named(site: Site, source: Path, tmp_path: Path) -> None:
    values = json.loads((source / "config.json").read_text()) | {"architectures": ["LlamaForCausalLM"]}
    with pytest.raises(
        CheckpointError, match=r"^acme/tiny/config\.json: unknown architecture 'LlamaForCausalLM'"
    ):
        open_variant(site, tmp_path, {"config.json": json.dumps(values).encode()})


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": None}, "has no config.json: not a model"),
        ({"config.json": None, "m.gguf": b"GGUF"}, r"holds GGUF files \(m\.gguf, \.\.\.\) and no config"),
        ({SECOND: None}, rf"{SECOND} is not there, but {INDEX} lists it \(1 of 2 shards missing\)"),
        ({INDEX: None, "pytorch_model.bin": b"x"}, r"neither model\.safetensors nor .* only \.bin files"),
        ({INDEX: b'{"weight_map": {"a": "../x"}}'}, r"names a file outside the folder: '\.\./x'"),
        ({FIRST: b"\x10\0\0\0\0\0\0\0{}"}, rf"^acme/tiny/{FIRST}: truncated"),
        ({FIRST: b"version https://git-lfs"}, "Git LFS pointer"),
        ({FIRST: b"<html>"}, "truncated, or not a safetensors file"),
    ],
)
def test_a_repository_that_is_not_whole_is_refused_before_weights_are_fetched(
    site: Site, tmp_path: Path, files: dict[str, bytes | None], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_variant(site, tmp_path, files)
    assert site.bytes_sent() < 300_000
    assert [path.name for path in tmp_path.iterdir()] == ["repo"]


def open_variant(site: Site, tmp_path: Path, files: dict[str, bytes | None]) -> None:
    """Pull a copy of the repository in which these files are others, or not there."""
    folder = tmp_path / "repo"
    folder.mkdir()
    for path in site.repos[NAME].iterdir():
        if path.name not in files:
            (folder / path.name).symlink_to(path)
    for name, data in files.items():
        if data is not None:
            (folder / name).write_bytes(data)
    site.repos[NAME] = folder
    fetch(site, tmp_path / "out")


def test_a_file_that_is_cut_short_on_the_hub_is_refused(site: Site, source: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"^acme/tiny/{FIRST}: truncated: expected \d+ bytes, found"):
        open_variant(site, tmp_path, {FIRST: (source / FIRST).read_bytes()[:-1000]})


def test_a_full_disk_is_said_before_anything_is_fetched(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = type("Usage", (), {"free": 10_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    with pytest.raises(UnwritableError, match=r"0\.03 GB are needed, 0\.01 GB are free\. Make room"):
        fetch(site, tmp_path / "out")
    assert {sent.begin for sent in site.sent if sent.file == FIRST} <= {0, 8}  # its header alone


class FullDisk(io.FileIO):
    """It has room for some of the weights."""

    num_written = 0

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        if self.num_written > 50_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.num_written += len(data)
        return super().write(data)


def test_a_disk_that_fills_up_meanwhile_is_said_and_what_is_packed_is_kept(
    site: Site, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("qwen35.weights.pull_run._open", lambda path, size_bytes: FullDisk(path, "w+"))
        with pytest.raises(
            UnwritableError, match=r"the disk is full \(No space left .*What is packed so far"
        ):
            fetch(site, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    pulled = fetch(site, tmp_path / "out")
    assert pulled.bytes_resumed > 0
    assert weights_of(pulled.folder) == expected


def test_quantised_repositories_are_pulled_too(site: Site, source: Path, tmp_path: Path) -> None:
    """FP8 in blocks, whose scales lie elsewhere than the weights."""
    folder = fp8_of(source, tmp_path / "fp8")
    site.repos[NAME] = folder
    expected = weights_of(pack(folder, tmp_path / "expected").folder)
    interrupt(site, tmp_path / "out", after=400_000)

    pulled = fetch(site, tmp_path / "out")

    assert weights_of(pulled.folder) == expected
    assert imports_of(pulled.manifest)
    assert pulled.manifest.imports == read_manifest(tmp_path / "expected").imports


def imports_of(manifest: Manifest) -> set[str]:
    return {entry.encoding for entry in manifest.imports.values()}


def fp8_of(source: Path, folder: Path) -> Path:
    """The checkpoint with attention in FP8, and all scales in the second shard."""
    folder.mkdir()
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    shards = {name: load_file(source / name) for name in (FIRST, SECOND)}
    for name in list(shards[FIRST]):
        if name.endswith(("q_proj.weight", "out_proj.weight", "in_proj_qkv.weight")):
            weight = shards[FIRST][name].float()
            shards[FIRST][name] = (weight / 0.01).to(torch.float8_e4m3fn)
            blocks = [-(-size // 128) for size in weight.shape]
            shards[SECOND][f"{name}_scale_inv"] = torch.full(blocks, 0.01, dtype=torch.bfloat16)
    for name, tensors in shards.items():
        save_file(tensors, folder / name)
    weight_map = {name: shard for shard, tensors in shards.items() for name in tensors}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_without_that_openssl_a_file_of_two_runs_is_said_to_be_unchecked(
    site: Site, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwen35.weights.midstate._openssl", lambda: None)
    interrupt(site, tmp_path / "out", after=400_000)
    pulled = fetch(site, tmp_path / "out")
    assert pulled.unchecked == (FIRST,)
    assert weights_of(pulled.folder) == expected


def test_httpcore_still_has_what_is_set_for_speed(site: Site) -> None:
    from httpcore._sync.http11 import HTTP11Connection

    Hub(site.url).close()
    assert HTTP11Connection.READ_NUM_BYTES == 1 << 20
