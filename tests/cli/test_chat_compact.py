"""`/compact`: room in a full context, by leaving turns out or by a summary of them."""

import json
import re

import pytest

from qwencli.chat.commands.table import handle
from qwencli.conversations.conversation import SUMMARY_HEAD
from tests.cli.conftest import Invoke
from tests.cli.talking import messages, session_with_mini, texts


def test_a_full_context_stops_with_a_choice_and_compact_makes_room(chat: Invoke, invoke: Invoke) -> None:
    turns = ["Tell me about number " + str(number) for number in range(9)]
    full = chat(*turns, options=("--ctx", "256"))
    assert full.code == 5
    for choice in ("/compact leaves out the oldest turns", "/compact summary", "/clear"):
        assert choice in full.err
    asked = len(texts(invoke))
    assert 0 < asked < len(turns)  # what did not fit was not asked, nor anything dropped
    lines = f"/compact\n{turns[asked]}\n".encode()
    result = invoke("chat", "-c", "-m", "mini", "--ctx", "256", input=lines)
    assert result.code == 0, result.err
    assert re.search(r"left out \d+ turns?, about [\d,]+ of [\d,]+ tokens", result.err)
    assert "Tell me about number 0" in result.err  # it says what it dropped
    assert texts(invoke) == turns[: asked + 1]
    assert messages(invoke)[-1]["usage"]["prompt_tokens"] < 224


def test_compact_can_be_taken_back(chat: Invoke) -> None:
    out = chat("one", "two", "three", "/compact 1", "/context", "/undo", "/context").out
    before, _, after = out.partition("left out")
    assert before.count("question") == 1
    assert after.count("question") == 3


def test_a_person_is_told_once_when_the_context_is_nearly_full(invoke: Invoke) -> None:
    lines = b"Hello\nTell me about number 1\nTell me about number 2\n/compact 1\nTell me about number 3\n"
    told = invoke("chat", "-m", "mini", "--temperature", "0", "--ctx", "145", input=lines).err
    assert told.count("the context is nearly full") == 1
    assert re.search(
        r"nearly full: 1\d\d of 145 tokens\. /compact leaves .* /compact summary .* /clear", told
    )


def test_a_summary_stands_for_the_turns_it_sums_up(chat: Invoke, invoke: Invoke) -> None:
    result = chat("one", "two", "three", "/compact summary 1", "/context", "four")
    assert result.code == 0, result.err
    saved = messages(invoke)
    assert [m["role"] for m in saved] == ["user", "assistant"] * 3 + ["compact", "user", "assistant"]
    mark = saved[6]
    assert mark["text"]
    assert mark["text"] in result.out  # it was shown while it was written
    assert (mark["first_seen"], mark["model"], mark["finish_reason"]) == (saved[4]["id"], "mini", "stop")
    # It was asked of what is left out, and not of what stays.
    assert mark["usage"]["prompt_tokens"] > saved[3]["usage"]["prompt_tokens"]
    kinds = re.findall(r"^(summary|question|answer) +[\d,]+", result.out, re.MULTILINE)
    assert kinds == ["summary", "question", "answer"]
    shown = invoke("ask", "-c", "--dry-run", "five", "-m", "mini").out
    expected = "".join(
        f"<|im_start|>{role}\n{text}<|im_end|>\n"
        for role, text in [
            ("user", SUMMARY_HEAD + mark["text"]),
            *((m["role"], m["text"]) for m in [*saved[4:6], *saved[7:]]),
            ("user", "five"),
        ]
    )
    assert shown.startswith(expected)


def test_a_summary_is_resumed_undone_exported_and_found(chat: Invoke, invoke: Invoke) -> None:
    chat("one", "two", "/compact summary 1")
    summary = messages(invoke)[-1]["text"]
    resumed = chat("/history", "/context", "/undo", "/context", options=("-c",)).out
    before, _, after = resumed.partition("\nleft out ")
    assert f"but for this summary:\n{summary}" in before
    assert before.count("question") == 1
    assert after.count("question") == 2
    assert "summary" not in after
    assert "Summary" not in invoke("chats", "export", "last").out  # it is on a branch now
    chat("/branch 1", options=("-c",))
    assert f"## Summary in their place\n\n{summary}\n" in invoke("chats", "export", "last").out
    hits = json.loads(invoke("chats", "search", *summary.split()[:3], "--json").out)["hits"]
    assert "compact" in {hit["role"] for hit in hits}
    assert "summary" in invoke("chats", "search", *summary.split()[:3]).out


