"""The state cache under a whole engine: what it spares, that it changes no answer, and why it does not help.

"As bits": logits of every step, compared bit by bit. Every `ask` also checks that the engine's word for
what it reused is what the model was spared.
"""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from qwen35.engine.engine import Engine, prepare
from qwen35.engine.request import Request
from qwen35.events import Note, PrefillProgress
from qwen35.messages import ImagePart, Message
from qwen35.processing.image import TokenBounds
from qwen35.state import BLOCK_TOKENS
from tests.model.cache.asking import (
    GREEDY,
    Answer,
    ask,
    assistant,
    blobs_of,
    engine_of,
    picture,
    system,
    user,
    words,
)
from tests.model.cache.conftest import ModelOf

Conversation = Sequence[Message]

BIG = picture(7, 250, 256)  # 64 tokens

# A first question, and a second one that begins like it.
CASES: dict[str, tuple[Conversation, Conversation]] = {
    "system": (
        [system(words(300)), user("What?")],
        [system(words(300)), user("How many?")],
    ),
    "picture": ([user(picture(), "first")], [user(picture(), "second")]),
    "pictures": (
        [user(picture(1), picture(2), "and", picture(3, 64, 64), "first")],
        [user(picture(1), picture(2), "and", picture(3, 64, 64), "second")],
    ),
    "one of two pictures": (
        [user(picture(1), picture(2), "first")],
        [user(picture(1), picture(3), "first")],
    ),
    "document of several blocks": (
        [user(words(700) + " end", "\n\nfirst")],
        [user(words(700) + " end", "'s second")],
    ),
    "blocks that end within pictures": (
        [user(words(230), BIG, words(150), BIG, "first")],
        [user(words(230), BIG, words(150), BIG, "second")],
    ),
    "message end": (
        [user(words(280)), assistant("Yes, it is, and here is how."), user("Why?")],
        [user(words(280)), assistant("Yes, it is, and here is how."), user("And how?")],
    ),
    "exactly whole blocks": (
        [system(words(BLOCK_TOKENS - 10)), user("What?")],
        [system(words(BLOCK_TOKENS - 10)), user("How many?")],
    ),
    "every 4096 tokens": (
        [user(words(4300, 1) + words(200, 2), "first")],
        [user(words(4300, 1) + words(200, 3), "first")],
    ),
}
LENGTHS = {"system": 310, "pictures": 43, "blocks that end within pictures": 518, "every 4096 tokens": 4096}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("model_name", ["dense-q4", "moe-q8"])
def test_a_restored_state_answers_as_a_computed_one(
    model_of: ModelOf, states: Path, model_name: str, name: str
) -> None:
    alone, warm, again = restored_and_computed(model_of(model_name), states, name, max_tokens=64)
    assert len(warm.logits) == 64
    assert warm.result == again.result == alone.result


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("model_name", ["dense-q8", "moe-q4"])
def test_so_it_does_with_the_other_quantisation(
    model_of: ModelOf, states: Path, model_name: str, name: str
) -> None:
    test_a_restored_state_answers_as_a_computed_one(model_of, states, model_name, name)


@pytest.mark.parametrize("name", ["message end", "pictures", "document of several blocks"])
def test_on_torch_it_answers_nearly_so(model_of: ModelOf, states: Path, name: str) -> None:
    on_torch_it_answers_nearly_so(model_of("dense"), states, name, max_tokens=16)


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("model_name", ["dense", "moe"])
def test_on_torch_it_does_at_every_boundary(
    model_of: ModelOf, states: Path, model_name: str, name: str
) -> None:
    on_torch_it_answers_nearly_so(model_of(model_name), states, name, max_tokens=64)


def on_torch_it_answers_nearly_so(model: Path, states: Path, name: str, *, max_tokens: int) -> None:
    alone, warm, again = restored_and_computed(model, states, name, max_tokens=max_tokens)
    assert warm.text == alone.text
    assert warm.result == again.result
    # Torch sums in another order where there are other rows.
    assert np.abs(warm.logits - alone.logits).max() < 2e-4


