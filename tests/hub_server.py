"""A hub on this machine: what huggingface_hub's servers answer, and every way in which they fail.

`hub` knows repositories, commits and tokens, and sends on to `storage`, a second address, with a signature
that ages; `storage` knows bytes alone. Repositories are folders. All bytes that left for weights are counted.
"""

import hashlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

LARGE_BYTES = 20_000  # from here on a file lies in the storage
_BLOCK = 64 << 10

# What a fault does to one answer of the storage; it is asked with the file's name and the range's begin.
Fault = str  # "cut", "slow", "wrong byte", "html", "whole", "changed", "stall", or a status: "503", "429"


@dataclass
class Sent:
    """Bytes [begin, end) of a file that left for the client."""

    file: str
    begin: int
    end: int


@dataclass
class Site:
    """Mutable: tests turn its knobs while it serves."""

    repos: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str | None = None  # that opens gated repositories
    commit: str = "c0ffee" + "0" * 34
    tags: tuple[str, ...] = ("license:apache-2.0",)
    fault: Callable[[str, int], Fault | None] = lambda file, begin: None
    hub_fault: Fault | None = None  # for every question about a repository
    bytes_per_s: float | None = None
    max_age: int | None = None  # answers of the storage after which a signature is refused
    sent: list[Sent] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    authorizations: list[tuple[str, str | None]] = field(default_factory=list)  # (which server, header)
    url: str = ""
    storage_url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)
    released: threading.Event = field(default_factory=threading.Event)  # ends answers that stall
    _hashes: dict[tuple[Path, int, int], str] = field(default_factory=dict)

    def bytes_sent(self, file: str | None = None) -> int:
        return sum(sent.end - sent.begin for sent in self.sent if file in (None, sent.file))

    def repo_hashes(self, repo: str) -> None:
        """Compute what the hub knows of a repository, ahead of the first question."""
        for path in self.repos[repo].iterdir():
            self.sha256(path)

    def sha256(self, path: Path) -> str:
        status = path.stat()
        key = (path, status.st_size, status.st_mtime_ns)
        if key not in self._hashes:
            with path.open("rb") as file:
                self._hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._hashes[key]


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    site: Site

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that were killed leave broken pipes."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def site(self) -> Site:
        assert isinstance(self.server, _Server)
        return self.server.site

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Hub(_Handler):
    def do_GET(self) -> None:
        site, url = self.site, urlsplit(self.path)
        site.requests.append(self.path)
        site.authorizations.append(("hub", self.headers.get("authorization")))
        words = unquote(url.path).strip("/").split("/")
        if site.hub_fault == "html":
            self.answer(200, b"<html>Log in</html>", content_type="text/html")
        elif site.hub_fault:
            self.answer(int(site.hub_fault), retry_after="0")
        elif words[:2] == ["api", "models"] and words[4:5] == ["revision"]:
            self._tell("/".join(words[2:4]), "/".join(words[5:]))
        elif words[2:3] == ["resolve"]:
            self._resolve("/".join(words[:2]), words[3], "/".join(words[4:]))
        else:
            self.answer(404, x_error_code="RepoNotFound")

    def _may_pass(self, repo: str, revision: str) -> bool:
        """Answers whatever is in the way."""
        site, given = self.site, self.headers.get("authorization")
        if given is not None and given != f"Bearer {site.token}":
            self.answer(401, x_error_message="Invalid credentials in Authorization header")
        elif repo not in site.repos:
            self.answer(401, x_error_code="RepoNotFound")
        elif repo in site.gated and given is None:
            self.answer(401, x_error_code="GatedRepo", x_error_message="Access to this model is restricted")
        elif revision not in ("main", site.commit):
            self.answer(404, x_error_code="RevisionNotFound")
        else:
            return True
        return False

    def _tell(self, repo: str, revision: str) -> None:
        if not self._may_pass(repo, revision):
            return
        siblings = []
        for path in sorted(self.site.repos[repo].iterdir()):
            size = path.stat().st_size
            entry: dict[str, object] = {"rfilename": path.name, "size": size}
            if size >= LARGE_BYTES:
                entry["lfs"] = {"sha256": self.site.sha256(path), "size": size, "pointerSize": 134}
            data = path.read_bytes() if size < LARGE_BYTES else b""
            entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            siblings.append(entry)
        values = {"id": repo, "sha": self.site.commit, "siblings": siblings, "tags": list(self.site.tags)}
        self.answer(200, json.dumps(values).encode(), content_type="application/json")

    def _resolve(self, repo: str, revision: str, file: str) -> None:
        if not self._may_pass(repo, revision):
            return
        path = self.site.repos[repo] / file
        if not path.is_file():
            self.answer(404, x_error_code="EntryNotFound")
        elif path.stat().st_size < LARGE_BYTES:
            _send_range(self, path, path.name)
        else:
            with self.site.lock:
                signature = len(self.site.sent)
            location = f"{self.site.storage_url}/{repo}/{file}?signature={signature}"
            etag = f'"{self.site.sha256(path)}"'
            self.answer(302, location=location, x_linked_etag=etag, x_repo_commit=self.site.commit)


