"""A conversation to the prompt that the model was trained on, by the checkpoint's own chat template.

The template is code from outside: it runs in jinja2's immutable sandbox, with the functions that
`transformers` offers to templates and no others.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from qwen35.config import read_json
from qwen35.errors import CheckpointError, InputError
from qwen35.messages import ImagePart, Message, Part, TextPart, VideoPart


class ChatTemplate:
    def __init__(
        self, source: str, where: str = "chat template", now: Callable[[], datetime] = datetime.now
    ) -> None:
        """Compile `source`; `where` names it in errors. Raises CheckpointError."""
        self._where = where
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except TemplateSyntaxError as error:
            raise CheckpointError(f"{where}: line {error.lineno}: {error.message}") from None

    @classmethod
    def from_folder(cls, folder: Path) -> "ChatTemplate | None":
        """The template of a model folder, from the first place that has one; None for base models."""
        path = folder / "chat_template.jinja"
        try:
            return cls(path.read_text(encoding="utf-8"), str(path))
        except FileNotFoundError:
            pass
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}).", path=str(path)) from None
        for name in ("tokenizer_config.json", "chat_template.json"):
            path = folder / name
            if path.exists() and (source := read_json(path).get("chat_template")) is not None:
                return cls(_default_of(source, path), str(path))
        return None

    def render(
        self,
        messages: Sequence[Message],
        *,
        enable_thinking: bool | None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt for `messages`, which come from `normalise`.

        `enable_thinking` None leaves the choice to the template. Raises InputError where the template
        refuses the conversation, CheckpointError where the template itself fails.
        """
        variables: dict[str, Any] = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
        try:
            return self._template.render(
                messages=[_to_dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                **variables,
            )
        except TemplateError as error:
            raise InputError(f"The model's chat template refuses this conversation: {error}") from None
        except Exception as error:  # a template is outside code and may fail in any way
            raise CheckpointError(
                f"{self._where}: fails on this conversation ({type(error).__name__}: {error})."
            ) from error

    @property
    def thinking_default(self) -> bool:
        """What the template chooses when the thinking flag is not passed."""
        prompt = self.render([Message.of_text("user", "Hello")], enable_thinking=None)
        return ends_in_reasoning(prompt)


def ends_in_reasoning(prompt: str) -> bool:
    """Whether the model's first token continues a thinking block that the prompt opened."""
    return prompt.rstrip().endswith("<think>")


def normalise(messages: Sequence[Message]) -> list[Message]:
    """The conversation in the one form that every template of the family takes.

    System messages become one, in front, joined by a blank line (an empty one is left out); text
    parts that follow each other become one. Raises InputError.
    """
    system = [message for message in messages if message.role == "system"]
    for kind, name in ((ImagePart, "picture"), (VideoPart, "clip")):
        if any(isinstance(part, kind) for message in system for part in message.parts):
            raise InputError(f"A system message holds a {name}. It belongs into a user message.")
    if not any(message.role == "user" for message in messages):
        raise InputError("The conversation has no user message. Ask something.")
    rest = [
        replace(message, parts=_join_texts(message.parts)) for message in messages if message.role != "system"
    ]
    texts = [text for message in system if (text := message.text.strip())]
    return [Message.of_text("system", "\n\n".join(texts)), *rest] if texts else rest


def _join_texts(parts: Sequence[Part]) -> tuple[Part, ...]:
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, TextPart) and isinstance(last, TextPart):
            joined[-1] = TextPart(last.text + part.text)
        else:
            joined.append(part)
    return tuple(joined)


def _to_dict(message: Message) -> dict[str, Any]:
    """A message as templates know it: content is a string, or a list where there is more than text."""
    content: str | list[dict[str, str]] = message.text
    if not all(isinstance(part, TextPart) for part in message.parts):
        content = [_part_to_dict(part) for part in message.parts]
    values: dict[str, Any] = {"role": message.role, "content": content}
    if message.reasoning is not None:
        values["reasoning_content"] = message.reasoning
    return values


def _part_to_dict(part: Part) -> dict[str, str]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": "image" if isinstance(part, ImagePart) else "video"}


def _default_of(source: Any, path: Path) -> str:
    """`source` is the template, or a list of {name, template} of which one is called "default"."""
    if isinstance(source, list):
        named = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)}
        source = named.get("default")
    if not isinstance(source, str):
        raise CheckpointError(f"{path}: 'chat_template' holds no default template.", path=str(path))
    return source


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    # Jinja's own filter escapes HTML, which models were not trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