@pytest.mark.parametrize("summary", ["", "summary "])
@pytest.mark.parametrize("number", ["", "0"])  # of one turn, both are all of it
def test_all_turns_can_be_left_out(chat: Invoke, invoke: Invoke, summary: str, number: str) -> None:
    result = chat("one", f"/compact {summary}{number}", "/context", "two", "/context")
    assert result.code == 0, result.err
    kinds = re.findall(r"^(summary|question|answer) +[\d,]+", result.out, re.MULTILINE)
    assert kinds == [*["summary"] * bool(summary)] * 2 + ["question", "answer"]
    assert messages(invoke)[-1]["usage"]["prompt_tokens"] < 25 or summary
    taken = chat("/undo 2", "/context", options=("-c",))
    assert taken.out.count("question") == 1
    assert "left out" not in taken.out


def test_a_context_that_one_turn_fills_leaves_the_same_choices(chat: Invoke, invoke: Invoke) -> None:
    long = "Tell me all about the number " + "one " * 100  # 128 tokens: no other question fits beside it
    full = chat(long, "And now?", options=("--ctx", "150"))
    assert full.code == 5
    assert "/compact leaves out the oldest turns" in full.err
    assert chat("/compact", "And now?", options=("-c", "--ctx", "150")).code == 0
    alone = chat("/clear", long * 5, options=("-c", "--ctx", "150"))
    assert alone.code == 5
    assert "/compact" not in alone.err
    assert "/set ctx" in alone.err


@pytest.mark.usefixtures("home")
def test_in_idle_time_what_is_left_is_read_again() -> None:
    with session_with_mini() as session:
        for question in ("What can you do for me today, in as many words as you have?", "And tomorrow?"):
            session.take(question)
        handle(session, "/compact summary 1")
        session.begin_idle()
        session.take("Hm?")
    question = session.answered[-1].usage
    own = "<|im_start|>user\nHm?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    num_own = len(session.model.processor().tokenizer.encode(own))
    assert question.prompt_tokens - question.cached_tokens == num_own


def test_what_comes_after_a_summary_can_be_compacted_again(chat: Invoke, invoke: Invoke) -> None:
    result = chat("one", "two", "/compress 1", "three", "/compact summary 1", "four")
    assert result.code == 0, result.err
    saved = messages(invoke)
    marks = [message for message in saved if message["role"] == "compact"]
    assert [mark["first_seen"] for mark in marks] == [saved[2]["id"], saved[5]["id"]]
    shown = invoke("ask", "-c", "--dry-run", "five", "-m", "mini").out
    assert shown.startswith(f"<|im_start|>user\n{SUMMARY_HEAD}{marks[1]['text']}<|im_end|>\n")
    assert shown.count(SUMMARY_HEAD) == 1
    # The second was asked of the first one and of the turn between them.
    assert marks[1]["usage"]["prompt_tokens"] > marks[0]["usage"]["prompt_tokens"]


def test_turns_too_long_to_be_summed_up_are_told_and_stay(chat: Invoke, invoke: Invoke) -> None:
    chat("one", "two")
    result = chat("/compact summary 1", options=("-c", "--ctx", "200"))
    assert result.code == 5
    assert "/compact without a summary leaves them out" in result.err
    assert [message["role"] for message in messages(invoke)] == ["user", "assistant"] * 2


@pytest.mark.parametrize("line", ["/compact 1", "/compact summary 1", "/compact summary x", "/compact -1"])
def test_with_nothing_to_sum_up_nothing_is_asked(chat: Invoke, line: str) -> None:
    result = chat("one", line)
    assert result.code == 2
    assert result.out.count("\n") == 1  # the answer alone
