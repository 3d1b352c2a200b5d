"""`qwen models pull` and `rm`: what is said, to whom, and how it ends."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen35.weights import remote
from qwen35.weights.manifest import MANIFEST, read_manifest
from qwen35.weights.work_folder import WorkFolder
from tests.cli.conftest import Invoke
from tests.cli.test_models import put_in_hub
from tests.hub_server import Site, hub_server
from tests.model.weights.packing import contents

REPO = "Qwen/Qwen3.5-0.8B"


@pytest.fixture
def site(home: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A hub that has the tiny model under the name of a published one, and a user who is not logged in."""
    monkeypatch.setattr(remote, "DELAYS_S", (0.01, 0.01))
    monkeypatch.setattr(remote, "IMPATIENT_S", (0.01,))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with hub_server() as site:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", site.url)
        site.repos[REPO] = model_folder
        yield site


@pytest.fixture
def target(home: Path) -> Path:
    return home / "data" / "models" / "Qwen" / "Qwen3.5-0.8B-q4"


def test_pull_by_a_short_name_then_ask(invoke: Invoke, site: Site, target: Path) -> None:
    result = invoke("models", "pull", "0.8b")

    assert (result.code, result.err) == (0, "")
    first, folder, ask = result.out.splitlines()
    assert re.fullmatch(
        r"Pulled: Qwen/Qwen3\.5-0\.8B as q4, \d+K parameters of \d+\.\d\d bits, \d+\.\d kB "
        r"\(1\.\d MB fetched\), licence apache-2\.0",
        first,
    )
    assert folder == str(target)
    assert ask == 'Ask it: qwen ask -m 0.8b "Your question"'
    answer = invoke("ask", "-q", "-m", "0.8b", "--max-tokens", "2", "hello")
    assert answer.code in (0, 7), answer.err
    assert invoke("models", "verify", "0.8b").code == 0


def test_pull_tells_a_program_all_of_it(invoke: Invoke, site: Site, target: Path) -> None:
    values = json.loads(invoke("models", "pull", f"{REPO}:q8", "-o", "here", "--json").out)
    manifest = read_manifest(Path("here"))
    assert values == {
        "schema_version": 1,
        "name": str(Path("here").resolve()),
        "folder": str(Path("here").resolve()),
        "repo": REPO,
        "quant": "q8",
        "parameters": manifest.num_parameters,
        "bits_per_weight": round(manifest.bits_per_weight, 3),
        "size_bytes": manifest.data_bytes,
        "was_there": False,
        "notes": [],
        "commit": site.commit,
        "license": "apache-2.0",
        "fetched_bytes": values["fetched_bytes"],
        "resumed_bytes": 0,
        "unchecked": [],
        "error": None,
    }
    assert values["fetched_bytes"] > 1_000_000


def test_a_repositorys_address_is_a_name_too(invoke: Invoke, site: Site, target: Path) -> None:
    assert invoke("models", "pull", f"https://huggingface.co/{REPO}").code == 0
    assert (target / MANIFEST).exists()


def test_the_users_own_names(invoke: Invoke, site: Site, home: Path, target: Path) -> None:
    (home / "config").mkdir(parents=True)
    (home / "config" / "config.toml").write_text(f'[models]\nwork = "{REPO}"\n')
    assert invoke("models", "pull", "work").code == 0
    assert (target / MANIFEST).exists()
    assert "work" in invoke("models", "ls", "--known").out
    (home / "config" / "config.toml").write_text('[models]\nwork = "nothing"\n')
    result = invoke("models", "pull", "work")
    assert (result.code, result.out) == (2, "")
    assert "config.toml, 'models.work': 'nothing' is not OWNER/NAME of a repository." in result.err


def test_a_model_that_is_there_needs_no_network(invoke: Invoke, site: Site) -> None:
    invoke("models", "pull", "0.8b")
    assert invoke("models", "pull", "0.8b").out.startswith("Was there already: ")
    site.hub_fault = "503"
    again = invoke("models", "pull", "0.8b")
    assert (again.code, again.out.startswith("Was there already: ")) == (0, True)
    assert re.search(r"^note: whether it is the newest was not asked: .*503", again.err, re.MULTILINE)


