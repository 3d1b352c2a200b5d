"""Clips through the engine: frames, features and tokens in a stream, and nothing of it twice.

What was done is counted where it is done: frames taken from the clip, pictures given to the encoder, rows
given to the first layer.
"""

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import qwen35.cache.cache
import qwen35.cache.prompt
import qwen35.engine.features
from qwen35.engine.engine import Engine
from qwen35.engine.request import Request
from qwen35.errors import InputError
from qwen35.events import Finished, Note, PictureProgress, PrefillProgress
from qwen35.messages import Message, Sampling, VideoPart
from qwen35.state import ModelState
from tests.model.cache.asking import GREEDY, Counting, ask, blobs_of, engine_of, picture, user
from tests.model.cache.conftest import ModelOf
from tests.model.clips import ArrayClip, LongClip, clip

GRID = 5.0  # frames a second, of clips with ten


def moving(num_frames: int = 60) -> ArrayClip:
    return clip(num_frames, 64, 96, fps=10.0)


def shown(video: ArrayClip, **sampling: float) -> VideoPart:
    return VideoPart(video, Sampling(**({"fps": GRID} | sampling)))  # type: ignore[arg-type]


class Watching(Counting):
    """Counts what exists at a time, too."""

    def __init__(self, engine: Engine, video: ArrayClip, prefill_chunk: int) -> None:
        super().__init__(engine.backend)
        self.prefill_chunk = prefill_chunk
        self.calls: list[tuple[str, int]] = []
        self.frames_taken: list[int] = []  # before each prefill
        self.features_held: list[int] = []  # rows, after each prefill
        self._video = video
        self._features: list[weakref.ref[np.ndarray]] = []

    def encode_pictures(self, patches: np.ndarray, grids: Sequence[tuple[int, int, int]]) -> np.ndarray:
        features = super().encode_pictures(patches, grids)
        self.calls.append(("encode", len(grids)))
        self._features.append(weakref.ref(features))
        return features

    def prefill(
        self, state: ModelState, ids: np.ndarray, positions: np.ndarray, features: np.ndarray | None
    ) -> np.ndarray:
        self.calls.append(("prefill", len(ids)))
        self.frames_taken.append(len(self._video.shown))
        logits = super().prefill(state, ids, positions, features)
        alive = [features for ref in self._features if (features := ref()) is not None]
        self.features_held.append(sum(len(features) for features in alive))
        return logits


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qwen35.engine.features, "PATCHES_AT_ONCE", 4 * 24)  # four pairs of 64 x 96


@pytest.mark.usefixtures("small_batches")
def test_a_clip_goes_through_in_a_stream(model: Path) -> None:
    engine, video = engine_of(model), LongClip(600, 64, 96, 10.0)
    watching = Watching(engine, video, prefill_chunk=64)
    question = Request((user(shown(video, fps=4.0), "?"),), sampling=GREEDY, max_tokens=1)
    prompt = engine.processor.prepare(question.messages)
    events = list(replace(engine, backend=watching).generate(question))  # type: ignore[arg-type]
    assert video.calls == 1
    assert len(video.shown) == 240
    assert {number for name, number in watching.calls if name == "encode"} == {4}
    end = 0
    prefills = [number for name, number in watching.calls if name == "prefill"]
    for size, taken, held in zip(prefills, watching.frames_taken, watching.features_held, strict=True):
        end += size
        needed = sum(span.start < end for span in prompt.media)
        assert 2 * needed <= taken < 2 * (needed + 4)  # as many as must be, and a batch at most
        assert held <= 2 * 4 * 6  # one batch, and one that a chunk ends within
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.usage.video_tokens == 120 * 6
    assert finished.usage.image_tokens == 0
    assert finished.timings.media_s > 0


