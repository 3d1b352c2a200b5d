"""Walks through long clips: what attention sees, what is carried on, and what is answered when."""

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from qwen35.backends.plain import PlainBackend
from qwen35.engine.batching import Item, answer_all
from qwen35.engine.engine import Engine
from qwen35.engine.request import Grammar, Request
from qwen35.engine.walk import walk
from qwen35.engine.windows import Windows
from qwen35.errors import InputError
from qwen35.events import Event, Finished, Note, PictureProgress, Prefilled, TextDelta, WindowAnswered
from qwen35.messages import Message, Sampling, VideoPart
from qwen35.network.attention import KeyValues
from qwen35.network.text import LayerPast, Past
from qwen35.processing.processor import ModelInput
from qwen35.state import BLOCK_TOKENS, KVBlocks, ModelState
from tests.model.cache.asking import GREEDY, Counting, ask, engine_of, picture, system, user
from tests.model.cache.conftest import ModelOf
from tests.model.clips import ArrayClip, LongClip, clip

WINDOW_S = 6.0
HEAD = "h" * 300  # more than a block of keys


def moving(seed: int = 0) -> ArrayClip:
    """Eighteen seconds: three windows of fifteen pairs, each of them more than a block of keys."""
    return clip(180, 64, 96, fps=10.0, seed=seed)


def messages_of(video: ArrayClip) -> list[Message]:
    return [system(HEAD), user("Look:", VideoPart(video, Sampling(fps=5.0)), "what?")]


def windows_of(engine: Engine, messages: Sequence[Message], seconds: float = WINDOW_S) -> Windows:
    request = Request(tuple(messages), sampling=GREEDY, max_tokens=6)
    return Windows.plan(engine.processor, request, seconds)