def restored_and_computed(
    model: Path, states: Path, name: str, *, max_tokens: int
) -> tuple[Answer, Answer, Answer]:
    """Three answers to the second question: from nothing, from the disk, and then from memory."""
    first, second = CASES[name]
    alone = ask(engine_of(model), second, max_tokens=max_tokens)
    cold = ask(engine_of(model, states), first, max_tokens=1)
    engine = engine_of(model, states)
    warm = ask(engine, second, max_tokens=max_tokens)
    again = ask(engine, second, max_tokens=max_tokens)
    expected = length_to_find(engine, first, second)
    assert expected == LENGTHS.get(name, expected) > 0
    assert (cold.cached_tokens, cold.reason) == (0, "nothing was saved before")
    assert warm.cached_tokens == expected <= again.cached_tokens
    assert (warm.pictures, again.pictures) == (1 if name == "one of two pictures" else 0, 0)
    assert cold.notes == warm.notes == again.notes == []
    return alone, warm, again


def length_to_find(engine: Engine, first: Conversation, second: Conversation) -> int:
    """The last place of the first prompt that lies in what both prompts begin with."""
    a, b = (prepare(engine.processor, Request(tuple(asked))) for asked in (first, second))
    size = min(len(a.ids), len(b.ids))
    same = int(np.argmin(np.append(a.ids[:size] == b.ids[:size], False)))
    pictures = [
        [part for message in asked for part in message.parts if isinstance(part, ImagePart)]
        for asked in (first, second)
    ]
    for span, one, other in zip(a.media, *pictures, strict=True):
        if not np.array_equal(one.pixels, other.pixels):
            same = min(same, span.start)
    return max(place for place in (*a.boundaries, 4096) if place <= same)


def test_only_the_questions_own_tokens_are_computed(model: Path, states: Path) -> None:
    document, question = words(2359) + " end", "\n\nquestion 0"
    asked = [ask(engine_of(model, states), [user(document, f"{question[:-1]}{n}")]) for n in range(3)]
    template = asked[0].prompt_tokens - len(document) - len(question)
    word = len(" end")  # what follows may change a document's last word
    assert asked[1].rows == asked[2].rows <= word + len(question) + template
    assert asked[1].cached_tokens == len("#user\n") + len(document) - word


def test_a_picture_elsewhere_is_not_encoded_again(model: Path, states: Path) -> None:
    ask(engine_of(model, states), [user(picture(), "first")])
    elsewhere = [user("look at this: ", picture(), "and this: ", picture(1), "well?")]
    answer = ask(engine_of(model, states), elsewhere)
    assert (answer.pictures, answer.cached_tokens) == (1, 0)
    assert answer.result == ask(engine_of(model), elsewhere).result


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ([user(picture(1), "first")], "another picture, or the same in another size"),
        ([system("Be brief."), user(picture(), "first")], "differs from those before: 'system"),
    ],
)
def test_another_prompt_is_a_miss_that_says_where(
    model: Path, states: Path, other: Conversation, reason: str
) -> None:
    ask(engine_of(model, states), [user(picture(), "first")])
    answer = ask(engine_of(model, states), other)
    assert answer.cached_tokens == 0
    assert reason in (answer.reason or "")
    assert answer.result == ask(engine_of(model), other).result


def test_no_reason_is_given_where_the_prompt_that_was_reused_is_forgotten(model: Path, states: Path) -> None:
    """The states of a prompt outlive its ids, of which the last prompts' alone are kept."""
    document = user(words(280))
    ask(engine_of(model, states), [document, assistant("Yes, it is."), user("Why?")])
    with closing(sqlite3.connect(states / "index.sqlite")) as index, index:
        index.execute("DELETE FROM prompts")
    ask(engine_of(model, states), [user(picture(1), "else")])
    answer = ask(engine_of(model, states), [document, assistant("No, not so."), user("How?")])
    assert answer.cached_tokens >= 280
    assert answer.reason is None


def test_the_same_picture_in_another_size_is_another(model: Path, states: Path) -> None:
    question = [user(BIG, "first")]
    ask(engine_of(model, states), question)
    bounds = {"image_bounds": TokenBounds(4, 16)}
    answer = ask(engine_of(model, states), question, **bounds)
    assert (answer.cached_tokens, answer.pictures) == (0, 1)
    assert "another picture, or the same in another size" in (answer.reason or "")
    assert answer.result == ask(engine_of(model), question, **bounds).result


