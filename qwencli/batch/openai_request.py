"""A request in the form of OpenAI's chat completions, as their Batch files hold it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from qwen35.errors import InputError
from qwen35.messages import Role
from qwencli.settings import PARSERS
from qwencli.values import Thinking

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
# Fields that are settings here, and their names.
_SETTINGS = {
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "presence_penalty": "presence_penalty",
    "repetition_penalty": "repetition_penalty",
    "seed": "seed",
}
# Fields that change nothing where they have one of these values, and cannot have another.
_ONLY: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "logprobs": (False,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "stream": (False,),
    "modalities": (["text"],),
}
# Fields that are of no meaning on one's own machine, or that are read below.
_KNOWN = (
    *("model", "messages", "stop", "reasoning_effort", "chat_template_kwargs", "response_format"),
    *("user", "metadata", "store", "service_tier", "stream_options", "safety_identifier"),
    *("prompt_cache_key", "parallel_tool_calls", "tool_choice", "verbosity"),
)


@dataclass(frozen=True, slots=True)
class InputPiece:
    """A picture, video or file within a message: a URL, a data: URI or a path."""

    spec: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One message; texts, and what is to be attached between them."""

    role: Role
    pieces: tuple[str | InputPiece, ...]


@dataclass(frozen=True, slots=True)
class OpenAIRequest:
    """`settings`: fields of Settings that the request sets; `notes`: what of it has no effect.

    `schema`: of the answer, which has not been looked at yet; None: it is free.
    """

    body: dict[str, Any]
    turns: tuple[Turn, ...]
    settings: dict[str, Any]
    schema: Any
    notes: tuple[str, ...]

    @property
    def inputs(self) -> list[str]:
        return [piece.spec for turn in self.turns for piece in turn.pieces if isinstance(piece, InputPiece)]

    @classmethod
    def from_dict(cls, line: Mapping[str, Any], find: Callable[[str], str] = str) -> "OpenAIRequest":
        """Of one line of a Batch file, whose inputs lie where `find` says.

        Raises InputError for what is missing, or is not done here.
        """
        url = line.get("url", "/v1/chat/completions")
        if not isinstance(url, str) or not url.endswith("/chat/completions"):
            raise InputError(f"'url' is {url!r}; chat completions alone are answered.")
        body = line.get("body")
        if not isinstance(body, dict):
            raise InputError("'body' is missing: an object with 'messages'.")
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise InputError("'body' has no 'messages'.")
        for name, values in _ONLY.items():
            if body.get(name) is not None and body[name] not in values:
                raise InputError(f"{name!r} is not supported: leave it out.")
        strange = [name for name in body if name not in {*_KNOWN, *_SETTINGS, *_ONLY}]
        notes = [f"{', '.join(map(repr, strange))}: not known here, without effect"] if strange else []
        turns = tuple(_turn(message, number, find) for number, message in enumerate(messages, 1))
        return cls(body, turns, _settings(body), _schema(body), tuple(notes))


def _turn(message: Any, number: int, find: Callable[[str], str]) -> Turn:
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise InputError(f"message {number}: its 'role' is none of {', '.join(_ROLES)}.")
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list):
        raise InputError(f"message {number}: 'content' is neither text nor a list of parts.")
    return Turn(_ROLES[message["role"]], tuple(_piece(part, number, find) for part in parts))


def _piece(part: Any, number: int, find: Callable[[str], str]) -> str | InputPiece:
    kind = part.get("type") if isinstance(part, dict) else None
    value: Any = None
    if kind in ("text", "refusal"):
        value = part.get(kind)
    elif kind in ("image_url", "video_url"):
        value = part.get(kind)
        value = value.get("url") if isinstance(value, dict) else value
    elif kind == "file":
        value = part.get("file")
        value = value.get("file_data") if isinstance(value, dict) else None
    else:
        raise InputError(f"message {number}: parts of the type {kind!r} are not supported.")
    if not isinstance(value, str):
        raise InputError(f"message {number}: a part of the type {kind!r} without its content.")
    if kind in ("text", "refusal"):
        return value
    spec = unquote(value.removeprefix("file://")) if value.startswith("file://") else value
    if spec in ("", "-"):
        what = "standard input, which cannot be that of one item" if spec else "empty"
        raise InputError(f"message {number}: the content of a part of the type {kind!r} is {what}.")
    return InputPiece(find(spec))


def _schema(body: Mapping[str, Any]) -> Any:
    form = body.get("response_format") or {"type": "text"}
    kind = form.get("type") if isinstance(form, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    described = form.get("json_schema") if kind == "json_schema" else None
    if not isinstance(described, dict) or "schema" not in described:
        raise InputError(
            "'response_format' is none of text, json_object and a json_schema with its 'schema'."
        )
    return described["schema"]


def _as_here(name: str, value: Any) -> str:
    """A value of OpenAI's or vLLM's in the words of the setting's parser."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if name == "top_k" and value == -1:
        return "0"  # all tokens
    if name == "seed" and isinstance(value, int) and value < 0:
        value %= 1 << 64  # any number will do, the same each time
    return str(value)


def _settings(body: Mapping[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, setting in _SETTINGS.items():
        if (value := body.get(name)) is not None:
            try:
                settings[setting] = PARSERS[setting](_as_here(name, value))
            except ValueError as error:
                raise InputError(f"{name!r}: {error}") from None
    stop = body.get("stop")
    if stop is not None:
        stops = [stop] if isinstance(stop, str) else stop
        if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
            raise InputError("'stop' is neither text nor a list of texts.")
        settings["stop"] = tuple(stops)
    template = body.get("chat_template_kwargs")
    thinks = template.get("enable_thinking") if isinstance(template, dict) else None
    if thinks is None and (effort := body.get("reasoning_effort")) is not None:
        thinks = effort != "none"
    if thinks is not None:
        settings["think"] = Thinking(bool(thinks))
    return settings
