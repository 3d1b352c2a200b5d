import base64
import hashlib
import os
import threading
import urllib.parse
from pathlib import Path

import pytest

from qwen35.errors import InputError
from qwencli.media.source import Source, collect, read_data_uri, read_path


def test_a_path_gives_its_bytes_and_their_hash(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"hello")
    source = read_path(str(path))
    assert (source.name, source.data, source.kind.family) == (str(path), b"hello", "text")
    assert source.sha256 == hashlib.sha256(b"hello").hexdigest()


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "notes.txt").write_text("hello")
    assert read_path("~/notes.txt").data == b"hello"


def test_a_named_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(b"through a pipe"))
    writer.start()
    assert read_path(str(pipe)).data == b"through a pipe"
    writer.join()


def test_a_missing_file_a_folder_and_an_impossible_name_are_refused(tmp_path: Path) -> None:
    for spec, message in ((tmp_path / "x", "no such file"), (tmp_path, "is a folder"), ("a\0b", "cannot be")):
        with pytest.raises(InputError, match=message) as caught:
            read_path(str(spec))
        assert caught.value.path == str(spec)


def test_a_file_without_end_is_refused_by_its_first_bytes() -> None:
    with pytest.raises(InputError, match="/dev/zero: is binary data"):
        read_path("/dev/zero")


def test_what_is_unusable_is_refused_before_the_rest_is_read() -> None:
    def chunks():
        yield b"PK\3\4" + bytes(5000)
        raise AssertionError("more was read")

    with pytest.raises(InputError, match="ZIP archive"):
        collect("x", chunks())


def test_bytes_beyond_the_limit_are_refused() -> None:
    with pytest.raises(InputError, match=r"x: is larger than 0.5 MiB"):
        collect("x", iter([b"a" * 2**19, b"b"]), max_bytes=2**19)
    assert len(collect("x", iter([b"a" * 2**19]), max_bytes=2**19).data) == 2**19


def test_a_data_uri_is_decoded() -> None:
    encoded = base64.b64encode(b"hello, world").decode()
    assert read_data_uri(f"data:text/plain;base64,{encoded}").data == b"hello, world"
    assert read_data_uri("data:,hello%2C%20world").data == b"hello, world"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("data:image/png;base64,****", "is not base64"),
        ("data:image/png;base64", "without a comma"),
        ("data:image/png;base64,", "is empty"),
    ],
)
def test_a_bad_data_uri_is_refused_and_named_shortly(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_data_uri(spec)
    assert str(caught.value).startswith("data:image/png;base64,...")


def test_file_urls_are_paths_of_this_machine(tmp_path: Path) -> None:
    path = tmp_path / "a ?#%41ü.txt"
    path.write_text("hello")
    for host in ("", "localhost"):
        source = read_path(f"file://{host}{urllib.parse.quote(str(path))}")
        assert isinstance(source, Source)
        assert source.data == b"hello"
    for spec in ("file://elsewhere/a.png", "FILE://C:\\a.png"):
        with pytest.raises(InputError, match="names no file of this machine"):
            read_path(spec)
