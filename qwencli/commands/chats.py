"""`qwen chats`: the saved conversations."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from qwencli import completions, options
from qwencli.errors import UsageError

if TYPE_CHECKING:
    from qwencli.conversations.records import Hit, Summary
    from qwencli.conversations.store import Store

chats = typer.Typer(help="List, read, search, export and remove saved conversations.", rich_markup_mode=None)


ChatId = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="As `ls` lists it, the beginning of one, or `last`.",
        autocompletion=completions.complete_chat,
    ),
]


def _store() -> "Store":
    """The saved conversations; an empty store where there are none."""
    from qwencli.conversations.store import Store
    from qwencli.folders import Folders

    data = Folders.locate(os.environ).data
    return Store.open_to_read(data) or Store.in_memory(lambda text: None)


@chats.command("ls", short_help="List the conversations, the one added to last first.")
def list_chats(
    number: Annotated[
        int | None, typer.Option("-n", "--number", metavar="N", help="The newest N alone.", min=1)
    ] = None,
    json: options.Json = False,
) -> None:
    """List the conversations, the one added to last first."""
    from dataclasses import asdict

    from qwencli.render.output import standard_output
    from qwencli.render.record import SCHEMA_VERSION

    with _store() as store:
        summaries = store.summaries(number)
    output = standard_output()
    if json:
        rows = [asdict(summary) for summary in summaries]
        output.print_json({"schema_version": SCHEMA_VERSION, "chats": rows, "error": None})
    else:
        output.write_text(chat_table(summaries))


def chat_table(summaries: "list[Summary]") -> str:
    from qwencli.conversations.export import when
    from qwencli.render.columns import table
    from qwencli.render.safe import one_line

    if not summaries:
        return "No conversations yet. Begin one: qwen chat\n"
    rows = [
        (s.id, when(s.updated_at), str(s.num_messages), s.model or "", one_line(s.title)) for s in summaries
    ]
    return table(("ID", "LAST", "MESSAGES", "MODEL", "TITLE"), rows)


@chats.command("show", short_help="Show one conversation.")
def show_chat(id: ChatId, json: options.Json = False) -> None:
    """Show one conversation as it stands; --json holds the other branches too."""
    from qwencli.conversations.export import to_dict, to_markdown
    from qwencli.render.output import standard_output

    with _store() as store:
        chat = store.find(id)
        parts = store.summary_of(chat), chat.path, chat.everything()
    output = standard_output()
    if json:
        output.print_json(to_dict(*parts))
    else:
        output.write_text(to_markdown(*parts))


@chats.command("search", short_help="Find messages that hold all these words.")
def search_chats(
    words: Annotated[list[str], typer.Argument(metavar="WORD...", help="All of them must be there.")],
    json: options.Json = False,
) -> None:
    """Find messages that hold all these words; the last one may be the beginning of a word."""
    from dataclasses import asdict

    from qwencli.render.output import standard_output
    from qwencli.render.record import SCHEMA_VERSION

    with _store() as store:
        hits = store.search(" ".join(words))
    output = standard_output()
    if json:
        rows = [asdict(hit) for hit in hits]
        output.print_json({"schema_version": SCHEMA_VERSION, "hits": rows, "error": None})
    else:
        output.write_text(_hit_table(hits))


def _hit_table(hits: "list[Hit]") -> str:
    from qwencli.conversations.export import when
    from qwencli.render.columns import table
    from qwencli.render.safe import one_line

    if not hits:
        return "Nothing found.\n"
    who = {"user": "question", "assistant": "answer", "compact": "summary"}
    rows = [(hit.chat_id, when(hit.created_at), who[hit.role], one_line(hit.excerpt)) for hit in hits]
    return table(("ID", "TIME", "IN", "TEXT"), rows)


@chats.command("export", short_help="Write one conversation as Markdown, JSON or JSON lines.")
def export_chat(
    id: ChatId,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Default: standard output.", show_default=False),
    ] = None,
    form: Annotated[
        Literal["md", "json", "jsonl"] | None,
        typer.Option(
            "-f",
            "--format",
            metavar="md|json|jsonl",
            help="Default: as FILE ends, else md.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE where it exists.")] = False,
) -> None:
    """Write one conversation as Markdown, JSON (all branches) or JSON lines (a message a line)."""
    from qwencli.conversations.export import FORMATS, write_export
    from qwencli.render.output import standard_output

    with _store() as store:
        chat = store.find(id)
        parts = store.summary_of(chat), chat.path, chat.everything()
    if output is None:
        standard_output().write_text(FORMATS[form or "md"](*parts))
    else:
        another = "--overwrite replaces it"
        write_export(output, form, *parts, another=another, overwrites=overwrite)


@chats.command("rm", short_help="Remove conversations for good.")
def remove_chats(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID...", autocompletion=completions.complete_chat, show_default=False),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All conversations.")] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask before --all.")] = False,
    json: options.Json = False,
) -> None:
    """Remove conversations for good, with the attachments that no other one has."""
    from qwencli.conversations.store import Store
    from qwencli.folders import Folders
    from qwencli.render.output import standard_output
    from qwencli.render.record import SCHEMA_VERSION

    if bool(ids) == everything:
        raise UsageError("Name the conversations to remove, or --all. See: qwen chats ls")
    with Store.open(Folders.locate(os.environ).data, lambda text: None) as store:
        if everything and not yes and not _may_remove_all(len(store.summaries()), asks=not json):
            standard_output().write_text("Nothing was removed.\n")
            return
        whole = [s.id for s in store.summaries()] if everything else [store.find(id).id for id in ids or []]
        removed = list(dict.fromkeys(whole))
        store.remove(removed)
    values: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "removed": removed, "error": None}
    if json:
        standard_output().print_json(values)
    else:
        num = len(removed)
        standard_output().write_text(f"Removed {num} conversation{'s'[: num != 1]}.\n")


def _may_remove_all(num_chats: int, *, asks: bool) -> bool:
    """Raises UsageError where nobody can be asked."""
    from qwencli.commands.remove import is_confirmed, is_seen

    if not num_chats:
        return True
    if not asks or not is_seen():
        raise UsageError(f"--all removes {num_chats} conversation{'s'[: num_chats != 1]} for good: add -y.")
    return is_confirmed(f"Remove all {num_chats} conversations?")
