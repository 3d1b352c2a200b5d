"""How a run is configured: flag > environment (`QWEN_*`) > config.toml > default.

A setting is a field of `Settings` and a parser, which flag, variable and file share. None leaves the
choice to the checkpoint or the machine.
"""

import difflib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qwencli.errors import UsageError
from qwencli.suggest import did_you_mean
from qwencli.values import (
    AUTO_IMAGE_TOKENS,
    AUTO_THINKING,
    AUTO_VIDEO_TOKENS,
    ImageTokens,
    Thinking,
    VideoTokens,
    parse_bytes,
    parse_choice,
    parse_fps,
    parse_image_tokens,
    parse_number,
    parse_ram,
    parse_speculate,
    parse_thinking,
    parse_time,
    parse_video_tokens,
    parse_whole,
)

Parser = Callable[[str], Any]
LoadMode = Literal["auto", "read", "mmap"]  # as `PackedModel.open` has it, without importing NumPy
Quant = Literal["none", "nf4", "int8"]  # of unpacked models


@dataclass(frozen=True, slots=True)
class Settings:
    model: str | None = None
    system: str | None = None  # the text, or @FILE
    think: Thinking = AUTO_THINKING
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    loops: Literal["end", "ignore"] = "end"  # of an answer that repeats itself without end
    image_tokens: ImageTokens = AUTO_IMAGE_TOKENS
    fps: float | None = None  # frames of a clip: so many a second, or
    frames: int | None = None  # so many in all,
    start: float | None = None  # of its seconds from here
    end: float | None = None  # to here
    video_tokens: VideoTokens = AUTO_VIDEO_TOKENS
    ctx: int | None = None
    device: str = "auto"
    load: LoadMode = "auto"
    quant: Quant = "none"
    ram: int | None = None  # bytes that the process may take; None: what is free, less a reserve
    threads: int | None = None
    speculate: Literal["auto"] | int = "auto"  # tokens that are drafted at a time; 0: none
    cache_disk: int | None = None  # bytes of saved states
    cache_ram: int | None = None

    @classmethod
    def resolve(cls, flags: Mapping[str, Any], environ: Mapping[str, str], config_file: Path) -> "Settings":
        """Settings of this run. `flags` holds parsed values by name, None where a flag was not given.

        What else `flags` holds is not looked at. Raises UsageError that names the variable, or the
        file and its key.
        """
        values = _from_file(config_file) | _from_environment(environ)
        for name, field in cls.__dataclass_fields__.items():
            value = flags.get(name)
            if isinstance(field.default, tuple):  # repeatable
                value = tuple(value or ()) or None
            if value is not None:
                values[name] = value
        for name, other in (("fps", "frames"), ("frames", "fps")):
            if flags.get(name) is not None and flags.get(other) is None:
                values.pop(other, None)  # two ways to say one thing: the nearer one counts
        return cls(**values)


PARSERS: dict[str, Parser] = {
    "model": str,
    "system": str,
    "think": parse_thinking,
    "max_tokens": parse_whole(1),
    "temperature": parse_number(0, 100),
    "top_p": parse_number(0, 1),
    "top_k": parse_whole(0),  # 0: all tokens
    "min_p": parse_number(0, 1),
    "presence_penalty": parse_number(-2, 2),
    "repetition_penalty": parse_number(0.01, 100),
    "stop": str,
    "seed": parse_whole(0),
    "loops": parse_choice("end", "ignore"),
    "image_tokens": parse_image_tokens,
    "fps": parse_fps,
    "frames": parse_whole(1),
    "start": parse_time,
    "end": parse_time,
    "video_tokens": parse_video_tokens,
    "ctx": parse_whole(1),
    "device": parse_choice("auto", "cpu", "cuda"),
    "load": parse_choice("auto", "read", "mmap"),
    "quant": parse_choice("none", "nf4", "int8"),
    "ram": parse_ram,
    "threads": parse_whole(1),
    "speculate": parse_speculate,
    "cache_disk": parse_bytes,
    "cache_ram": parse_bytes,
}


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for name in Settings.__dataclass_fields__:
        variable = f"QWEN_{name.upper()}"
        text = environ.get(variable)
        if text:
            values[name] = parse_setting(name, text, f"the environment variable {variable}")
    return values


def misspelt_variables(environ: Mapping[str, str]) -> list[str]:
    """A note on each variable that is named nearly like a setting's; others are none of ours."""
    variables = [f"QWEN_{name.upper()}" for name in Settings.__dataclass_fields__]
    notes = []
    for name in sorted(environ):
        if name.startswith("QWEN_") and name not in variables:
            close = difflib.get_close_matches(name, variables, 1, cutoff=0.9)
            notes += (
                [f"the environment variable {name} is not read; did you mean {close[0]}?"] if close else []
            )
    return notes


OWN_MODELS = "models"  # the table of config.toml that is no setting


def own_models(config_file: Path) -> dict[str, str]:
    """The user's own short names for repositories: `[models]`, NAME = "OWNER/NAME". Raises UsageError."""
    table = _read(config_file).get(OWN_MODELS, {})
    if not isinstance(table, dict):
        raise UsageError(f"{config_file}: '{OWN_MODELS}' is no table. Write [models] above its lines.")
    for name, repo in table.items():
        if not isinstance(repo, str) or repo.count("/") != 1:
            raise UsageError(f"{config_file}, 'models.{name}': {repo!r} is not OWNER/NAME of a repository.")
    return table


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as TOML ({error}).", path=str(path)) from None


def _from_file(path: Path) -> dict[str, Any]:
    values = {}
    for key, value in _read(path).items():
        if key == OWN_MODELS:
            continue
        if key not in Settings.__dataclass_fields__:
            known = Settings.__slots__
            hint = did_you_mean(key, known, "'{}'", f"Known: {', '.join(known)}.")
            raise UsageError(f"{path}: unknown key '{key}'. {hint}", path=str(path))
        values[key] = parse_setting(key, value, f"{path}, '{key}'")
    return values


def parse_setting(name: str, value: Any, where: str) -> Any:
    """`value` as text from the environment, or typed as TOML gave it. Raises UsageError that says `where`."""
    parser = PARSERS[name]

    def parse(item: Any) -> Any:
        if parser is str and not isinstance(item, str):
            raise ValueError(f"{item!r} is not text; put it in quotes.")
        if not isinstance(item, str | int | float):
            raise ValueError(f"{item!r} is neither text nor a number.")
        return parser(str(item).lower() if isinstance(item, bool) else str(item))

    try:
        if isinstance(Settings.__dataclass_fields__[name].default, tuple):
            return tuple(parse(item) for item in (value if isinstance(value, list) else [value]))
        return parse(value)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
