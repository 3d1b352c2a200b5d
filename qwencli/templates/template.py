"""One template: a question with places for variables, and the options that go with it.

    about = "What a receipt says"
    prompt = "Read this receipt. Answer in {language}."
    schema = "shop, items[] {name, price float}, total float"
    check = ["sum(items.price) == total"]
    as = "json"
    temperature = 0

    [variables]
    language = "English"

Keys are `about`, `prompt`, `schema`, `check`, `as` and `extract` (true: as `-x`), and all settings of
config.toml. What is given on the command line goes before what a template says, that before the environment.
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qwen35.errors import InputError
from qwencli.errors import UsageError
from qwencli.question import Question
from qwencli.settings import Settings, parse_setting
from qwencli.suggest import did_you_mean
from qwencli.templates.places import MissingColumn, Places

SUFFIX = ".toml"
BUILT_IN = "built-in"
_BUILT_IN = Path(__file__).parent / "builtin"
_FORMS = ("schema", "regex", "choice", "grammar")
_KEYS = ("about", "prompt", "schema", "check", "as", "extract", "variables")


@dataclass(frozen=True, slots=True)
class Template:
    name: str
    source: str  # BUILT_IN, or the path of its file
    about: str
    prompt: str
    variables: Mapping[str, str] = field(default_factory=dict)  # with the values they have unless set
    schema: str | None = None
    check: tuple[str, ...] = ()
    render_as: str | None = None
    extract: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, name: str, source: str, text: str) -> "Template":
        """Raises UsageError that names the file and the key."""
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise _unusable(source, f"cannot be read as TOML ({error}).") from None
        known = [*_KEYS, *Settings.__slots__]
        for key in values:
            if key not in known:
                hint = did_you_mean(key, known, "'{}'")
                raise _unusable(source, f"unknown key '{key}'. {hint}".rstrip())
        said = _said(values, source)
        if not said["prompt"].strip():
            raise _unusable(source, 'has no prompt. Write prompt = "...".')
        return cls(
            name,
            source,
            " ".join(said["about"].split()),
            said["prompt"].strip(),
            _variables(values, source),
            said["schema"] or None,
            _checks(values, source),
            said["as"] or None,
            values.get("extract", False) is True,
            {
                key: parse_setting(key, value, f"{source}, '{key}'")
                for key, value in values.items()
                if key in Settings.__dataclass_fields__
            },
        )

    def with_variables(self, given: Sequence[str]) -> "Template":
        """The template for these `NAME=VALUE`; other places of its prompt stay. Raises UsageError."""
        values = dict(self.variables)
        for text in given:
            name, equals, value = text.partition("=")
            if not equals or name not in values:
                raise UsageError(f"--set {text}: {_wrong_variable(name, equals, self.name, values)}")
            values[name] = value
        keeping = _Keeping(values)
        return replace(self, prompt=Places(self.prompt).fill(keeping), variables=values)

    def under(self, flags: Mapping[str, Any], *, is_record: bool) -> dict[str, Any]:
        """`flags` of the command line, and where one was not given what the template says.

        Another form than the template's (`--regex`, say) takes the place of all that it says of one.
        """
        given = dict(flags)
        for name, value in self.settings.items():
            if given.get(name) is None or given[name] == []:
                given[name] = value
        if not any(flags.get(name) for name in _FORMS) and not flags.get("extract"):
            given["schema"] = self.schema
            given["rules"] = flags.get("rules") or list(self.check)
            given["extract"] = self.extract
            if self.schema and not flags.get("render_as") and not is_record:
                given["render_as"] = self.render_as
        return given

    def question(self, words: Sequence[str], attached: Sequence[str]) -> Question:
        """What was typed: inputs, and perhaps a sentence that goes behind the template's prompt.

        Raises UsageError for a place that nothing fills, InputError for a missing file.
        """
        try:
            prompt = Places(self.prompt).fill({})
        except MissingColumn as missing:
            raise UsageError(
                f"{self.source}: {{{missing.name}}} is no variable of it. Give it a value under [variables]."
            ) from None
        *inputs, last = words or [""]
        if last and (last == "-" or Question.is_input(last)):
            inputs.append(last)
        elif Question.may_be_missing(last):
            raise InputError(f"{last}: no such file.", path=last)
        elif last:
            prompt = f"{prompt}\n\n{last}"
        return Question.parse(inputs, prompt, attached)


def _wrong_variable(name: str, equals: str, template: str, known: Iterable[str]) -> str:
    names = ", ".join(sorted(known)) or "it has none"
    if not equals:
        return f"write NAME=VALUE; variables of {template}: {names}."
    hint = did_you_mean(name, known, otherwise=f"Variables of {template}: {names}.")
    return f"{name!r} is no variable of {template}. {hint}"


class _Keeping(dict[str, str]):
    """Values of places; one that has none stays a place."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return f"{{{name}}}"


