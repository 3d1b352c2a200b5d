"""Repositories of a hub and byte ranges of their files, by HTTP, as huggingface_hub's conventions have it.

A file is asked of the hub, which answers or sends on to its storage; where to is kept until the storage
refuses. What goes wrong on the way is tried again, from the byte where it stopped; what cannot get better is
raised at once. Nothing here knows what a tensor is.
"""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin, urlsplit

from qwen35.errors import NetworkError
from qwen35.weights.remote_errors import (
    Retry,
    Stopped,
    changed,
    no_json,
    no_ranges,
    refused,
    refused_by_storage,
    unreachable,
)

if TYPE_CHECKING:
    import httpx

DELAYS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0)  # between tries that bring not one byte
IMPATIENT_S = DELAYS_S[:2]  # where a person waits for the first answer
LONGEST_DELAY_S = 120.0  # whatever a server asks for
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10.0, 30.0
MAX_REDIRECTS = 5

_BLOCK_BYTES = 1 << 20  # at most, from a socket at once


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """`sha256` of a file in the hub's large storage; `git_sha1` of one that is kept in git itself."""

    name: str
    size_bytes: int
    sha256: str | None
    git_sha1: str | None


@dataclass(frozen=True, slots=True)
class Repo:
    """A repository at one commit, which never changes."""

    name: str
    commit: str
    files: dict[str, RemoteFile]
    license: str | None

    @classmethod
    def from_dict(cls, values: dict[str, Any], name: str) -> "Repo":
        """Of the hub's answer. Raises LookupError, TypeError or ValueError for anything else."""
        files = {}
        for entry in values["siblings"]:
            lfs = entry.get("lfs") or {}
            file = RemoteFile(
                str(entry["rfilename"]),
                int(lfs.get("size", entry["size"])),
                lfs.get("sha256"),
                None if lfs else entry.get("blobId"),
            )
            files[file.name] = file
        tags = [tag for tag in values.get("tags") or () if str(tag).startswith("license:")]
        return cls(name, str(values["sha"]), files, tags[0].removeprefix("license:") if tags else None)


@dataclass(slots=True)
class Rate:
    """At most `bytes_per_s` for all threads together; None: no limit. Mutable, shared."""

    bytes_per_s: float | None = None
    num_bytes: int = 0  # that were taken
    _free_at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, num_bytes: int, stopped: threading.Event) -> None:
        if self.bytes_per_s is None:
            return
        with self._lock:
            self.num_bytes += num_bytes
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + num_bytes / self.bytes_per_s
            wait_s = self._free_at - now
        stopped.wait(wait_s)


