"""Commands that tell: /context, /stats, /cache."""

from pathlib import Path

from qwencli.chat.context import count_tokens, room_for_answer
from qwencli.chat.session import Session
from qwencli.errors import UsageError
from qwencli.render.columns import facts, table

_SHOWN = 50  # characters of a question
_WHO = {"user": "question", "assistant": "answer", "compact": "summary"}


def show_context(session: Session, argument: str) -> None:
    """What takes how much of the context."""
    chat, processor = session.conversation, session.model.processor()
    limit = session.context_limit()
    rows = []
    if session.settings.system:
        rows.append(
            ("system", len(processor.tokenizer.encode(session.settings.system)), session.settings.system)
        )
    for stored, message in zip(chat.seen, chat.messages(), strict=True):
        who = _WHO[stored.role]
        attached = "".join(f"[{Path(attachment.source).name}] " for attachment in stored.attachments)
        rows.append((who, count_tokens(processor, message, None), f"{attached}{stored.text}"))
    total = sum(count for _, count, _ in rows)
    cells = [(who, f"{count:,}", " ".join(text.split())[:_SHOWN]) for who, count, text in rows]
    kept = room_for_answer(limit, session.settings.max_tokens)
    seen = sum(message.role != "compact" for message in chat.seen)
    left_out = sum(message.role != "compact" for message in chat.path) - seen
    lines = {
        "in all": f"about {total:,} of {limit:,} tokens ({total / limit:.0%})",
        "for an answer": f"at least {kept:,} tokens are kept",
    }
    if left_out:
        lines["left out"] = f"{left_out} messages (/compact)"
    columns = session.screen.columns
    heading = table(("WHAT", "TOKENS", "TEXT"), cells, columns) + "\n" if cells else ""
    session.screen.show(heading + facts(lines, columns))


def show_stats(session: Session, argument: str) -> None:
    """The last answer, and all of this run."""
    if not session.answered:
        raise UsageError("There was no answer yet in this run.")
    records = session.answered
    generated = sum(record.usage.completion_tokens for record in records)
    seconds = sum(record.timings.decode_s for record in records)
    prompts = sum(record.usage.prompt_tokens for record in records)
    reused = sum(record.usage.cached_tokens for record in records)
    session.screen.show(
        records[-1].figures()
        + f"this run: {len(records)} answer{'s'[: len(records) != 1]}, {generated:,} tokens in "
        f"{seconds:.1f} s; {reused:,} of {prompts:,} prompt tokens were reused\n",
        is_prose=True,
    )


def show_cache(session: Session, argument: str) -> None:
    """For each answer of this run, how much of its prompt was not computed again."""
    if not session.answered:
        raise UsageError("There was no answer yet in this run. `qwen cache ls` lists what is saved.")
    rows = []
    for number, record in enumerate(session.answered, 1):
        usage = record.usage
        computed = usage.prompt_tokens - usage.cached_tokens
        rows.append(
            (
                str(number),
                f"{usage.prompt_tokens:,}",
                f"{usage.cached_tokens:,}",
                f"{computed:,}",
                record.miss_reason or "",
            )
        )
    session.screen.show(
        table(("ANSWER", "PROMPT", "REUSED", "COMPUTED", "WHY NOT MORE"), rows, session.screen.columns)
    )