class _Storage(_Handler):
    def do_GET(self) -> None:
        site, url = self.site, urlsplit(self.path)
        site.authorizations.append(("storage", self.headers.get("authorization")))
        owner, name, file = unquote(url.path).strip("/").split("/")
        signed = int(parse_qs(url.query)["signature"][0])
        if site.max_age is not None and len(site.sent) - signed > site.max_age:
            self.answer(403, b"<Error>Request has expired</Error>", content_type="application/xml")
        else:
            _send_range(self, site.repos[f"{owner}/{name}"] / file, file)


def _send_range(handler: _Handler, path: Path, file: str) -> None:
    site, size = handler.site, path.stat().st_size
    asked = handler.headers.get("range")
    begin, end = 0, size
    if asked:
        first, _, last = asked.removeprefix("bytes=").partition("-")
        begin, end = int(first), min(int(last) + 1, size)
    fault = site.fault(file, begin)
    if fault and fault.isdigit():
        handler.answer(int(fault), b"no", retry_after="0")
        return
    if fault == "html":
        handler.answer(200, b"<html>Log in</html>", content_type="text/html; charset=utf-8")
        return
    if fault == "whole":
        asked, begin, end = None, 0, size
    handler.send_response(206 if asked else 200)
    if asked:
        handler.send_header("content-range", f"bytes {begin}-{end - 1}/{size}")
    handler.send_header("content-length", str(end - begin))
    handler.send_header("etag", '"of another upload"' if fault == "changed" else f'"{size:x}"')
    handler.end_headers()
    sent = Sent(file, begin, begin)
    with site.lock:
        site.sent.append(sent)
    _pump(handler, path, sent, end, fault)


def _pump(handler: _Handler, path: Path, sent: Sent, end: int, fault: Fault | None) -> None:
    site = handler.site
    middle = (sent.begin + end) // 2
    with path.open("rb") as source:
        if fault is None and site.bytes_per_s is None:
            handler.wfile.flush()
            # In one call, without a copy: the server is not what is measured.
            handler.connection.settimeout(None)
            sent.end = end  # what a killed client did not take counts as sent too
            source.seek(sent.begin)
            handler.connection.sendfile(source, sent.begin, end - sent.begin)
            return
        source.seek(sent.begin)
        while sent.end < end:
            block = bytearray(source.read(min(_BLOCK, end - sent.end)))
            if fault in ("cut", "stall") and sent.end + len(block) > middle:
                if fault == "stall":
                    site.released.wait(60)
                handler.close_connection = True
                handler.connection.shutdown(socket.SHUT_RDWR)
                return
            if fault == "wrong byte" and sent.end <= middle < sent.end + len(block):
                block[middle - sent.end] ^= 0x10
            handler.wfile.write(block)
            sent.end += len(block)
            if site.bytes_per_s:
                time.sleep(len(block) / site.bytes_per_s)


@contextmanager
def hub_server() -> Iterator[Site]:
    """Two servers on this machine's own address, while entered."""
    site = Site()
    servers = [_Server(("127.0.0.1", 0), handler) for handler in (_Hub, _Storage)]
    for server in servers:
        server.site = site
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    site.url, site.storage_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    try:
        yield site
    finally:
        site.released.set()
        for server in servers:
            server.shutdown()
            server.server_close()