def test_offline_the_hugging_face_cache_is_taken(
    invoke: Invoke, site: Site, home: Path, model_folder: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused = invoke("models", "pull", "0.8b")
    assert (refused.code, refused.out) == (8, "")
    assert refused.err == (
        "error: 0.8b: is not on this machine, and HF_HUB_OFFLINE forbids to fetch it. Unset it to use the "
        "network.\n"
    )
    put_in_hub(home.parent / "hub", REPO, model_folder)
    result = invoke("models", "pull", "0.8b")
    assert (result.code, site.requests) == (0, [])
    assert "note: nothing was fetched: the files lie in the Hugging Face cache" in result.err
    assert (target / MANIFEST).exists()


def test_online_too_what_the_cache_has_of_this_commit_is_not_fetched(
    invoke: Invoke, site: Site, home: Path, model_folder: Path
) -> None:
    put_in_hub(home.parent / "hub", REPO, model_folder, site.commit)
    values = json.loads(invoke("models", "pull", "0.8b", "--json").out)
    assert (values["fetched_bytes"], values["commit"], site.sent) == (0, site.commit, [])


@pytest.mark.parametrize(
    ("name", "knob", "code", "message"),
    [
        (
            "acme/nothing",
            {},
            8,
            "acme/nothing: no such repository on 127.0.0.1, or a private one. Check its name",
        ),
        (
            "0.8b",
            {"gated": {REPO}},
            8,
            "is gated. Accept its terms on https://127.0.0.1/Qwen/Qwen3.5-0.8B; then",
        ),
        ("0.8b", {"hub_fault": "503"}, 8, "127.0.0.1 answered 503 Service Unavailable"),
        ("0.8b", {"hub_fault": "429"}, 8, "127.0.0.1 answered 429 Too Many Requests"),
        ("0.8b", {"hub_fault": "html"}, 8, "text/html came where the hub's JSON was expected. Does a proxy"),
        ("7b", {}, 2, "7b: is not the name of a repository. A name is OWNER/NAME, or a short one that"),
        ("0.8b:q3", {}, 2, "0.8b:q3: ':q3' is none of :q4, :q8."),
    ],
)
def test_what_cannot_be_pulled_is_said_in_one_line(
    invoke: Invoke, site: Site, target: Path, name: str, knob: dict, code: int, message: str
) -> None:
    for key, value in knob.items():
        setattr(site, key, value)
    result = invoke("models", "pull", name)
    told = invoke("models", "pull", name, "--json")
    errors = [line for line in result.err.splitlines() if not line.startswith("note: ")]
    assert (result.code, result.out, len(errors)) == (code, "", 1)
    assert message in errors[0]
    assert json.loads(told.out)["error"]["code"] == told.code == code
    assert not target.parent.exists() or not any(target.parent.iterdir())


def test_a_revision_that_is_not_there(invoke: Invoke, site: Site) -> None:
    result = invoke("models", "pull", "0.8b", "--revision", "v2")
    assert (result.code, result.err) == (8, f"error: {REPO}: has no revision 'v2'.\n")


def test_a_wrong_token_is_said(invoke: Invoke, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    result = invoke("models", "pull", "0.8b")
    assert (result.code, result.out) == (8, "")
    assert "does not accept the token (401). Check HF_TOKEN." in result.err


def test_no_network(invoke: Invoke, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    result = invoke("models", "pull", "0.8b")
    assert (result.code, result.out) == (8, "")
    assert re.search(
        rf"^error: {REPO}: cannot be fetched \(.*Connection refused\)\. Is there a network\?",
        result.err,
        re.M,
    )


def test_a_proxy_that_is_none(invoke: Invoke, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "nonsense://proxy")
    result = invoke("models", "pull", "0.8b")
    assert (result.code, result.out, result.err.count("\n")) == (8, "", 1)
    assert "Check HTTPS_PROXY and NO_PROXY." in result.err


@pytest.fixture
def stopped(invoke: Invoke, site: Site, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a pull says that is interrupted in the middle."""
    from qwencli.render.progress import Progress

    monkeypatch.setattr("qwen35.weights.remote_ahead.FIRST_BYTES", 50_000)
    monkeypatch.setattr("qwen35.weights.remote_ahead.MOST_BYTES", 50_000)

    def interrupt(self: Progress, label: str, done: int, *_: object) -> None:
        if label.startswith("fetching") and done > 1_400_000:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", interrupt)
        return invoke("models", "pull", "0.8b").err


def test_a_stopped_pull_says_how_to_go_on_and_does(
    invoke: Invoke, site: Site, target: Path, stopped: str, model_folder: Path
) -> None:
    assert stopped == "note: stopped; the same command goes on from here\n"
    assert "Qwen3.5" not in invoke("models", "ls", "--all").out
    site.commit = "beef" * 10  # the branch moved on: what was begun is finished first

    result = invoke("models", "pull", "0.8b")

    assert result.code == 8  # this server has but one commit: the old one is gone
    assert "has no revision 'c0ffee" in result.err
    site.commit = "c0ffee" + "0" * 34
    result = invoke("models", "pull", "0.8b")
    assert result.code == 0
    assert re.search(r"note: went on from an earlier run: [\d.]+ [kM]B were there", result.err)
    packed = invoke("models", "pack", model_folder, "-o", "packed")
    assert packed.code == 0
    assert {**contents(target), MANIFEST: b""} == {**contents(Path("packed")), MANIFEST: b""}


def test_rm_removes_a_model_or_what_was_left_of_one(
    invoke: Invoke, site: Site, target: Path, stopped: str, home: Path
) -> None:
    left = WorkFolder.beside(target).root
    assert left.exists()
    result = invoke("models", "rm", "0.8b")
    assert (result.code, result.out.startswith(f"Removed {left} (")) == (0, True)
    assert not left.exists()
    invoke("models", "pull", "0.8b")
    values = json.loads(invoke("models", "rm", "0.8b", "--json").out)
    assert values["removed"] == str(target)
    assert not target.parent.exists()
    assert (home / "data" / "models").exists()


def test_rm_leaves_what_is_not_this_programs(invoke: Invoke, home: Path, model_folder: Path) -> None:
    snapshot = put_in_hub(home.parent / "hub", REPO, model_folder)
    mine = Path(shutil.copytree(model_folder, "mine"))
    for name, words in (
        ("mini", "comes with the program"),
        (REPO, "hf cache rm"),
        ("mine", "is not this program"),
    ):
        result = invoke("models", "rm", name)
        assert (result.code, result.out) == (2, "")
        assert words in result.err
    assert snapshot.exists()
    assert mine.exists()
    assert invoke("models", "rm", "nothing").code == 4
