"""URLs from a server on this machine."""

import gc
import gzip
import hashlib
import http.server
import threading
import time
from collections.abc import Iterator

import pytest

from qwen35.errors import InputError
from qwencli.errors import NetworkError
from qwencli.media.fetch import fetch
from qwencli.media.source import FileSource, Source


class Site(http.server.BaseHTTPRequestHandler):
    """What a path does is its name."""

    released = threading.Event()  # ends the requests that hang

    def do_GET(self) -> None:
        name = self.path.strip("/").partition("/")[0]
        getattr(self, f"send_{name}")()

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def send_text(self) -> None:
        self._send(b"hello", Content_Length="5", Content_Type="image/png")  # the type is a lie

    def send_moved(self) -> None:
        self._send(b"", 302, Location="/text")

    def send_circle(self) -> None:
        self._send(b"", 302, Location="/circle")

    def send_elsewhere(self) -> None:
        self._send(b"", 302, Location="file:///etc/passwd")

    def send_missing(self) -> None:
        self._send(b"not found", 404)

    def send_empty(self) -> None:
        self._send(b"", Content_Length="0")

    def send_video(self) -> None:
        self._send(b"\0\0\0\x18ftypmp42" + bytes(10_000), Content_Type="video/mp4")

    def send_announced(self) -> None:
        self._send(b"", Content_Length=str(10**9))

    def send_endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            while not self.released.is_set():
                self.wfile.write(b"a" * 2**16)
        except OSError:
            pass

    def send_bomb(self) -> None:
        self._send(gzip.compress(b"a" * 2**22), Content_Encoding="gzip")

    def send_cut(self) -> None:
        self._send(b"hel", Content_Length="5")

    def send_silence(self) -> None:
        self.released.wait(20)


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    Site.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def get(url: str, **limits: float) -> bytes:
    source = fetch(url, lambda done, total: None, **limits)
    assert isinstance(source, Source)
    return source.data


def test_the_body_counts_not_the_declared_type(site: str) -> None:
    source = fetch(f"{site}/text", lambda done, total: None)
    assert (source.name, source.data, source.kind.family) == (f"{site}/text", b"hello", "text")


def test_progress_tells_bytes_and_the_total(site: str) -> None:
    told = []
    fetch(f"{site}/text", lambda *figures: told.append(figures))
    assert told == [(5, 5)]


def test_a_redirect_is_followed(site: str) -> None:
    assert get(f"{site}/moved") == b"hello"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", "the server answered 404 Not Found"),
        ("circle", "more than 5 redirects"),
        ("elsewhere", "cannot be fetched"),
        ("cut", "cannot be fetched"),
    ],
)
def test_a_failing_url_is_a_network_error(site: str, path: str, message: str) -> None:
    with pytest.raises(NetworkError, match=message) as caught:
        get(f"{site}/{path}")
    assert caught.value.path == f"{site}/{path}"


def test_an_unusable_body_is_an_input_error(site: str) -> None:
    with pytest.raises(InputError, match="is empty"):
        get(f"{site}/empty")


def test_a_video_is_put_into_a_file_that_goes_with_its_source(site: str) -> None:
    source = fetch(f"{site}/video", lambda done, total: None, max_bytes=1000)  # its own limit is another
    assert isinstance(source, FileSource)
    path, sent = source.path, b"\0\0\0\x18ftypmp42" + bytes(10_000)
    assert path.read_bytes() == sent
    assert (source.size_bytes, source.sha256) == (len(sent), hashlib.sha256(sent).hexdigest())
    del source
    gc.collect()
    assert not path.exists()


@pytest.mark.parametrize("path", ["announced", "endless", "bomb"])
def test_a_body_beyond_the_limit_is_refused(site: str, path: str) -> None:
    with pytest.raises(InputError, match="1 MiB"):
        get(f"{site}/{path}", max_bytes=2**20)


def test_a_silent_server_is_given_up(site: str) -> None:
    started = time.monotonic()
    with pytest.raises(NetworkError, match=r"no answer within 0\.2 s"):
        get(f"{site}/silence", timeout_s=0.2)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/x", "http://nowhere.invalid/x", "http://", "http://[::bad"]
)
def test_no_server_is_a_network_error(url: str) -> None:
    with pytest.raises(NetworkError, match="cannot be fetched"):
        get(url)


def test_an_unusable_proxy_is_a_network_error(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(NetworkError):
        get(f"{site}/text")
