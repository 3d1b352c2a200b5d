"""Commands that choose how questions are answered: /model, /system, /schema, /set, /show, /think."""

import json
from dataclasses import replace
from typing import Any

from qwencli.chat.session import Session
from qwencli.conversation import system_text
from qwencli.errors import UsageError
from qwencli.known_models import find_model
from qwencli.settings import PARSERS, Settings
from qwencli.structured.finish import Finish
from qwencli.suggest import did_you_mean
from qwencli.values import ImageTokens, Thinking, VideoTokens

# A model that is loaded already has taken these.
_OF_LOADING = ("model", "device", "load", "ram", "quant", "threads", "cache_disk", "cache_ram")
# Two ways to say one thing: the later one counts.
_INSTEAD = {"fps": "frames", "frames": "fps"}
NONE = "none"


def choose_model(session: Session, argument: str) -> None:
    if not argument:
        session.screen.say(f"model: {session.model.name}; /model NAME takes another")
        return
    known = find_model(argument, session.folders)
    session.settings = replace(session.settings, model=argument)
    session.open_model(known)
    session.screen.say(f"model: {known.name}; it is being loaded")


def set_system(session: Session, argument: str) -> None:
    if argument:
        text = None if argument == NONE else system_text(argument)
        session.settings = replace(session.settings, system=text)
    session.screen.say(f"system message: {session.settings.system or NONE}")


def set_schema(session: Session, argument: str) -> None:
    if argument:
        try:
            session.finish = Finish() if argument == NONE else Finish.of(argument)
        except UsageError as error:
            raise UsageError(str(error).replace("--schema:", "/schema:", 1)) from None
    form = session.finish.form
    session.screen.say(f"schema: {json.dumps(form.schema, ensure_ascii=False) if form else NONE}")


def set_thinking(session: Session, argument: str) -> None:
    if argument in ("fold", "unfold"):
        session.screen.folds_reasoning = argument == "fold"
        session.screen.say("thinking is not shown" if argument == "fold" else "thinking is shown")
        return
    if argument:
        _set(session, "think", argument)
    session.screen.say(f"think: {_text_of(session.settings.think)}")


def set_value(session: Session, argument: str) -> None:
    """NAME VALUE, or NAME alone for the default."""
    name, _, value = argument.replace("=", " ", 1).partition(" ")
    name, value = name.strip().lstrip("-").replace("-", "_"), value.strip()
    if not name:
        show_settings(session, "")
        return
    if name not in PARSERS:
        known = sorted(names_of_settings())
        hint = did_you_mean(name.replace("_", "-"), known, otherwise=f"Known: {', '.join(known)}.")
        raise UsageError(f"There is no setting {name!r}. {hint}")
    if name == "system":
        set_system(session, value or NONE)
        return
    if name == "model" and value:
        choose_model(session, value)
        return
    _set(session, name, value)
    if name in _OF_LOADING:
        session.open_model()
        session.screen.note("the model is loaded anew for this")
    session.screen.say(f"{name.replace('_', '-')}: {_text_of(getattr(session.settings, name))}")


def show_settings(session: Session, argument: str) -> None:
    """What is set; or the model, the system message, or the last thoughts."""
    if argument == "thinking":
        answer = session.conversation.last_answer
        session.screen.show(
            (answer.reasoning if answer else None) or "The last answer came without thinking.",
            is_prose=True,
        )
        return
    if argument == "system":
        session.screen.show(session.settings.system or NONE, is_prose=True)
        return
    if argument == "model":
        session.screen.show(_model_facts(session))
        return
    if argument not in ("", "settings"):
        raise UsageError("What can be shown: /show settings, /show model, /show system, /show thinking.")
    from qwencli.render.columns import facts

    values = {"model": session.model.name}
    for name in names_of_settings():
        if name != "model":
            values[name] = _text_of(getattr(session.settings, name.replace("-", "_")))
    session.screen.show(facts(values, session.screen.columns))


def _model_facts(session: Session) -> str:
    from qwencli.model_summary import ModelSummary
    from qwencli.render.columns import count, facts, size

    summary = ModelSummary.read(session.model.known)
    context = session.model.processor().config.text.max_position_embeddings
    parameters = count(summary.parameters or 0)
    return facts(
        {
            "name": summary.name,
            "folder": summary.folder,
            "weights": f"{parameters} parameters, {summary.dtype}, {size(summary.size_bytes)}",
            "context": f"{context:,} tokens",
        },
        session.screen.columns,
    )


def names_of_settings() -> list[str]:
    return [name.replace("_", "-") for name in PARSERS]


def _set(session: Session, name: str, text: str) -> None:
    """Raises UsageError with the parser's own words."""
    default = Settings.__dataclass_fields__[name].default
    try:
        value: Any = PARSERS[name](text) if text else default
    except ValueError as error:
        raise UsageError(f"{name.replace('_', '-')}: {error}") from None
    if isinstance(default, tuple) and text:  # repeatable: each adds one
        value = (*getattr(session.settings, name), value)
    values = {name: value}
    if text and name in _INSTEAD:
        values[_INSTEAD[name]] = None
    session.settings = replace(session.settings, **values)


def _text_of(value: Any) -> str:
    """As it would be written for the option."""
    match value:
        case None:
            return "default"
        case ():
            return NONE
        case tuple():
            return ", ".join(map(repr, value))
        case Thinking():
            return (
                str(value.budget) if value.budget else {True: "on", False: "off", None: "auto"}[value.enabled]
            )
        case ImageTokens(maximum=None):
            return "auto" if value.is_capped else "model"
        case ImageTokens():
            return f"{value.minimum}:{value.maximum}" if value.minimum else str(value.maximum)
        case VideoTokens(maximum=None):
            return "auto" if value.is_capped else "model"
        case VideoTokens():
            return str(value.maximum)
        case _:
            return str(value)
