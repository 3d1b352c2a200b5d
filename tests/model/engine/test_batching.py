"""A batch answers each item as it would be answered alone, and computes once what items have in common."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedModel

from qwen35.engine.batching import Failed, Item, answer_all, row_bytes
from qwen35.engine.engine import Engine, prepare
from qwen35.engine.load import States, load_engine
from qwen35.engine.request import Request, SamplingOverrides
from qwen35.errors import DoesNotFit, InputError
from qwen35.events import Event, Finished, Prefilled, TextDelta
from qwen35.messages import Sampling, VideoPart
from qwen35.state import ModelState
from qwen35.weights.manifest import read_manifest
from qwen35.weights.placement import WORKING_BYTES
from tests.model.cache.asking import (
    GREEDY,
    PLENTY,
    Counting,
    blobs_of,
    engine_of,
    picture,
    system,
    user,
    words,
)
from tests.model.cache.saved import MINI
from tests.model.clips import ArrayClip, clip

WARM = SamplingOverrides(temperature=1.5, top_k=0, top_p=1.0, presence_penalty=0.5)


class Recorder(Counting):
    """Keeps the logits of every sequence, bit by bit."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.backend)
        self.by_state: dict[ModelState, list[bytes]] = defaultdict(list)
        self.most_rows = 0

    def decode(self, states: Sequence[ModelState], ids: np.ndarray) -> np.ndarray:
        logits = super().decode(states, ids)
        for state, row in zip(states, logits, strict=True):
            self.by_state[state].append(row.tobytes())
        self.most_rows = max(self.most_rows, len(states))
        return logits


def questions() -> dict[str, Request]:
    """Of many kinds and lengths, so that rows come and go at different times."""
    rules = system("Answer in one short sentence, and never guess what you cannot see in the picture. " * 2)
    shown = picture(1)
    messages = {
        "text": [user("What is 2 + 2?")],
        "picture": [rules, user(shown, "What do you see?")],
        "long": [rules, user(words(900), "What does it say?")],
        "same picture": [rules, user(shown, "What colour is it?")],
        "clip": [user(VideoPart(clip(6, fps=3.0), Sampling(num_frames=6)), "What happens?")],
        "two pictures": [rules, user(picture(2), picture(3, 64, 64), "Are they alike?")],
        "same document": [rules, user(words(900), "In how many words?")],
    }
    lengths = dict(zip(messages, (5, 1, 9, 14, 3, 12, 7), strict=True))
    found = {
        key: Request(tuple(said), sampling=WARM, max_tokens=lengths[key], seed=lengths[key])
        for key, said in messages.items()
    }
    found["thinks"] = Request(
        (user("Why?"),), thinking=True, thinking_budget=4, sampling=GREEDY, max_tokens=11
    )
    return found


def items(requests: dict[str, Request]) -> Iterator[Item]:
    return (Item(key, request) for key, request in requests.items())


def finished_of(events: Sequence[tuple[str, Event | Failed]]) -> dict[str, Finished]:
    return {key: event for key, event in events if isinstance(event, Finished)}


def engine_in_parts(states: Path | None) -> Engine:
    """With half of its experts on the disk."""
    manifest = read_manifest(MINI)
    size = WORKING_BYTES + manifest.data_bytes
    size -= sum(entry.count * entry.stride for entry in manifest.experts.values()) // 2
    where = None if states is None else States(states, PLENTY, PLENTY)
    return load_engine(MINI, device="cpu", num_threads=2, ram=size, states=where)


@pytest.mark.parametrize("kind", ["no cache", "cache", "offloaded experts"])
def test_each_row_is_the_row_alone_bit_for_bit(tmp_path: Path, kind: str) -> None:
    requests = questions()
    alone = engine_of(MINI)
    expected, bits = {}, []
    for key, request in requests.items():
        recorder = Recorder(alone)
        *_, finished = replace(alone, backend=recorder).generate(request)
        assert isinstance(finished, Finished)
        expected[key] = finished
        bits += recorder.by_state.values()

    states = None if kind == "no cache" else tmp_path / "states"
    engine = engine_in_parts(states) if kind == "offloaded experts" else engine_of(MINI, states)
    recorder = Recorder(engine)
    events = list(answer_all(replace(engine, backend=recorder), items(requests), 3))
    assert engine.close() == []
    found = finished_of(events)
    assert found.keys() == requests.keys()
    for key, finished in expected.items():
        assert found[key].token_ids == finished.token_ids
        assert (found[key].answer, found[key].reason) == (finished.answer, finished.reason)
        said = "".join(event.text for name, event in events if name == key and isinstance(event, TextDelta))
        assert said == finished.answer
    assert sorted(recorder.by_state.values()) == sorted(bits)
    assert recorder.most_rows == 3
    if kind == "offloaded experts":
        use = found["thinks"].experts
        assert use is not None
        assert use.misses > 0