def find_template(name: str, folder: Path) -> Template:
    """The one that `-t NAME` means: a file, one of the user's in `folder`, or a built-in one.

    Raises UsageError, with the names there are.
    """
    if name.endswith(SUFFIX) or "/" in name:
        path = Path(name).expanduser()
        return Template.parse(path.stem, str(path), _read(path))
    for template in all_templates(folder, only=name):
        return template
    names = sorted({path.stem for path in _files(folder)})
    hint = did_you_mean(name, names)
    raise UsageError(f"There is no template {name!r}. {hint}{hint and ' '}There is {', '.join(names)}.")


def chosen_template(name: str | None, variables: Sequence[str], folder: Path) -> Template | None:
    """What `-t NAME --set ...` says; None without it. Raises UsageError."""
    if name is None:
        if variables:
            raise UsageError("--set is for the variables of a template: say which one with -t.")
        return None
    return find_template(name, folder).with_variables(variables)


def all_templates(folder: Path, only: str | None = None) -> Iterator[Template]:
    """The user's own in `folder`, then the built-in ones that they do not replace."""
    seen = set()
    for path in _files(folder):
        if path.stem in seen or only not in (None, path.stem):
            continue
        seen.add(path.stem)
        is_own = path.parent == folder
        yield Template.parse(path.stem, str(path) if is_own else BUILT_IN, _read(path))


def sound_templates(folder: Path) -> tuple[list[Template], list[str]]:
    """All that can be used, and what is wrong with the others."""
    sound: list[Template] = []
    faults = []
    for name in dict.fromkeys(path.stem for path in _files(folder)):
        try:
            sound += all_templates(folder, only=name)
        except (UsageError, InputError) as error:
            faults.append(str(error))
    return sound, faults


def source_text(name: str, folder: Path) -> str:
    """The file of a template, for who wants to change it. Raises UsageError for one that is not there."""
    find_template(name, folder)
    return _read(next(path for path in _files(folder) if path.stem == name))


def _said(values: Mapping[str, Any], source: str) -> dict[str, str]:
    """What has to be text; "" where it is not there."""
    found = {key: values.get(key, "") for key in ("about", "prompt", "schema", "as")}
    for key, value in found.items():
        if not isinstance(value, str):
            raise _unusable(source, f"'{key}' is not text. Put it in quotes.")
    return found


def _checks(values: Mapping[str, Any], source: str) -> tuple[str, ...]:
    checks = values.get("check", [])
    if not isinstance(checks, list) or not all(isinstance(check, str) for check in checks):
        raise _unusable(source, "'check' is no list of texts. Write check = [\"sum(items.price) == total\"].")
    return tuple(checks)


def _variables(values: Mapping[str, Any], source: str) -> dict[str, str]:
    variables = values.get("variables", {})
    if not isinstance(variables, dict) or not all(isinstance(value, str) for value in variables.values()):
        raise _unusable(source, "the values under [variables] are texts. Put them in quotes.")
    return variables


def _files(folder: Path) -> list[Path]:
    return [*sorted(folder.glob(f"*{SUFFIX}")), *sorted(_BUILT_IN.glob(f"*{SUFFIX}"))]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise InputError(f"{path}: the template cannot be read ({reason}).", path=str(path)) from None


def _unusable(source: str, fault: str) -> UsageError:
    return UsageError(f"{source}: {fault}", path=source)


def listing(templates: Iterable[Template]) -> list[tuple[str, str, str]]:
    """Rows of a table: name, where from, what it is about."""
    return [(template.name, template.source, template.about) for template in templates]