class Watching(Counting):
    """Keeps what attention could see at each call, too."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.backend)
        self.num_keys: list[int] = []
        self.last_prefill = np.empty(0)

    def prefill(
        self, state: ModelState, ids: np.ndarray, positions: np.ndarray, features: np.ndarray | None
    ) -> np.ndarray:
        self.last_prefill = super().prefill(state, ids, positions, features)
        assert {memory.num_tokens for memory in state.layers if isinstance(memory, KVBlocks)} == {
            state.num_tokens
        }
        self.num_keys.append(state.num_tokens)
        return self.last_prefill


def walked(engine: Engine, windows: Windows, *, in_each: bool = False) -> tuple[list[Event], Watching]:
    watching = Watching(engine)
    engine = replace(engine, backend=watching)  # type: ignore[arg-type]
    return [*engine.run(walk(engine, windows, in_each=in_each))], watching


def reference_logits(engine: Engine, windows: Windows) -> np.ndarray:
    """After the last prompt, by the network itself: keys of the head and of one window, states of all."""
    backend = engine.backend
    assert isinstance(backend, PlainBackend)
    network, head, carried = backend.model, None, None

    def run(prompt: ModelInput, part: slice, past: Sequence[LayerPast] | None) -> tuple[torch.Tensor, list]:
        spans = [span for span in prompt.media if part.start <= span.start < part.stop]
        patches = [patch for span in spans[:1] if span.clip for patch in span.clip.patches()]
        made = (
            backend.encode_pictures(np.concatenate(patches), [span.grid for span in spans]) if spans else None
        )
        return network(
            torch.from_numpy(prompt.ids[None, part]),
            torch.from_numpy(prompt.position_ids[:, None, part]),
            None if made is None else torch.from_numpy(made),
            None if past is None else Past(past),
        )

    for index, plan in enumerate(windows.plans):
        prompt = engine.processor.prepare(windows.request_of(index).messages)
        start = prompt.media[0].start - 1 - len(plan.timestamp(0))  # a byte is a token
        end = prompt.media[-1].end + 1
        if head is None or carried is None:
            head = carried = run(prompt, slice(0, start), None)[1]
        past = [h if isinstance(h, KeyValues) else c for h, c in zip(head, carried, strict=True)]
        _, left = run(prompt, slice(start, end), past)
        carried = left
    past = [
        KeyValues(torch.cat([h.k, c.k], 2), torch.cat([h.v, c.v], 2)) if isinstance(c, KeyValues) else c
        for h, c in zip(head, carried, strict=True)
    ]
    hidden, _ = run(prompt, slice(end, len(prompt.ids)), past)
    return network.logits(hidden[0, -1]).numpy()


@pytest.mark.parametrize("name", ["dense", "moe"])
@torch.inference_mode()
def test_a_walk_is_what_the_network_makes_of_head_window_and_state(model_of: ModelOf, name: str) -> None:
    engine = engine_of(model_of(name))
    windows = windows_of(engine, messages_of(moving()))
    assert len(windows.plans) == 3
    _, watching = walked(engine, windows)
    np.testing.assert_allclose(watching.last_prefill, reference_logits(engine, windows), atol=1e-4)


@pytest.mark.parametrize("in_each", [False, True])
def test_walks_beside_others_are_as_alone(model_of: ModelOf, in_each: bool) -> None:
    engine = engine_of(model_of("dense"))
    walks = {str(seed): windows_of(engine, messages_of(moving(seed))) for seed in range(3)}
    alone = {}
    for key, windows in walks.items():
        *_, alone[key] = engine.run(walk(engine, windows, in_each=in_each))
    items = [
        Item(key, windows.request_of(0), windows=windows, in_each=in_each) for key, windows in walks.items()
    ]
    together = {key: event for key, event in answer_all(engine, items, 2) if isinstance(event, Finished)}
    assert {*together} == {*alone}
    for key, event in together.items():
        other = alone[key]
        assert isinstance(other, Finished)
        assert (event.answer, event.reason) == (other.answer, other.reason)
        assert event.usage.completion_tokens == other.usage.completion_tokens > 0
        assert event.usage.prompt_tokens == other.usage.prompt_tokens


def test_what_attention_sees_does_not_grow(model: Path) -> None:
    engine = engine_of(model)
    few = windows_of(engine, messages_of(LongClip(180, 64, 96, 10.0)))
    many = windows_of(engine, messages_of(LongClip(900, 64, 96, 10.0)))
    assert (len(few.plans), len(many.plans)) == (3, 15)
    _, one = walked(engine, few)
    _, other = walked(engine, many)
    assert BLOCK_TOKENS + len(HEAD) < max(one.num_keys) == max(other.num_keys) < 1000


def test_memory_does_not_grow_with_the_clip(model: Path) -> None:
    peaks = []
    for num_frames in (180, 180, 900):  # the first one also warms up what is made once
        engine = engine_of(model)
        windows = windows_of(engine, messages_of(LongClip(num_frames, 64, 96, 10.0)))
        tracemalloc.start()
        for _ in engine.run(walk(engine, windows)):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.1 * peaks[1]


def test_one_window_is_the_clip_itself(model: Path) -> None:
    engine, messages = engine_of(model), messages_of(moving())
    windows = windows_of(engine, messages, 60.0)
    assert len(windows.plans) == 1
    events, watching = walked(engine, windows)
    finished, plain = events[-1], ask(engine, messages, max_tokens=6)
    assert isinstance(finished, Finished)
    assert finished.answer == plain.text
    np.testing.assert_array_equal(np.array(watching.logits), plain.logits)
    assert finished.usage.prompt_tokens == plain.prompt_tokens


def test_earlier_windows_are_remembered(model: Path) -> None:
    engine = engine_of(model)
    same, other = moving(), moving()
    other.pixels = np.concatenate([255 - same.pixels[:60], same.pixels[60:]])
    logits = [
        walked(engine, windows_of(engine, messages_of(video)))[1].last_prefill for video in (same, other)
    ]
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


def test_answers_in_each_window_change_nothing_of_the_walk(model: Path) -> None:
    engine = engine_of(model)
    windows = windows_of(engine, messages_of(moving()))
    once, one = walked(engine, windows)
    often, each = walked(engine, windows, in_each=True)
    np.testing.assert_array_equal(each.last_prefill, one.last_prefill)
    answers = [event for event in often if isinstance(event, WindowAnswered)]
    assert [(answer.start_s, answer.end_s) for answer in answers] == [(0, 6), (6, 12), (12, 18)]
    assert isinstance(once[-1], Finished)
    assert isinstance(often[-1], Finished)
    assert answers[-1].answer == once[-1].answer
    first, second, third = (answer.answer for answer in answers)
    assert often[-1].answer == f"- 0:00-0:06: {first}\n- 0:06-0:12: {second}\n- 0:12-0:18: {third}"
    assert "".join(event.text for event in often if isinstance(event, TextDelta)) == often[-1].answer
    assert often[-1].usage.completion_tokens == 3 * once[-1].usage.completion_tokens
    assert often[-1].reason == "length"


@pytest.mark.parametrize("in_each", [False, True])
def test_a_walk_reads_its_clip_once_and_counts_what_it_computes(model: Path, in_each: bool) -> None:
    engine, video = engine_of(model), LongClip(900, 64, 96, 10.0)
    messages = [user(picture(), VideoPart(video, Sampling(fps=5.0)), "what?")]
    events, watching = walked(engine, windows_of(engine, messages), in_each=in_each)
    assert video.calls == 1
    assert video.shown == list(range(0, 900, 2))
    finished, prefilled = events[-1], [event for event in events if isinstance(event, Prefilled)]
    assert isinstance(finished, Finished)
    usage = finished.usage
    assert usage.prompt_tokens == prefilled[-1].prompt_tokens == watching.rows
    assert (usage.video_tokens, usage.image_tokens, usage.cached_tokens) == (225 * 6, 12, 0)
    assert finished.timings.media_s > 0
    told = [event for event in events if isinstance(event, PictureProgress)]
    assert told[-1].done == told[-1].total == (15 * 6 if in_each else 225 * 6)


def test_a_second_question_about_a_walk_walks_no_more(model: Path, states: Path) -> None:
    video = moving()
    messages, other = messages_of(video), [*messages_of(video)[:-1]]
    other.append(user("Look:", VideoPart(video, Sampling(fps=5.0)), "and then?"))

    def asked(messages: list[Message]) -> tuple[Finished, Watching]:
        engine = engine_of(model, states)
        events, watching = walked(engine, windows_of(engine, messages))
        assert engine.close() == []
        assert isinstance(events[-1], Finished)
        return events[-1], watching

    first, _ = asked(messages)
    second, watching = asked(other)
    assert (video.calls, watching.pictures) == (1, 0)
    assert watching.rows == second.usage.prompt_tokens - second.usage.cached_tokens < 100
    assert (first.usage.cached_tokens, second.usage.cached_tokens > 900) == (0, True)
    engine = engine_of(model)
    _, fresh = walked(engine, windows_of(engine, other))
    np.testing.assert_array_equal(watching.last_prefill, fresh.last_prefill)
    # What differs in an early window is another walk.
    messages[-1] = user("Look:", VideoPart(video, Sampling(fps=5.0, start=1.0)), "and then?")
    assert asked(messages)[0].usage.cached_tokens == 0


def test_windows_have_round_borders_and_leave_no_crumb(model: Path) -> None:
    processor = engine_of(model).processor

    def borders(seconds: float, num_frames: int, **sampling: float) -> list[tuple[float, float]]:
        part = VideoPart(LongClip(num_frames, 64, 96, 1.0), Sampling(**sampling))  # type: ignore[arg-type]
        windows = Windows.plan(processor, Request((user(part, "?"),)), seconds)
        assert windows.num_tokens == sum(plan.num_tokens for plan in windows.plans)
        assert windows.to_dict()["windows"] == [[plan.start, plan.end] for plan in windows.plans]
        return [(plan.start, plan.end) for plan in windows.plans]

    assert borders(60, 180) == [(0, 60), (60, 120), (120, 180)]
    assert borders(60, 149) == [(0, 60), (60, 149)]
    assert borders(60, 150) == [(0, 60), (60, 120), (120, 150)]
    assert borders(60, 20) == [(0, 20)]
    assert borders(60, 300, start=45.0, end=165.0) == [(45, 105), (105, 165)]


def test_a_walk_is_told_before_it_begins(model: Path) -> None:
    part = VideoPart(LongClip(3600, 64, 96, 1.0), Sampling(fps=0.5))
    windows = Windows.plan(engine_of(model).processor, Request((user(part, "?"),)), 60)
    assert windows.line == (
        "60 windows of 60 s at 0.5 fps: 30 frames of 96x64, 15 pairs x 6 = 90 tokens; 5,400 tokens in all. "
        "Attention sees one window at a time; what was before it is in the recurrent state alone"
    )


def test_what_cannot_be_walked_through_is_refused(model: Path) -> None:
    processor, video = engine_of(model).processor, VideoPart(moving())
    for messages, reason in (
        ([user("?")], "there is none"),
        ([user(video, video, "?")], "there are 2 of them"),
        ([user(video, "?"), user("and?")], "there are 1 of them"),
    ):
        with pytest.raises(InputError, match=reason):
            Windows.plan(processor, Request(tuple(messages)), 60)
    with pytest.raises(InputError, match="too short"):
        Windows.plan(processor, Request((user(video, "?"),)), 0.5)
    broken = LongClip(3, 64, 96, 3 / 4.6e12)
    with pytest.raises(InputError, match="Its time stamps may be damaged"):
        Windows.plan(processor, Request((user(VideoPart(broken), "?"),)), 60)


def test_what_is_wrong_with_an_answer_is_not_asked_again_where_its_window_has_gone_by(
    model_of: ModelOf,
) -> None:
    engine = engine_of(model_of("dense"))
    request = Request(
        tuple(messages_of(moving())),
        sampling=GREEDY,
        grammar=Grammar("regex", "ab"),
        fault=lambda answer: "it is not right",
    )
    *events, finished = engine.run(walk(engine, Windows.plan(engine.processor, request, WINDOW_S)))
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.answer) == ("stop", "ab")
    assert not any(isinstance(event, Note) and "asked again" in event.text for event in events)