def test_what_items_have_in_common_is_computed_once_and_nothing_else_is_saved(tmp_path: Path) -> None:
    requests = questions()
    del requests["thinks"]  # its forced tokens are prefilled, and would count as of the prompt
    engine = engine_of(MINI, tmp_path)
    counting = Counting(engine.backend)
    found = finished_of(list(answer_all(replace(engine, backend=counting), items(requests), 4)))
    engine.close()
    cached = {key: finished.usage.cached_tokens for key, finished in found.items()}
    rules = cached["two pictures"]
    assert rules > 32
    assert cached["long"] == rules
    assert cached["same picture"] > rules + 12
    assert cached["same document"] > rules + 200
    assert cached["text"] == cached["clip"] == cached["picture"] == 0
    assert counting.rows == sum(
        finished.usage.prompt_tokens - finished.usage.cached_tokens for finished in found.values()
    )
    assert len(blobs_of(tmp_path, "snapshot")) == 3  # of the rules, the picture, the document
    assert blobs_of(tmp_path, "features") == []
    again = list(engine_of(MINI, tmp_path).generate(requests["picture"]))  # another process, alone
    prefilled = next(event for event in again if isinstance(event, Prefilled))
    assert prefilled.cached_tokens == cached["same picture"]


def test_the_plain_backend_answers_the_same_in_a_batch(talkative: tuple[Path, PreTrainedModel]) -> None:
    engine = load_engine(talkative[0], device="cpu")
    shown = (picture(), picture(1, 64, 250))
    requests = {
        str(number): Request(
            (user(*shown[:number], "What do you see?"),), sampling=GREEDY, max_tokens=4 + number
        )
        for number in range(3)
    }
    found = finished_of(list(answer_all(engine, items(requests), 2)))
    for key, request in requests.items():
        *_, alone = engine.generate(request)
        assert isinstance(alone, Finished)
        assert found[key].answer == alone.answer


class Unreadable(ArrayClip):
    def frames(self, times: Sequence[float], size: tuple[int, int]) -> Iterator[np.ndarray]:
        raise InputError("clip.mp4: no frame can be decoded.")


def test_items_that_fail_end_by_themselves() -> None:
    broken = Unreadable(np.zeros((4, 64, 64, 3), np.uint8), 2.0)
    requests = {
        "good": Request((user("Hello"),), sampling=GREEDY, max_tokens=6),
        "clip": Request((user(VideoPart(broken), "What happens?"),), sampling=GREEDY),
        "long": Request((user(words(500)),), sampling=GREEDY, max_context=40),
        "none": Request((user("Hello"),), sampling=GREEDY, max_tokens=0),
        "last": Request((user("Goodbye"),), sampling=GREEDY, max_tokens=6),
    }
    events = list(answer_all(engine_of(MINI), items(requests), 2))
    errors = {key: event.error for key, event in events if isinstance(event, Failed)}
    assert errors.keys() == {"clip", "long"}
    assert str(errors["clip"]) == "clip.mp4: no frame can be decoded."
    assert isinstance(errors["long"], DoesNotFit)
    assert finished_of(events).keys() == {"good", "none", "last"}


def test_items_are_taken_when_a_row_is_free_and_closing_ends_the_work() -> None:
    taken: list[str] = []

    def endless() -> Iterator[Item]:
        for number in range(10**9):
            taken.append(str(number))
            yield Item(str(number), Request((user("Hello"),), sampling=GREEDY, max_tokens=3))

    work = answer_all(engine_of(MINI), endless(), 2)
    ended = 0
    for key, event in work:
        if isinstance(event, Finished):
            ended += 1
            assert len(taken) <= ended + 2
        if key == "6":
            break
    work.close()
    assert (len(taken), next(work, None)) == (7, None)


def test_decoding_rows_take_a_step_after_each_piece_of_a_prompt() -> None:
    engine = engine_of(MINI)
    engine.backend.prefill_chunk = 64
    first = Request((user("Hello"),), sampling=GREEDY, max_tokens=40)
    second = Request((user(words(1000)),), sampling=GREEDY, max_tokens=2)
    pieces = -(-len(prepare(engine.processor, second).ids) // 64)
    assert pieces > 10
    recorder = Recorder(engine)
    steps = []
    requests = {"first": first, "second": second}
    for key, event in answer_all(replace(engine, backend=recorder), items(requests), 2):
        if key == "second" and isinstance(event, Prefilled):
            steps.append(sum(len(rows) for rows in recorder.by_state.values()))
    assert steps == [pieces + 1]  # and one after its own only piece


def test_none_ready_lets_those_at_work_go_on() -> None:
    requests = questions()
    ended: list[str] = []

    def some() -> Iterator[Item | None]:
        yield None  # even first of all
        yield Item("clip", requests["clip"])
        while not ended:
            yield None
        yield Item("long", requests["long"])
        yield None

    for key, event in answer_all(engine_of(MINI), some(), 2):
        if isinstance(event, Finished):
            ended.append(key)
    assert ended == ["clip", "long"]


def test_a_row_takes_what_its_states_take(tmp_path: Path) -> None:
    engine = engine_of(MINI)
    state = engine.backend.new_state()
    ids = np.arange(600) % 200
    engine.backend.prefill(state, ids, np.ascontiguousarray(np.broadcast_to(np.arange(600), (3, 600))), None)
    row = state.size_bytes + 8 * engine.processor.config.text.vocab_size
    assert row_bytes(engine, 600) == row
