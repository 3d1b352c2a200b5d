"""`qwen templates`, and `-t` in ask and batch."""

import json
import sys
from pathlib import Path

import pytest

from qwencli.errors import UsageError
from qwencli.settings import Settings
from qwencli.structured.finish import Finish
from qwencli.templates.template import Template, all_templates
from tests.cli.conftest import Invoke
from tests.cli.talking import PICTURE

NAMES = [
    *("chart", "code-explain", "describe", "diagram", "invoice", "ocr", "receipt", "screenshot", "summarise"),
    *("table", "translate"),
]


@pytest.fixture
def own(home: Path) -> Path:
    folder = home / "config" / "templates"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_each_template_is_whole(name: str, tmp_path: Path) -> None:
    """Its form can be enforced, its settings are settings, and all places have values."""
    (template,) = all_templates(tmp_path, only=name)
    flags = dict.fromkeys((*Settings.__slots__, "schema", "rules", "render_as", "extract"))
    given = template.under(flags, is_record=False)
    Finish.of(
        given["schema"], kind=given["render_as"], extracts=given["extract"], checks=given["rules"] or ()
    )
    assert template.about
    assert template.with_variables(()).question((), ()).prompt


def test_they_are_listed_shown_and_copied_to_be_changed(
    invoke: Invoke, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = json.loads(invoke("templates", "ls", "--json").out)["templates"]
    assert [(entry["name"], entry["source"]) for entry in listed] == [(name, "built-in") for name in NAMES]
    shown = invoke("templates", "show", "describe").out
    monkeypatch.setenv("EDITOR", "sed -i 's/^about.*/about = \"mine\"/'")
    assert invoke("templates", "edit", "describe").code == 0
    path = home / "config" / "templates" / "describe.toml"
    assert path.read_text() == shown.replace(shown.splitlines()[0], 'about = "mine"', 1)
    first = json.loads(invoke("templates", "ls", "--json").out)["templates"][0]
    assert first == {"name": "describe", "source": str(path), "about": "mine"}
    assert "yours" in invoke("templates", "ls").out


def test_it_asks_with_its_options_and_variables(invoke: Invoke, own: Path, picture: Path) -> None:
    (own / "colour.toml").write_text(
        'prompt = "what colour is the {shape}?"\nmax_tokens = 1\nsystem = "Be brief."\n'
        '[variables]\nshape = "circle"\n'
    )

    def prompt(*words: object) -> str:
        return json.loads(invoke("ask", PICTURE, *words, "-t", "colour", "--dry-run", "--json").out)["prompt"]

    assert "what colour is the circle?<|im_end|>" in prompt()
    assert "Be brief." in prompt()
    assert "what colour is the star?" in prompt("--set", "shape=star")
    assert "what colour is the circle?\n\nSay why, please.<|im_end|>" in prompt("Say why, please.")
    assert "Be kind." in prompt("-s", "Be kind.")  # the command line goes before
    asked = json.loads(invoke("ask", PICTURE, "-t", "colour", "-m", "mini", "--json").out)
    assert (asked["finish_reason"], asked["usage"]["completion_tokens"]) == ("length", 1)


def test_its_form_is_kept_to_unless_another_one_is_given(invoke: Invoke, own: Path, picture: Path) -> None:
    (own / "kind.toml").write_text(
        'prompt = "what is it?"\nschema = "kind red|blue"\nas = "csv"\ntemperature = 0\n'
    )
    assert invoke("ask", PICTURE, "-t", "kind", "-m", "mini").out in ("kind\nred\n", "kind\nblue\n")
    data = json.loads(invoke("ask", PICTURE, "-t", "kind", "-m", "mini", "--json").out)["data"]
    assert data["kind"] in ("red", "blue")
    assert invoke("ask", PICTURE, "-t", "kind", "-m", "mini", "--choice", "a,b").out in ("a\n", "b\n")


def test_a_batch_asks_it_of_each_item(invoke: Invoke, own: Path, picture: Path, tmp_path: Path) -> None:
    (own / "kind.toml").write_text(
        'prompt = "what is {name}? {more}"\nschema = "kind red|blue"\n[variables]\nmore = "!"\n'
    )
    out = tmp_path / "out.jsonl"
    result = invoke("batch", PICTURE, "-t", "kind", "--set", "more=?", "-m", "mini", "-o", out)
    assert result.code == 0, result.err
    assert json.loads(out.read_text())["data"]["kind"] in ("red", "blue")
    assert (
        f"what is {PICTURE}? ?" in invoke("batch", PICTURE, "-t", "kind", "--set", "more=?", "--dry-run").out
    )


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("-t", "recipt"), 2, "Did you mean receipt?"),
        (("-t", "receipt", "--set", "a=b"), 2, "it has none"),
        (("-t", "describe", "--set", "language"), 2, "variables of describe: language"),
        (("-t", "describe", "--set", "langauge=x"), 2, "'langauge' is no variable of describe. Did you mean"),
        (("--set", "language=German", "what?"), 2, "-t"),
        (("nothing.png", "-t", "describe"), 3, "nothing.png: no such file"),
        (("-t", "none.toml"), 3, "none.toml: the template cannot be read"),
    ],
)
@pytest.mark.usefixtures("picture")
def test_what_cannot_be_meant_is_told(invoke: Invoke, words: tuple[str, ...], code: int, told: str) -> None:
    result = invoke("ask", PICTURE, *words)
    assert (result.code, result.out) == (code, "")
    assert told in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prompt = ", "cannot be read as TOML"),
        ('about = "x"', "has no prompt"),
        ('prompt = "x"\nshcema = "a"', "Did you mean 'schema'?"),
        ('prompt = "x"\ncheck = "a == b"', "'check' is no list"),
        ('prompt = "x"\ntemperature = "hot"', "temperature"),
        ('prompt = "x"\n[variables]\na = 1', "[variables]"),
        ("prompt = 3", "'prompt' is not text"),
    ],
)
def test_a_template_that_is_wrong_says_where(text: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        Template.parse("own", "own.toml", text)
    assert str(caught.value).startswith("own.toml")
    assert told in str(caught.value)


@pytest.mark.parametrize("name", ["mine", "describe"])
@pytest.mark.parametrize(
    ("editor", "code", "told"),
    [
        ("false", 2, "the editor 'false' ended with status 1"),
        ("no-such-editor", 2, "the editor 'no-such-editor' did not run (No such file or directory)"),
        ("true", 0, "Nothing was changed"),
        ('vi "', 2, "is no command (No closing quotation)"),
    ],
)
def test_an_editor_that_writes_nothing_leaves_nothing(
    invoke: Invoke, own: Path, monkeypatch: pytest.MonkeyPatch, name: str, editor: str, code: int, told: str
) -> None:
    monkeypatch.setenv("EDITOR", editor)
    result = invoke("templates", "edit", name)
    assert result.code == code
    assert told in (result.out if code == 0 else result.err)
    assert list(own.iterdir()) == []
    assert invoke("templates", "ls").code == 0


def test_what_was_written_before_the_editor_failed_stays(
    invoke: Invoke, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITOR", 'sh -c \'echo "# words" >> "$0"; exit 3\'')
    assert "ended with status 3" in invoke("templates", "edit", "mine").err
    assert "# words" in (own / "mine.toml").read_text()


def test_a_wrong_template_is_told_beside_the_others(invoke: Invoke, own: Path) -> None:
    (own / "bad.toml").write_text("prompt = ")
    (own / "good.toml").write_text('about = "fine"\nprompt = "what?"\n')
    listed = invoke("templates", "ls")
    assert listed.code == 0
    assert listed.out.splitlines()[1].split() == ["good", "yours", "fine"]
    assert listed.err.startswith(f"note: {own / 'bad.toml'}: cannot be read as TOML")
    values = json.loads(invoke("templates", "ls", "--json").out)
    assert [entry["name"] for entry in values["templates"]] == ["good", *NAMES]
    assert len(values["notes"]) == 1
    assert invoke("templates", "show", "describe").code == 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs /sys of Linux, where nobody may make files")
def test_a_folder_where_nothing_may_be_written_exits_with_9(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN_HOME", "/sys/qwen")
    monkeypatch.setenv("EDITOR", "true")
    result = invoke("templates", "edit", "mine")
    assert (result.code, result.out) == (9, "")
    assert result.err.startswith("error: Cannot write /sys/qwen (")
    assert result.err.count("\n") == 1