class Hub:
    """Mutable; closed by its owner. `read` may be called from many threads at once."""

    def __init__(
        self,
        endpoint: str,
        token: str | None = None,
        *,
        rate: Rate | None = None,
        on_trouble: Callable[[str], None] | None = None,
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        """Both are called from any thread: with what is tried again and why, with how many bytes came."""
        import httpx

        _read_large_blocks()
        self.endpoint = endpoint.rstrip("/")
        self._token = token
        self._rate = rate or Rate()
        self._on_trouble, self._on_bytes = on_trouble, on_bytes
        self._stopped = threading.Event()
        self._streams: set[httpx.Response] = set()
        self._places: dict[str, str] = {}  # where the storage has the file that a URL means
        self._etags: dict[str, str] = {}  # what the storage calls its content
        try:
            self._client = httpx.Client(
                timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, pool=None),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
                headers={"user-agent": "qwen (command line)", "accept-encoding": "identity"},
            )
        except (ValueError, ImportError) as error:  # a proxy of the environment that httpx cannot use
            raise unreachable(self.endpoint, error) from None

    def close(self) -> None:
        """End what other threads still wait for, then all connections."""
        self._stopped.set()
        for response in list(self._streams):
            stream = response.extensions.get("network_stream")
            raw = stream.get_extra_info("socket") if stream else None
            if raw is not None:
                with suppress(OSError):  # wakes the thread that reads from it
                    raw.shutdown(socket.SHUT_RDWR)
        self._client.close()

    def repo(self, name: str, revision: str = "main") -> Repo:
        """What `revision` (a branch, a tag, a commit) of the repository holds.

        Raises NetworkError, also for one that is not there or not open to this user.
        """
        url = f"{self.endpoint}/api/models/{quote(name)}/revision/{quote(revision, safe='')}?blobs=true"
        patience = _Patience(self, name, IMPATIENT_S)
        while True:
            with patience:
                response = self._client.get(url, headers=self._authorization(url), follow_redirects=True)
                if response.status_code != 200:
                    raise refused(response, name, revision, has_token=self._token is not None)
                try:
                    return Repo.from_dict(json.loads(response.content), name)
                except (ValueError, LookupError, TypeError, AttributeError):
                    raise no_json(name, response) from None

    def read(
        self, repo: Repo, file: RemoteFile, begin: int, memory: memoryview, *, is_patient: bool = True
    ) -> None:
        """Fill `memory` from the byte `begin` of the file. Raises NetworkError."""
        patience = _Patience(self, f"{repo.name}/{file.name}", DELAYS_S if is_patient else IMPATIENT_S)
        done = 0
        while done < len(memory):
            with patience:
                for count in self._receive(repo, file, begin + done, memory[done:]):
                    done += count
                    patience.num_failures = 0

    def fetch(self, repo: Repo, file: RemoteFile) -> bytes:
        """A whole small file, while somebody waits."""
        data = bytearray(file.size_bytes)
        self.read(repo, file, 0, memoryview(data), is_patient=False)
        return bytes(data)

    def wait(self, error: Exception, where: str, delay_s: float) -> None:
        """Before another try. Raises Stopped where there is to be none."""
        if self._on_trouble and not self._stopped.is_set():
            self._on_trouble(f"{where}: {str(error) or type(error).__name__}; trying again")
        if self._stopped.wait(min(delay_s, LONGEST_DELAY_S)):
            raise Stopped(where)

    def _receive(self, repo: Repo, file: RemoteFile, begin: int, memory: memoryview) -> Iterator[int]:
        """Fill `memory`; yields how many bytes more are there."""
        end, done = begin + len(memory), 0
        with self._open(repo, file, begin, end) as response:
            for block in response.iter_raw():
                count = min(len(block), len(memory) - done)
                memory[done : done + count] = block[:count]
                done += count
                yield count
                if self._on_bytes:
                    self._on_bytes(count)
                self._rate.take(count, self._stopped)
                if self._stopped.is_set():
                    raise Stopped(file.name)
        if done < len(memory):
            raise Retry("the connection was cut")

    @contextmanager
    def _open(self, repo: Repo, file: RemoteFile, begin: int, end: int) -> "Iterator[httpx.Response]":
        """The answer with the bytes [begin, end), wherever it comes from."""
        hub_url = f"{self.endpoint}/{quote(repo.name)}/resolve/{repo.commit}/{quote(file.name)}"
        url = self._places.get(hub_url, hub_url)
        for _ in range(MAX_REDIRECTS + 1):
            headers = {"range": f"bytes={begin}-{end - 1}"} | self._authorization(url)
            with self._client.stream("GET", url, headers=headers) as response:
                if linked := response.headers.get("x-linked-etag"):
                    _check_linked(repo, file, linked)
                if response.has_redirect_location:
                    url = urljoin(url, response.headers["location"])
                    continue
                if response.status_code not in (200, 206):
                    self._places.pop(hub_url, None)
                    if url != hub_url:
                        raise refused_by_storage(response, f"{repo.name}/{file.name}")
                    raise refused(response, repo.name, repo.commit, has_token=self._token is not None)
                if url != hub_url:
                    self._places[hub_url] = url
                self._check(repo, file, response, begin, end)
                self._streams.add(response)
                try:
                    yield response
                finally:
                    self._streams.discard(response)
                return
        raise NetworkError(f"{repo.name}/{file.name}: more than {MAX_REDIRECTS} redirects.", path=repo.name)

    def _check(self, repo: Repo, file: RemoteFile, response: "httpx.Response", begin: int, end: int) -> None:
        """That these are the bytes that were asked for, of the file that is meant."""
        where, is_whole = f"{repo.name}/{file.name}", begin == 0 and end == file.size_bytes
        expected = f"bytes {begin}-{end - 1}/{file.size_bytes}"
        found = response.headers.get("content-range")
        length = response.headers.get("content-length", str(end - begin))
        if found is None and not (is_whole and length == str(end - begin)):
            raise no_ranges(where, response)
        if found not in (None, expected):
            raise changed(where, f"'{expected}' was expected, '{found}' came")
        if etag := response.headers.get("etag", "").removeprefix("W/"):
            known = self._etags.setdefault(file.name, etag)
            if known != etag:
                raise changed(where, f"its ETag was {known}, now it is {etag}")

    def _authorization(self, url: str) -> dict[str, str]:
        """The token, for the hub alone: never for the storage that it sends on to."""
        if self._token is None or urlsplit(url)[:2] != urlsplit(self.endpoint)[:2]:
            return {}
        return {"authorization": f"Bearer {self._token}"}


def _read_large_blocks() -> None:
    """httpcore takes 64 KiB from a socket at a time, and has no parameter for that.

    At full speed this costs more of the processor than packing does: 4.9 s for a GB against 1.4.
    """
    with suppress(ImportError, AttributeError):
        from httpcore._sync.http11 import HTTP11Connection

        HTTP11Connection.READ_NUM_BYTES = _BLOCK_BYTES


@dataclass(slots=True)
class _Patience:
    """A block that may be tried again: `with patience` swallows what may get better, after a pause. Mutable.

    `num_failures` in a row, without a byte between; more than there are delays are raised.
    """

    hub: Hub
    where: str
    delays_s: tuple[float, ...]
    num_failures: int = 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        import httpx

        if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
            raise unreachable(self.where, error) from None
        if not isinstance(error, Retry | httpx.TransportError | httpx.StreamError):
            return False
        if self.num_failures == len(self.delays_s):
            raise unreachable(self.where, error) from None
        delay_s = self.delays_s[self.num_failures]
        if isinstance(error, Retry) and error.after_s is not None:
            delay_s = error.after_s
        self.num_failures += 1
        self.hub.wait(error, self.where, delay_s)
        return True


def _check_linked(repo: Repo, file: RemoteFile, etag: str) -> None:
    """The hub's own word for the content, on its way to the storage."""
    name = etag.removeprefix("W/").strip('"')
    if file.sha256 and name != file.sha256:
        raise changed(
            f"{repo.name}/{file.name}", f"its SHA-256 was {file.sha256[:12]}, now it is {name[:12]}"
        )
