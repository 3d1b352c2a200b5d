"""The chat's input where a person types: several lines, history, completion, and a line of figures below."""

import os
from collections.abc import Sequence

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.shortcuts import CompleteStyle
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import get_cwidth

from qwencli.chat.completion import ChatCompleter
from qwencli.chat.lines import is_open, unquoted
from qwencli.chat.session import Session

_REDRAW_S = 0.5  # while the model is loading, for the line below
_STYLE = Style.from_dict({"bottom-toolbar": "noreverse fg:ansibrightblack", "more": "fg:ansibrightblack"})


class PromptReader:
    is_interactive = True

    def __init__(self, session: Session, *, is_private: bool) -> None:
        self._session = session
        self._prompt: PromptSession[str] = PromptSession(
            message=[("bold", "> ")],
            multiline=True,
            prompt_continuation=lambda width, number, wraps: [("class:more", "  ")],
            history=_history(session) if not is_private else InMemoryHistory(),
            auto_suggest=AutoSuggestFromHistory(),
            completer=ChatCompleter(session),
            complete_while_typing=False,
            complete_style=CompleteStyle.MULTI_COLUMN,
            enable_open_in_editor=True,
            tempfile_suffix=".md",
            key_bindings=_bindings(),
            bottom_toolbar=lambda: toolbar(session),
            style=_STYLE,
        )

    def read(self, draft: str) -> str | None:
        """What was typed; None for Ctrl-D. Raises KeyboardInterrupt for Ctrl-C."""
        is_loading = self._session.model.is_loading
        try:
            typed = self._prompt.prompt(default=draft, refresh_interval=_REDRAW_S if is_loading else 0)
        except EOFError:
            return None
        return unquoted(typed)


def toolbar(session: Session) -> str:
    """The line below the prompt: what fits into the screen's width, what matters most first."""
    import psutil

    model = session.model
    parts = [model.name]
    if model.is_loading:
        share = f" {model.done_bytes / model.total_bytes:.0%}" if model.total_bytes else ""
        parts[0] += f" (loading{share})"
    answer = session.conversation.last_answer
    usage, timings = (answer.usage or {}, answer.timings or {}) if answer else ({}, {})
    if session.used_tokens and not model.is_loading:
        limit = session.context_limit()
        parts.append(f"context {session.used_tokens:,}/{limit:,} ({session.used_tokens / limit:.0%})")
    if session.pending:
        parts.append(f"{len(session.pending)} attached")
    if session.store.file is None:
        parts.append("not saved")
    if usage:
        parts.append(f"reused {usage['cached_tokens']:,}/{usage['prompt_tokens']:,}")
    if timings and timings["decode_tokens_per_s"]:
        parts.append(f"{timings['decode_tokens_per_s']:,.1f} tok/s")
    if session.answered and (experts := session.answered[-1].experts):
        parts.append(f"{experts.hit_rate:.0%} of experts in memory")
    parts.append(f"{psutil.Process().memory_info().rss / 1e9:.1f} GB")
    return fitted(parts, get_app().output.get_size().columns - 1)


def fitted(parts: Sequence[str], width: int) -> str:
    """As many of `parts` as fit into that many columns, whole, but for the first."""
    text = parts[0][:width]
    for part in parts[1:]:
        if get_cwidth(longer := f"{text} · {part}") > width:
            break
        text = longer
    return text


def _history(session: Session) -> History:
    """Lines of earlier runs, for Ctrl-R and the arrow keys; of this run alone where it cannot be written."""
    path = session.folders.state / "chat-history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))


def _bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter", filter=has_focus(DEFAULT_BUFFER))
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter", filter=has_focus(DEFAULT_BUFFER))
    @bindings.add("c-j", filter=has_focus(DEFAULT_BUFFER))
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings
