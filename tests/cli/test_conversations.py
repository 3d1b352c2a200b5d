"""The store of conversations: what was said comes back."""

import json
from pathlib import Path

import pytest
from PIL import Image

from qwen35.errors import InputError, UnwritableError
from qwen35.events import Finished, Note, Prefilled, TextDelta
from qwen35.messages import ImagePart
from qwencli.conversations.conversation import Conversation
from qwencli.conversations.export import to_json, to_jsonl, to_markdown
from qwencli.conversations.store import Store
from qwencli.settings import Settings
from qwencli.values import PageRanges, Thinking
from tests.cli.conversing import answer, no_note


def test_what_was_said_comes_back(store: Store) -> None:
    chat = store.begin()
    settings = Settings(system="Be brief.", think=Thinking(True, 50), temperature=0.5)
    chat.ask("What is it?", settings=settings)
    answer(chat, "It is a cat.", "A cat, I think.")
    with Store.open(store.file.parent.parent, no_note) as again:  # type: ignore[union-attr]
        back = again.find("last")
    assert back.path == chat.path
    assert (back.id, back.title, back.system, back.model) == (chat.id, "What is it?", "Be brief.", "mini")
    question, said = back.messages("Be brief.")[1:]
    assert (question.role, question.text) == ("user", "What is it?")
    assert (said.role, said.text, said.reasoning) == ("assistant", "It is a cat.", "A cat, I think.")
    assert back.path[0].settings == {
        "system": "Be brief.",
        "think": {"enabled": True, "budget": 50},
        "temperature": 0.5,
    }
    assert back.path[1].usage is not None
    assert (back.path[1].usage["cached_tokens"], back.path[1].finish_reason) == (4, "stop")


