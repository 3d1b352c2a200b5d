"""Commands that move through the conversation, or take it elsewhere."""

import sys
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

from qwen35.errors import InputError
from qwencli.chat.clipboard import copy_text
from qwencli.chat.context import count_tokens, turns_that_fit
from qwencli.chat.session import Session
from qwencli.conversations.export import FORMATS, ending_of, when, write_export
from qwencli.conversations.records import StoredMessage
from qwencli.conversations.store import LAST
from qwencli.errors import UsageError
from qwencli.render.columns import table
from qwencli.render.safe import one_line

_SHOWN = 60  # characters of a message in a list
SUMMARY = "summary"
_GO_ON = "Continue your last answer exactly where it stopped."


def clear(session: Session, argument: str) -> None:
    had_turns = session.conversation.is_saved
    session.begin()
    session.screen.say("a new conversation" + ("; /resume goes back to the other one" if had_turns else ""))


def undo(session: Session, argument: str) -> None:
    taken = session.conversation.rewind(_number(argument, 1))
    if not taken:
        raise UsageError("There is nothing to take back.")
    if question := next((message for message in taken if message.role == "user"), None):
        session.screen.say(f"took back: {_first_line(question)}; it stays saved (/branch)")
    if any(message.role == "compact" for message in taken):
        session.screen.say("the turns that /compact left out are back")


def retry(session: Session, argument: str) -> None:
    session.ask_again(_last_question(session))


def go_on(session: Session, argument: str) -> None:
    seen = session.conversation.seen
    if not seen or seen[-1].role != "assistant":
        raise UsageError("There is no answer to continue. /retry asks the last question again.")
    if ending_of(seen[-1]) is None:
        raise UsageError(
            "The last answer was not cut: there is no rest of it. Ask for more in your own words."
        )
    session.ask(_GO_ON)


def edit(session: Session, argument: str) -> None:
    """With text: ask that instead. Without: the old words stand at the prompt, to be changed."""
    question = _last_question(session)
    if argument:
        session.edit(question, argument)
    else:
        session.draft = f"/edit {question.text}"


def branch(session: Session, argument: str) -> None:
    """Without a number: list the branches."""
    branches = session.conversation.branches()
    if not branches:
        raise UsageError("Nothing was said yet.")
    if argument:
        number = _number(argument, 0)
        if not 1 <= number <= len(branches):
            raise UsageError(f"There is no branch {number}; /branch lists them.")
        session.conversation.go_to(branches[number - 1])
        session.screen.say(describe(session))
        return
    present = [message.id for message in session.conversation.path]
    rows = []
    for number, path in enumerate(branches, 1):
        question = next(message for message in reversed(path) if message.role == "user")
        is_here = [message.id for message in path][: len(present)] == present
        num_turns = sum(message.role == "user" for message in path)
        rows.append(
            (
                str(number),
                "here" if is_here else "",
                when(path[-1].created_at),
                f"{num_turns}",
                _first_line(question),
            )
        )
    session.screen.show(table(("BRANCH", "", "LAST", "TURNS", "LAST QUESTION"), rows, session.screen.columns))


def save(session: Session, argument: str) -> None:
    """Conversations are saved as they happen: this gives one a title."""
    if session.store.file is None:
        raise UsageError("Nothing is saved in this run; /export FILE writes the conversation to a file.")
    if argument:
        session.conversation.rename(argument)
    session.screen.say(
        f"saved as {session.conversation.id}: {session.conversation.title or '(no question yet)'}"
    )


def resume(session: Session, argument: str) -> None:
    """The named conversation, or the last one that is not this."""
    wanted = argument
    if not wanted:
        others = [s.id for s in session.store.summaries(2) if s.id != session.conversation.id]
        wanted = others[0] if others else LAST
    session.resume(wanted)
    session.screen.say(describe(session))


def history(session: Session, argument: str) -> None:
    """The turns of this conversation; "all": the conversations there are."""
    if argument == "all":
        rows = [(s.id, when(s.updated_at), one_line(s.title)) for s in session.store.summaries(50)]
        columns = session.screen.columns
        session.screen.show(
            table(("ID", "LAST", "TITLE"), rows, columns) if rows else "No conversations yet."
        )
        return
    lines = []
    for message in session.conversation.path:
        if message.role == "compact":
            summary = f", but for this summary:\n{message.text}" if message.text else " ---"
            lines.append(f"--- older turns are left out of what the model sees{summary}")
            continue
        attached = "".join(f"[{a.source}] " for a in message.attachments)
        ending = f"  ({ending_of(message)})" if message.role == "assistant" and ending_of(message) else ""
        mark = "> " if message.role == "user" else ""
        lines.append(f"{mark}{attached}{message.text}{ending}")
    session.screen.show("\n\n".join(lines) if lines else "Nothing was said yet.", is_prose=True)