@pytest.mark.usefixtures("small_batches")
def test_progress_of_a_clip_only_grows(model: Path) -> None:
    engine, video = engine_of(model), moving()
    watching = Watching(engine, video, prefill_chunk=40)
    messages = (user("a" * 100, shown(video), picture(), "b" * 100),)
    events = list(
        replace(engine, backend=watching).generate(  # type: ignore[arg-type]
            Request(messages, sampling=GREEDY, max_tokens=1)
        )
    )
    told = [event for event in events if isinstance(event, PictureProgress | PrefillProgress)]
    looked = [event for event in told if isinstance(event, PictureProgress)]
    assert [event.done for event in looked] == sorted({event.done for event in looked})
    assert looked[-1].done == looked[-1].total == 15 * 6 + 12
    kinds = [type(event) for event in told]
    first, last = kinds.index(PictureProgress), len(kinds) - kinds[::-1].index(PictureProgress)
    assert set(kinds[first:last]) == {PictureProgress}  # in one piece, text before and after
    assert kinds[0] == kinds[-1] == PrefillProgress


@pytest.mark.parametrize("name", ["dense", "moe", "dense-q8", "moe-q4"])
def test_streamed_equals_whole(model_of: ModelOf, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    messages = [user(shown(moving()), picture(), shown(clip(7, 90, 50, fps=10.0, seed=3)), "what?")]

    def answer(patches: int, chunk: int) -> np.ndarray:
        monkeypatch.setattr(qwen35.engine.features, "PATCHES_AT_ONCE", patches)
        engine = engine_of(model_of(name))
        watching = Watching(engine, moving(), prefill_chunk=chunk)
        return ask(replace(engine, backend=watching), messages).logits  # type: ignore[arg-type]

    whole = answer(10**9, 1024)
    for patches, chunk in ((1, 1024), (100, 64), (50, 24)):
        streamed = answer(patches, chunk)
        if "-" in name:
            np.testing.assert_array_equal(streamed, whole)
        else:  # torch sums in another order where there are other numbers of rows
            np.testing.assert_allclose(streamed, whole, atol=1e-4)


def test_the_second_question_decodes_and_encodes_nothing(model: Path, states: Path) -> None:
    video = moving()
    first = ask(engine_of(model, states), [user(shown(video), "first")])
    assert (video.calls, first.pictures) == (1, 15)
    again = moving()
    second = ask(engine_of(model, states), [user(shown(again), "and then?")])
    assert again.calls == second.pictures == 0
    assert second.rows == len("and then?^\n^assistant\n^\n\n^\n\n")  # a ^ for a special token
    assert second.result == ask(engine_of(model), [user(shown(again), "and then?")]).result


@pytest.mark.parametrize("end", [4.0, 3.2])  # twenty frames, and sixteen
def test_a_longer_cut_goes_on_where_the_shorter_ended(model: Path, states: Path, end: float) -> None:
    ask(engine_of(model, states), [user(shown(moving(), end=end), "?")])
    video = moving()
    longer = ask(engine_of(model, states), [user(shown(video), "?")])
    num_seen = int(end * GRID)
    assert video.calls == 1
    assert video.shown == list(range(2 * num_seen, 60, 2))
    assert longer.pictures == (30 - num_seen) // 2
    assert longer.result == ask(engine_of(model), [user(shown(video), "?")]).result


def test_a_clip_leaves_states_by_tokens_not_by_pairs(
    model: Path, states: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qwen35.cache.prompt, "STEP_TOKENS", 200)
    question = [user(shown(moving(), end=5.8), "?")]  # 29 frames: the last pair holds one
    shorter = ask(engine_of(model, states), question)
    num_steps = shorter.prompt_tokens // 200
    assert num_steps >= 1
    # Along the clip, after it, and after the message, which is too near to the clip's end.
    assert len(blobs_of(states, "snapshot")) == num_steps + 1
    video = moving()
    longer = ask(engine_of(model, states), [user(shown(video), "?")])
    assert 200 - 50 < longer.cached_tokens <= 200 * num_steps
    assert video.shown[0] > 0
    assert longer.result == ask(engine_of(model), [user(shown(video), "?")]).result


def test_other_frames_and_other_clips_are_not_mistaken(model: Path, states: Path) -> None:
    ask(engine_of(model, states), [user(shown(moving()), "?")])
    for other in (
        shown(clip(60, 64, 96, fps=10.0, seed=9)),
        shown(moving(), start=0.2),
        VideoPart(clip(60, 128, 192, fps=10.0)),
    ):
        answer = ask(engine_of(model, states), [user(other, "?")])
        assert answer.cached_tokens == 0
        assert answer.result == ask(engine_of(model), [user(other, "?")]).result
    changed = ask(engine_of(model, states), [user(shown(clip(60, 64, 96, fps=10.0, seed=8)), "?")])
    assert "another clip or other frames" in (changed.reason or "")


def test_features_are_found_behind_another_text(model: Path, states: Path) -> None:
    ask(engine_of(model, states), [user(shown(moving()), "?")])
    video = moving()
    answer = ask(engine_of(model, states), [user("Look:", shown(video), "?")])
    assert answer.cached_tokens == video.calls == answer.pictures == 0
    assert answer.result == ask(engine_of(model), [user("Look:", shown(video), "?")]).result


@pytest.mark.usefixtures("small_batches")
def test_features_that_are_gone_are_made_again(model: Path, states: Path) -> None:
    ask(engine_of(model, states), [user(shown(moving()), "?")])
    features = blobs_of(states, "features")
    assert len(features) == 15
    for path in features[::3]:
        path.unlink()
    video = moving()
    answer = ask(engine_of(model, states), [user("Look:", shown(video), "?")])
    assert 0 < answer.pictures <= 15
    assert 2 * answer.pictures == len(video.shown)
    assert answer.result == ask(engine_of(model), [user("Look:", shown(video), "?")]).result


def test_features_that_wait_to_be_saved_are_few(
    model: Path, states: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    monkeypatch.setattr(qwen35.cache.cache, "WAITING_BYTES", 3 * 6 * 50 * 4)  # three pairs
    engine = engine_of(model, states)
    assert engine.cache is not None
    keep = engine.cache.keep_features

    def keep_and_look(key: bytes, features: np.ndarray) -> None:
        keep(key, features)
        assert engine.cache is not None
        held.append(engine.cache._waiting_bytes)

    monkeypatch.setattr(engine.cache, "keep_features", keep_and_look)
    video = moving()
    answer = ask(engine, [user(shown(video), "?")])
    assert max(held) <= 3 * 6 * 50 * 4
    assert engine.cache._waiting_bytes == 0
    assert answer.result == ask(engine_of(model), [user(shown(video), "?")]).result


class Spoilt(ArrayClip):
    """Says so once it was decoded; breaks at frame `end`."""

    end = 10**9

    def _read(self, times: Sequence[float], size: tuple[int, int]) -> Iterator[np.ndarray]:
        for frame in super()._read(times, size):
            if self.shown[-1] >= self.end:
                raise InputError(f"{self.source}: no frame can be decoded.")
            yield frame

    def notes(self) -> tuple[str, ...]:
        return ("clip.mp4: 1 frame cannot be decoded",) if self.shown else ()


def notes_of(engine: Engine, messages: Sequence[Message]) -> list[str]:
    request = Request(tuple(messages), sampling=GREEDY, max_tokens=1)
    return [event.text for event in engine.generate(request) if isinstance(event, Note)]


def test_what_a_clip_notes_is_told_once(model: Path) -> None:
    engine, video = engine_of(model), Spoilt(moving().pixels, 10.0)
    for expected in (1, 0):
        notes = notes_of(engine, [user(shown(video), "?")])
        assert notes.count("clip.mp4: 1 frame cannot be decoded") == expected


def test_an_error_of_the_reader_ends_the_answer(model: Path, states: Path) -> None:
    video = Spoilt(moving().pixels, 10.0)
    video.end = 30
    with pytest.raises(InputError, match=r"clip\.mp4: no frame"):
        ask(engine_of(model, states), [user(shown(video), "?")])
    video.end = 10**9
    assert ask(engine_of(model, states), [user(shown(video), "?")]).text