@pytest.mark.parametrize("other", ["dense-q4", "dense", "moe-q8"])
def test_another_model_quantisation_or_backend_is_a_miss(
    model_of: ModelOf, model: Path, states: Path, other: str
) -> None:
    question = [user(words(300), picture(), "first")]
    ask(engine_of(model, states), question)
    answer = ask(engine_of(model_of(other), states), question)
    assert (answer.cached_tokens, answer.pictures) == (0, 1)
    assert answer.reason == "what is saved is of other models or kernels"
    assert answer.text == ask(engine_of(model_of(other)), question).text


def test_what_had_to_make_room_is_said_to_have(model: Path, states: Path) -> None:
    question = [user(words(300), picture(), "first")]
    ask(engine_of(model, states), question)
    size = sum(path.stat().st_size for path in blobs_of(states))
    for n in range(4):  # none of them fits beside it
        ask(engine_of(model, states, disk=size), [user(words(300, seed=n + 1), picture(), "first")])
    answer = ask(engine_of(model, states, disk=size), question)
    assert "had to make room" in (answer.reason or "")
    assert answer.result == ask(engine_of(model), question).result


def test_no_room_at_all_is_a_miss(model: Path, states: Path) -> None:
    question = [user(words(300), picture(), "first")]
    for _ in range(2):
        answer = ask(engine_of(model, states, disk=1, ram=1), question)
        assert (answer.cached_tokens, answer.notes) == (0, [])
    assert blobs_of(states) == []


def test_a_private_engine_reads_and_changes_nothing(model: Path, states: Path) -> None:
    question, other = [user(words(300), picture(), "first")], [user(picture(5), "second")]
    assert ask(engine_of(model, states, can_write=False), question).cached_tokens == 0
    assert not states.exists()
    ask(engine_of(model, states), question)
    before = tree(states)
    answer = ask(engine_of(model, states, can_write=False), question)
    assert answer.cached_tokens > 300
    ask(engine_of(model, states, can_write=False), other)
    assert tree(states) == before


def test_a_private_engine_leaves_damage_alone(model: Path, states: Path) -> None:
    question = [user(words(300), picture(), "first")]
    ask(engine_of(model, states), question)
    for path in blobs_of(states):
        path.write_bytes(path.read_bytes()[:-1])
    before = tree(states)
    answer = ask(engine_of(model, states, can_write=False), question)
    assert (answer.cached_tokens, answer.reason) == (0, "what was saved is damaged")
    assert tree(states) == before