def copy(session: Session, argument: str) -> None:
    answer = session.conversation.last_answer
    if answer is None:
        raise UsageError("There is no answer to copy.")
    if program := copy_text(answer.text):
        session.screen.say(f"copied the answer ({program})")
        return
    if not session.screen.is_terminal:
        raise InputError("There is no clipboard here: no program for it was found, and no terminal.")
    # OSC 52: many terminals take a text for the clipboard so, also through ssh.
    sys.stdout.write(f"\x1b]52;c;{b64encode(answer.text.encode()).decode()}\x07")
    sys.stdout.flush()
    session.screen.say("sent the answer to the terminal's clipboard (not every terminal takes it)")


def export(session: Session, argument: str) -> None:
    """To a file, in the format that its name ends in; or `md`, `json`, `jsonl` to standard output."""
    chat = session.conversation
    if not chat.is_saved:
        raise UsageError("Nothing was said yet.")
    parts = session.store.summary_of(chat), chat.path, chat.everything()
    if not argument or argument in FORMATS:
        session.screen.show(FORMATS[argument or "md"](*parts))
        return
    write_export(Path(argument), None, *parts, another="name another file")
    session.screen.say(f"wrote {argument}")


def compact(session: Session, argument: str) -> None:
    """Leave old turns out of what the model sees: all but the last N, or but those of half the context.

    "summary" before N: it sees a summary in their place, which it writes itself.
    """
    word, _, rest = argument.partition(" ")
    if word == SUMMARY:
        argument = rest.strip()
    chat = session.conversation
    num_turns = chat.num_turns
    processor = session.model.processor()
    counts = [count_tokens(processor, message, None) for message in chat.messages()]
    if argument:
        num_kept = _number(argument, 1, least=0)
    else:
        num_kept = min(turns_that_fit(chat.seen, counts, session.context_limit() // 2), num_turns - 1)
    if not 0 <= num_kept < num_turns:
        raise UsageError(
            f"There is nothing to leave out: the model sees {num_turns} turn{'s'[: num_turns != 1]}."
        )
    num_dropped = num_turns - num_kept
    turns = f"{num_dropped} turn{'s'[: num_dropped != 1]}"
    if word == SUMMARY:
        dropped = session.summarise(num_kept)
        length = count_tokens(processor, chat.messages(end=1)[0], None)
        did, into = f"summed up {turns}", f", in about {length:,}"
    else:
        dropped = chat.compact(num_kept)
        did, into = f"left out {turns}", ""
    session.screen.say(
        f"{did}, about {sum(counts[: len(dropped)]):,} of {sum(counts):,} tokens{into}; they stay saved, "
        "and /undo takes this back:"
    )
    for message in dropped:
        if message.role != "assistant":
            session.screen.say(f"  {_first_line(message)}")


def describe(session: Session) -> str:
    """Where the conversation stands, after it was resumed."""
    chat = session.conversation
    num_turns = sum(message.role == "user" for message in chat.path)
    lines = [f"{chat.id}: {chat.title}, {num_turns} turn{'s'[: num_turns != 1]}"]
    question, answer = chat.last_question, chat.last_answer
    if question:
        lines.append(f"> {question.text}")
    if answer:
        lines.append(answer.text)
        if ending := ending_of(answer):
            lines.append(f"({ending}; /continue goes on, /retry asks again)")
    elif question:
        lines.append("(without an answer; /retry asks again)")
    return "\n".join(lines)


def _last_question(session: Session) -> StoredMessage:
    question = session.conversation.last_question
    if question is None:
        raise UsageError("There is no question yet.")
    return question


def _first_line(message: StoredMessage) -> str:
    lines: Sequence[str] = message.text.splitlines() or [", ".join(a.source for a in message.attachments)]
    return lines[0] if len(lines[0]) <= _SHOWN else lines[0][: _SHOWN - 1] + "…"


def _number(argument: str, default: int, least: int = 1) -> int:
    if not argument:
        return default
    if not argument.isdecimal() or int(argument) < least:
        raise UsageError(f"{argument!r} is not a number of at least {least}.")
    return int(argument)
