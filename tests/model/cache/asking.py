"""Questions to tiny engines with a state cache, and a count of what they made the model do."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qwen35.backends.base import Backend
from qwen35.engine.engine import Engine
from qwen35.engine.load import States, load_engine
from qwen35.engine.request import Request, SamplingOverrides
from qwen35.events import Finished, Note, Prefilled
from qwen35.messages import ImagePart, Message, Part, TextPart, VideoPart
from qwen35.state import ModelState

GREEDY = SamplingOverrides(temperature=0.0)
PLENTY = 10**9


class Counting:
    """A backend that counts what it is given, and keeps the logits of every step."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.rows = self.pictures = 0
        self.logits: list[NDArray[np.float32]] = []
        self._last: NDArray[np.float32] | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def encode_pictures(self, patches: np.ndarray, grids: Sequence[tuple[int, int, int]]) -> np.ndarray:
        self.pictures += len(grids)
        return self._backend.encode_pictures(patches, grids)

    def prefill(
        self, state: ModelState, ids: np.ndarray, positions: np.ndarray, features: np.ndarray | None
    ) -> np.ndarray:
        self.rows += len(ids)
        self._last = self._backend.prefill(state, ids, positions, features)
        return self._last

    def decode(self, states: Sequence[ModelState], ids: np.ndarray) -> np.ndarray:
        if self._last is not None:  # of the whole prompt
            self.logits.append(self._last)
            self._last = None
        logits = self._backend.decode(states, ids)
        self.logits.append(logits[0])
        return logits


@dataclass(frozen=True)
class Answer:
    text: str
    prompt_tokens: int
    cached_tokens: int
    reason: str | None
    rows: int  # that entered layer 0 before the first token
    pictures: int  # and pairs of frames, that were encoded
    logits: NDArray[np.float32]  # (steps, vocabulary)
    notes: list[str] = field(default_factory=list)
    token_ids: tuple[int, ...] = ()  # that it was written in

    @property
    def result(self) -> tuple[str, bytes]:
        """What must not depend on what is cached."""
        return self.text, self.logits.tobytes()


def ask(engine: Engine, messages: Sequence[Message], *, close: bool = True, **options: object) -> Answer:
    """The answer, saved where `close`; the engine's counts are checked against what it says of itself."""
    counting = Counting(engine.backend)
    wanted = Request(tuple(messages), **({"sampling": GREEDY, "max_tokens": 8} | options))
    events = list(replace(engine, backend=counting).generate(wanted))
    notes = [event.text for event in events if isinstance(event, Note)]
    prefilled = next(event for event in events if isinstance(event, Prefilled))
    finished = events[-1]
    assert isinstance(finished, Finished)
    if close and engine.cache:
        notes += engine.cache.close()
    usage = finished.usage
    assert usage.cached_tokens == prefilled.cached_tokens == usage.prompt_tokens - counting.rows
    return Answer(
        finished.answer,
        usage.prompt_tokens,
        usage.cached_tokens,
        prefilled.miss_reason,
        counting.rows,
        counting.pictures,
        np.array(counting.logits),
        notes,
        finished.token_ids,
    )


def engine_of(
    model: Path, states: Path | None = None, *, disk: int = PLENTY, ram: int = PLENTY, can_write: bool = True
) -> Engine:
    """As a new process loads it; without `states` it computes everything anew."""
    where = None if states is None else States(states, disk, ram, can_write)
    return load_engine(model, device="cpu", num_threads=1, states=where)


def user(*parts: str | ImagePart | VideoPart) -> Message:
    return _message("user", parts)


def assistant(text: str) -> Message:
    return _message("assistant", (text,))


def system(text: str) -> Message:
    return _message("system", (text,))


def _message(role: str, parts: Sequence[str | ImagePart | VideoPart]) -> Message:
    whole: list[Part] = [TextPart(part) if isinstance(part, str) else part for part in parts]
    return Message(role, tuple(whole))


def words(count: int, seed: int = 0) -> str:
    """Text of that many characters."""
    letters = np.random.default_rng(seed).choice(list("abcdefgh    "), count - 2)
    return "a" + "".join(letters) + "."


def picture(seed: int = 0, height: int = 96, width: int = 128) -> ImagePart:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return ImagePart(pixels, f"{seed}.png")


def blobs_of(states: Path, kind: str = "") -> list[Path]:
    return sorted((states / "blobs").glob(f"{kind}*.safetensors"))


def assert_tidy(states: Path) -> None:
    """Files, rows and what they need of each other fit together, and nothing is half-written."""
    files = {path.name for path in (states / "blobs").iterdir()}
    assert {path.name for path in states.iterdir()} <= {
        "blobs",
        *(f"index.sqlite{suffix}" for suffix in ("", "-wal", "-shm")),
    }
    with closing(sqlite3.connect(states / "index.sqlite")) as index:
        rows = dict(index.execute("SELECT name, size_bytes FROM blobs").fetchall())
        assert files == rows.keys()
        assert rows == {name: (states / "blobs" / name).stat().st_size for name in files}
        assert index.execute("SELECT name FROM blobs WHERE writer IS NOT NULL").fetchall() == []
        needed = {name for (name,) in index.execute("SELECT blob FROM needs")}
        assert needed == {name for name in files if not name.startswith("features-")}
        kept = {key for (key,) in index.execute("SELECT key FROM snapshots WHERE NOT is_evicted")}
        assert kept == {key for (key,) in index.execute("SELECT key FROM needs")}