def test_attachments_come_back_and_their_bytes_are_kept_once(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a b.png"
    Image.new("RGB", (5, 4), (10, 20, 30)).save(path)
    notes: list[str] = []
    attacher = store.attacher(None, notes.append, lambda *progress: None)
    for name in ("one", "two"):
        chat = store.begin()
        chat.ask(name, attacher.attach_all([str(path)]))
    path.unlink()
    part = store.find(chat.id).messages()[0].parts[0]
    assert isinstance(part, ImagePart)
    assert (part.pixels.shape, part.pixels[0, 0].tolist(), part.source) == (
        (4, 5, 3),
        [10, 20, 30],
        str(path),
    )
    kept = [file for file in (tmp_path / "chats" / "attachments").rglob("*") if file.is_file()]
    assert len(kept) == 1


def test_the_pages_of_a_pdf_come_back_as_they_were_chosen(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "three.pdf"
    pages = [Image.new("RGB", (60, 40 + 10 * number), "white") for number in range(3)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    chosen = PageRanges(((3, None), (1, 1)))
    attached = store.attacher(chosen, no_note, lambda *progress: None).attach_all([str(path)])
    chat = store.begin()
    chat.ask("what", attached, pages=chosen)
    texts = [part.text for part in store.find(chat.id).messages()[0].parts if not isinstance(part, ImagePart)]
    assert [text[:11] for text in texts if text.strip()] == ["Page 3 of 3", "Page 1 of 3", "what"]


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_lost_bytes_are_a_note_and_a_line_for_the_model(tmp_path: Path, damage: str) -> None:
    notes: list[str] = []
    (tmp_path / "x.txt").write_text("words")
    with Store.open(tmp_path, notes.append) as store:
        chat = store.begin()
        attached = store.attacher(None, notes.append, lambda *progress: None).attach_all(
            [str(tmp_path / "x.txt")]
        )
        chat.ask("what", attached)
        blob = next(file for file in (tmp_path / "chats" / "attachments").rglob("*") if file.is_file())
        if damage == "gone":
            blob.unlink()
        else:
            blob.write_text("wards")
        text = store.find(chat.id).messages()[0].text
    assert text.startswith(f"[{tmp_path / 'x.txt'} is missing]")
    assert len(notes) == 1


def test_nothing_is_overwritten_by_stepping_back(store: Store) -> None:
    chat = store.begin()
    chat.ask("one")
    answer(chat, "first")
    chat.ask("two")
    answer(chat, "second")
    assert [message.text for message in chat.rewind()] == ["two", "second"]
    chat.ask("three")
    answer(chat, "third")
    chat.rewind_to(chat.last_question)
    answer(chat, "fourth")
    assert [message.text for message in chat.path] == ["one", "first", "three", "fourth"]
    ends = [[message.text for message in path][-2:] for path in chat.branches()]
    assert ends == [["two", "second"], ["three", "third"], ["three", "fourth"]]
    chat.go_to(chat.branches()[0])
    assert [message.text for message in store.find(chat.id).path] == ["one", "first", "two", "second"]


def test_compact_leaves_out_and_rewind_brings_back(store: Store) -> None:
    chat = store.begin()
    for number in range(3):
        chat.ask(f"q{number}")
        answer(chat, f"a{number}")
    assert [message.text for message in chat.compact(1)] == ["q0", "a0", "q1", "a1"]
    assert [message.text for message in chat.messages()] == ["q2", "a2"]
    assert [message.text for message in store.find(chat.id).messages()] == ["q2", "a2"]
    chat.ask("q3")
    assert [message.text for message in chat.messages()] == ["q2", "a2", "q3"]
    chat.rewind(2)
    assert len(chat.messages()) == 6


def interrupt(chat: Conversation, *pieces: str) -> None:
    with chat.answering("mini") as writer:
        writer.take(Prefilled(10, 0, 0.1))
        for piece in pieces:
            writer.take(TextDelta(piece))
        raise KeyboardInterrupt


def test_an_interrupted_answer_is_kept_and_an_empty_one_is_not(store: Store) -> None:
    chat = store.begin()
    chat.ask("one")
    with pytest.raises(KeyboardInterrupt):
        interrupt(chat)
    assert chat.last_answer is None
    with pytest.raises(KeyboardInterrupt):
        interrupt(chat, "be", "gun")
    saved = store.find(chat.id).path[-1]
    assert (saved.text, saved.finish_reason) == ("begun", "interrupted")
    assert saved.usage is not None
    assert (saved.usage["prompt_tokens"], saved.usage["completion_tokens"]) == (10, 2)


def test_token_ids_are_kept_where_they_are_known(store: Store) -> None:
    chat = store.begin()
    chat.ask("one")
    with chat.answering("mini") as writer:
        writer.take(Finished("stop", "first", "", token_ids=(1, 248_000, 3)))
    assert store.find(chat.id).path[-1].token_ids == (1, 248_000, 3)
    assert store.find(chat.id).messages()[-1].token_ids == (1, 248_000, 3)


def test_search_finds_words_beginnings_parts_and_titles(store: Store) -> None:
    chat = store.begin()
    chat.ask("Where is the café in Köln?")
    answer(chat, '日本語のテキスト and a "quoted" word')
    chat.rename("Holiday plans")
    for text in ("cafe", "CAFÉ koln", "quo", '"quoted"', "のテ", "afé", "holiday", "AND word"):
        assert [hit.chat_id for hit in store.search(text)][:1] == [chat.id], text
    for text in ("", "nothing", "cafe nothing", '"', "*"):
        assert store.search(text) == [] or text in ('"', "*"), text


def test_a_growing_answer_is_found_and_removed_with_its_chat(store: Store) -> None:
    chat = store.begin()
    chat.ask("one")
    with chat.answering(
        "mini",
    ) as writer:
        writer.take(TextDelta("needle"))
        assert [hit.role for hit in store.search("needle")] == ["assistant"]
        writer.take(Finished("stop", "needle in hay", ""))
    assert len(store.search("hay")) == 1
    store.remove([chat.id])
    assert store.search("hay") == []
    assert store.summaries() == []


def test_what_is_removed_is_not_left_in_the_files(store: Store, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("attachedsecret")
    chats = [store.begin(), store.begin()]
    attacher = store.attacher(None, no_note, lambda *progress: None)
    for number, chat in enumerate(chats):
        chat.ask(f"typedsecret{number}", attacher.attach_all([str(tmp_path / "x.txt")]))
        answer(chat, f"answeredsecret{number}")
    store.remove([chats[0].id])
    held = b"".join(file.read_bytes() for file in (tmp_path / "chats").rglob("*") if file.is_file())
    assert b"typedsecret0" not in held
    assert b"answeredsecret0" not in held
    assert b"attachedsecret" in held  # the other conversation has it too
    store.remove([chats[1].id])
    held = b"".join(file.read_bytes() for file in (tmp_path / "chats").rglob("*") if file.is_file())
    assert b"secret" not in held


def test_ids_may_be_shortened_while_they_are_unique(store: Store) -> None:
    chat = store.begin()
    chat.ask("one")
    assert store.find(chat.id[:3]).id == chat.id
    with pytest.raises(InputError, match="No conversation 'zz'"):
        store.find("zz")
    for _ in range(20):
        store.begin().ask("more")
    with pytest.raises(InputError, match="several"):
        store.find("")


def test_folders_and_files_are_the_users_alone(store: Store, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    chat = store.begin()
    chat.ask("one", store.attacher(None, no_note, lambda *p: None).attach_all([str(tmp_path / "x.txt")]))
    for path in [tmp_path / "chats", *(tmp_path / "chats").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_removed_conversation_cannot_be_gone_on_with(store: Store) -> None:
    chat = store.begin()
    chat.ask("one")
    store.remove([chat.id])
    with pytest.raises(UnwritableError, match="removed by another program"):
        chat.ask("two")


def test_a_store_in_memory_does_all_of_it_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("words")
    with Store.in_memory(no_note) as store:
        chat = store.begin()
        chat.ask("one", store.attacher(None, no_note, lambda *p: None).attach_all([str(tmp_path / "x.txt")]))
        answer(chat, "first")
        assert "words" in store.find("last").messages()[0].text
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]


def test_exports_hold_what_was_said(store: Store) -> None:
    chat = store.begin()
    chat.ask("What?\nReally?")
    answer(chat, "**This**", "Hm.\n\nYes.")
    chat.rewind()
    chat.ask("Then?")
    answer(chat, "That")
    parts = store.summary_of(chat), chat.path, chat.everything()
    text = to_markdown(*parts)
    assert "## Question\n\nThen?\n\n## Answer (mini)\n\nThat\n" in text
    assert "2 messages of other branches are not shown" in text
    whole = json.loads(to_json(*parts))
    assert [message["text"] for message in whole["messages"]] == [
        "What?\nReally?",
        "**This**",
        "Then?",
        "That",
    ]
    assert whole["path"] == [3, 4]
    assert [json.loads(line)["text"] for line in to_jsonl(*parts).splitlines()] == ["Then?", "That"]
    chat.go_to(chat.branches()[0])
    assert "> Hm.\n>\n> Yes.\n\n**This**" in to_markdown(store.summary_of(chat), chat.path, chat.everything())


def test_a_note_is_no_part_of_an_answer(store: Store) -> None:
    chat = store.begin()
    chat.ask("one")
    with chat.answering("mini") as writer:
        writer.take(Note("a note"))
    assert chat.last_answer is None