def tree(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    return {
        str(path.relative_to(folder)): (
            path.read_bytes() if path.is_file() else b"",
            path.stat().st_mtime_ns,
            path.stat().st_mode,
        )
        for path in folder.rglob("*")
    }


def test_states_that_are_shared_are_not_written_to(model: Path, states: Path) -> None:
    """Two answers that take turns from the same state in memory."""
    engine = engine_of(model, states)
    document = words(300) + " end"
    ask(engine, [user(document, " first")])
    questions = [[user(document, f" question {n}")] for n in range(2)]
    alone = [ask(engine_of(model), question).text for question in questions]
    running = [
        engine.generate(Request(tuple(question), sampling=GREEDY, max_tokens=8)) for question in questions
    ]
    answers = ["", ""]
    for events in zip(*running, strict=False):
        for n, event in enumerate(events):
            answers[n] += getattr(event, "text", "")
    assert answers == alone
    engine.close()


def test_closing_twice_and_going_on_after_it(model: Path, states: Path) -> None:
    engine = engine_of(model, states)
    ask(engine, [user(words(300), " first")])
    assert engine.cache is not None
    assert engine.cache.close() == engine.cache.close() == []
    ask(engine, [user(picture(), "first")])
    assert ask(engine_of(model, states), [user(picture(), "second")]).cached_tokens == 20


def test_after_an_interrupt_while_saving_it_goes_on(
    model: Path, states: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(model, states)
    question = [user(words(300) + " end", picture(), "first")]
    ask(engine, question, close=False)

    def interrupted(self: threading.Thread, timeout: float | None = None) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", interrupted)
        assert engine.cache is not None
        with pytest.raises(KeyboardInterrupt):
            engine.cache.close()
    assert engine.cache.close() == []
    ask(engine, [user(picture(3), "first")])  # and what is asked then is saved
    assert ask(engine_of(model, states), [user(picture(3), "second")]).cached_tokens == 20


def test_reading_ahead_spares_what_it_read(model: Path, states: Path) -> None:
    """And a state that is kept twice on the way is worth what it was."""
    engine = engine_of(model, states)
    told = [user(words(300)), assistant(words(200, 1))]
    assert engine.read_ahead(Request(tuple(told)), lambda: True) == (6 + 300 + 2) + (11 + 200 + 2)
    assert engine.close() == []
    with closing(sqlite3.connect(states / "index.sqlite")) as index:
        assert index.execute("SELECT MIN(saved_tokens) FROM snapshots").fetchone()[0] > 32
    question = [*told, user("And now?")]
    answer = ask(engine_of(model, states), question)
    assert answer.cached_tokens == (6 + 300 + 2) + (11 + 200 + 2)
    assert answer.result == ask(engine_of(model), question).result


def test_an_answer_that_is_left_early_keeps_what_was_computed(model: Path, states: Path) -> None:
    engine = engine_of(model, states)
    question = [user(words(300) + " end", " first")]
    events: Iterator[object] = engine.generate(Request(tuple(question), sampling=GREEDY))
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert engine.close() == []
    assert ask(engine_of(model, states), question).cached_tokens == 306


def test_nothing_is_saved_while_a_prompt_is_computed(model: Path, states: Path) -> None:
    """Saving takes a core, and the first token waits for the prompt alone."""
    engine = engine_of(model, states)
    asked = Request(
        (user(BIG, words(1500), words(1500)), assistant("No."), user("And?")), sampling=GREEDY, max_tokens=4
    )
    for event in engine.generate(asked):
        if isinstance(event, PrefillProgress):
            assert blobs_of(states) == []
    engine.close()
    assert len(blobs_of(states, "snapshot")) > 1


def test_with_little_memory_it_is_saved_on_the_way(model: Path, states: Path) -> None:
    state = engine_of(model).backend.new_state()
    engine = engine_of(model, states, ram=2 * state.size_bytes)
    asked = Request(
        (user(words(1500), words(1500)), assistant("No."), user("And?")), sampling=GREEDY, max_tokens=4
    )
    assert not any(isinstance(event, Note) for event in engine.generate(asked))
    engine.close()
    assert len(blobs_of(states, "snapshot")) > 1


def test_memory_alone_serves_too(model: Path) -> None:
    engine = engine_of(model)
    assert engine.cache is None
    from qwen35.engine.load import States, load_engine

    engine = load_engine(model, device="cpu", num_threads=1, states=States(None, 0, 10**9))
    question = [user(words(300) + " end", " first")]
    cold, warm = ask(engine, question), ask(engine, question)
    assert (cold.cached_tokens, warm.cached_tokens) == (0, 306)
    assert warm.result == cold.result


def test_a_state_within_a_picture_is_never_kept(model: Path, states: Path) -> None:
    question = [user(words(4080), BIG, "first")]  # token 4096 lies within the picture
    ask(engine_of(model, states), question)
    warm = ask(engine_of(model, states), [user(words(4080), BIG, "second")])
    assert warm.cached_tokens == 6 + 4080 + 66
    assert warm.result == ask(engine_of(model), [user(words(4080), BIG, "second")]).result


def test_boundaries_of_what_was_asked_are_all_found(model: Path, states: Path) -> None:
    """Whatever place of a prompt was chosen: cut there and gone on differently, it is found."""
    first = [system(words(60)), user(words(300) + " end", picture(), words(100, 1) + " end", BIG, "first")]
    engine: Engine = engine_of(model, states)
    prompt = prepare(engine.processor, Request(tuple(first)))
    ask(engine, first)
    system_end, document, small, text, big, message_end = prompt.boundaries
    assert message_end == len(prompt.ids) - len("#assistant\n#\n\n#\n\n")
    for parts, place in (
        ((words(300) + " end", picture(), words(100, 1) + " end", BIG, "other"), big),
        ((words(300) + " end", picture(), words(100, 1) + " end", picture(2), "first"), text),
        ((words(300) + " end", picture(), words(99, 2) + "!"), small),
        ((words(300) + " end", BIG, "first"), document),
        ((words(299, 3) + "!", "first"), system_end),
    ):
        question = [system(words(60)), user(*parts)]
        answer = ask(engine_of(model, states), question)
        assert answer.cached_tokens == place
        assert answer.result == ask(engine_of(model), question).result
