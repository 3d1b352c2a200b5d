"""What the engine asks: which part of a prompt was computed before, and to keep what is computed now."""

import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Event, Lock, Thread

import numpy as np

from qwen35.backends.base import PREFILL_CHUNK, Backend
from qwen35.cache.blobs import BadBlob, is_close
from qwen35.cache.keys import Medium, prefix_keys
from qwen35.cache.memory import Memory
from qwen35.cache.prompt import PromptCache, chosen_places
from qwen35.cache.store import CacheTrouble, Snapshot, Store
from qwen35.processing.processor import ModelInput
from qwen35.state import BLOCK_TOKENS, ModelState

MOST_HELD = 1000  # states of many prompts that are saved if someone comes back to them
WAITING_BYTES = 64 << 20  # of features that wait to be saved: those of a long clip are more than its states

Job = tuple[Callable[[], None], ModelState | np.ndarray | None]  # what it saves
Jobs = queue.SimpleQueue[Job | None]


@dataclass(frozen=True, slots=True)
class Found:
    """What was there: a state of the prompt's first `num_tokens` tokens (None: nothing)."""

    state: ModelState | None
    num_tokens: int
    reason: str | None  # why it is not more; None where it could not be


class StateCache:
    """In memory and, with a `store`, on disk; of one model with one kind of numerics.

    Saving happens in a thread of its own, in order. Nothing that goes wrong here stops an answer: it is
    a miss, and a line in `notes`. Not for two threads at once.
    """

    def __init__(
        self,
        model: str,
        new_state: Callable[[], ModelState],
        decode: Callable[[Sequence[int]], str],
        store: Store | None,
        *,
        ram_bytes: int,
        can_write: bool = True,
    ) -> None:
        """`model` names weights and numerics, `decode` gives the text of ids."""
        self.notes: list[str] = []
        self.model, self.decode, self._new_state = model, decode, new_state
        self._store = store.read_only() if store and not can_write else store
        self._can_write = can_write
        self._memory = Memory(ram_bytes)
        self._waiting_bytes = 0  # of features
        self._counting = Lock()
        self._jobs: Jobs = queue.SimpleQueue()
        self._saver: Thread | None = None
        self._may_save = Event()
        self._may_save.set()
        self._held: dict[str, Snapshot] = {}  # in memory, until someone comes back to them

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Save nothing meanwhile: a prefill wants all cores. What is kept is saved after it."""
        self._may_save.clear()
        try:
            yield
        finally:
            self._may_save.set()

    def open(self, prompt: ModelInput, *, is_one_of_many: bool = False) -> PromptCache:
        """Look for what is known of a prompt, and make ready to keep more of it.

        Of ten thousand prompts, each with another picture, most states are never looked for again: those of
        a prompt that `is_one_of_many` are held in memory, and saved when a second prompt begins with one.
        Nothing else is kept of it, and no reason is given where little was found.
        """
        return PromptCache(self, prompt, is_one_of_many=is_one_of_many)

    def close(self, *, abandon: bool = False) -> list[str]:
        """Wait until all is saved (or not: `abandon`). Returns the notes that nobody has heard yet."""
        saver, self._saver = self._saver, None
        self._may_save.set()
        if saver is not None:
            self._jobs.put(None)
            if not abandon:
                saver.join()
        return self.take_notes()

    def take_notes(self) -> list[str]:
        """What went wrong since the last call, each a line for a person."""
        notes, self.notes = self.notes, []
        return notes

    def find(self, prompt: ModelInput, media: Sequence[Medium], *, with_reason: bool = True) -> Found:
        """The deepest state of this prompt that leaves at least its last token to be computed."""
        try:
            return self._find(prompt, media, frozenset(), with_reason)
        except CacheTrouble as trouble:
            self.notes.append(str(trouble))
            return Found(None, 0, "the cache cannot be used")

    def _find(
        self, prompt: ModelInput, media: Sequence[Medium], damaged: frozenset[str], with_reason: bool
    ) -> Found:
        """`damaged` are keys that were tried in vain."""
        last = len(prompt.ids) - 1
        on_disk = self._store.lengths(self.model) if self._store else []
        lengths = {n for n in (*on_disk, *self._memory.lengths()) if n <= last}
        keys = prefix_keys(self.model, prompt.ids, media, lengths)
        in_memory = max((n for n, key in keys.items() if key in self._memory), default=0)
        found, evicted = None, 0
        if self._store:
            deeper = {n: key for n, key in keys.items() if n > in_memory and key not in damaged}
            found, evicted = self._store.deepest(deeper)
        if found is not None:
            assert self._store is not None
            state = self._new_state()
            try:
                self._store.load(found, self.block_keys(prompt.ids, media, found.num_tokens), state)
            except BadBlob as error:
                self.notes.append(f"a saved state is computed again: {error}")
                less = self._find(prompt, media, damaged | {found.key}, with_reason)
                return Found(less.state, less.num_tokens, "what was saved is damaged")
            self._memory.keep(found.key, state)
            if self._can_write:
                self._later(partial(self._store.touch, found.key))
        elif in_memory:
            state = self._memory.use(keys[in_memory])
            if snapshot := self._held.pop(keys[in_memory], None):
                self._save_later(snapshot, state.fork())
        else:
            return Found(None, 0, self._reason(prompt, media, 0, evicted) if with_reason else None)
        reason = self._reason(prompt, media, state.num_tokens, evicted) if with_reason else None
        return Found(state.fork(), state.num_tokens, reason)

    def _reason(
        self, prompt: ModelInput, media: Sequence[Medium], num_found: int, num_evicted: int
    ) -> str | None:
        if num_found >= max(prompt.boundaries, default=0):
            return None
        if num_evicted > num_found:
            return f"{num_evicted:,} tokens were saved, and had to make room"
        if self._store is None:
            return "nothing was saved before"
        ids, best = _marked(prompt.ids, media), None
        for earlier in self._store.prompts(self.model):
            same = _num_same(ids, earlier)
            if best is None or same > best:
                best = same
        if num_found and (best is None or best < num_found):
            return None  # what was reused is longer than all that is known to compare with
        if best is None:
            others = self._store.other_models(self.model)
            return "what is saved is of other models or kernels" if others else "nothing was saved before"
        if best == len(ids):
            return "its state is gone" if chosen_places(prompt, num_found) else None
        if ids[best] < 0:
            is_clip = any(span.clip for span in prompt.media if span.start <= best < span.end)
            what = f"another {'clip or other frames' if is_clip else 'picture'}, or the same in another size"
        else:
            what = repr(self.decode([int(i) for i in prompt.ids[best : best + 8]]))
        return f"after {best:,} tokens this prompt differs from those before: {what}"

    def keep(self, snapshot: Snapshot, state: ModelState) -> None:
        """Keep a state; on disk as soon as the thread comes to it."""
        own = state.fork()
        self._memory.keep(snapshot.key, own)
        self._save_later(snapshot, own)

    def find_walked(self, key: str, num_tokens: int) -> ModelState | None:
        """The state of so many tokens that `keep_walked` was given under this key, if it is here."""
        if key in self._memory:
            return self._memory.use(key).fork()
        try:
            found, _ = self._store.deepest({num_tokens: key}) if self._store else (None, 0)
            if found is None or self._store is None:
                return None
            state = self._new_state()
            self._store.load(found, _walked_blocks(key, num_tokens), state)
        except (CacheTrouble, BadBlob) as trouble:
            self.notes.append(str(trouble))
            return None
        self._memory.keep(key, state)
        if self._can_write:
            self._later(partial(self._store.touch, key))
        return state.fork()

    def keep_walked(self, key: str, state: ModelState, num_computed: int, label: str) -> None:
        """Keep a state that is of no prompt's beginning, under a `key` that tells what it has seen.

        `num_computed`: tokens that it spares.
        """
        blocks = _walked_blocks(key, state.num_tokens)
        self.keep(Snapshot(key, self.model, state.num_tokens, blocks, num_computed, label), state)

    def hold(self, snapshot: Snapshot, state: ModelState) -> None:
        """Keep a state in memory; on disk when someone comes back to it."""
        self._memory.keep(snapshot.key, state.fork())
        self._held[snapshot.key] = snapshot
        if len(self._held) >= 2 * MOST_HELD:  # most of which had to go
            here = [key for key in self._held if key in self._memory]
            self._held = {key: self._held[key] for key in here[-MOST_HELD:]}

    def _save_later(self, snapshot: Snapshot, own: ModelState) -> None:
        """On disk, where there is one: as soon as the thread comes to it."""
        if self._store and self._can_write:
            store = self._store
            if not self._memory.has_room(own):
                self._may_save.set()
            if self._memory.wait_for_room(own):
                self._later(lambda: store.save(snapshot, own), own)

    def keep_prompt(self, prompt: ModelInput, media: Sequence[Medium]) -> None:
        """Remember what was asked, to tell the next prompt where it began to differ."""
        if self._store and self._can_write:
            store, ids = self._store, _marked(prompt.ids, media)
            self._later(lambda: store.save_prompt(self.model, ids))

    def features(self, key: bytes) -> np.ndarray | None:
        """Of the picture or pair with this `Medium.key`: (M, D) float32 as the backend made them, or None."""
        features = self._store.features(self.model, key.hex()) if self._store else None
        if features is not None and self._store and self._can_write:
            self._later(partial(self._store.touch_features, self.model, key.hex()))
        return features

    def keep_features(self, key: bytes, features: np.ndarray) -> None:
        """Keep the `features` (M, D) of a picture or pair under its `Medium.key`; not where too many wait."""
        if self._store and self._can_write:
            store = self._store
            with self._counting:
                waiting = self._waiting_bytes + features.nbytes
                if waiting > WAITING_BYTES // 2:
                    self._may_save.set()
                if self._waiting_bytes and waiting > WAITING_BYTES:
                    return
                self._waiting_bytes = waiting
            self._later(lambda: store.save_features(self.model, key.hex(), features), features)

    def block_keys(self, ids: np.ndarray, media: Sequence[Medium], num_tokens: int) -> tuple[str, ...]:
        """Keys of the whole blocks among the first `num_tokens` ids."""
        ends = range(BLOCK_TOKENS, num_tokens + 1, BLOCK_TOKENS)
        # A block that ends within a picture goes by the picture's end: what it holds depends on all of it.
        whole = {end: next((m.end for m in media if m.start < end < m.end), end) for end in ends}
        keys = prefix_keys(self.model, ids, media, whole.values())
        return tuple(keys[whole[end]] if whole[end] == end else f"{keys[whole[end]]}-{end}" for end in ends)

    def compute_anew(
        self, backend: Backend, sample: int, on_progress: Callable[[int, int], None]
    ) -> tuple[int, list[str]]:
        """Compute up to `sample` saved states of text again. Returns how many came out the same, and the keys
        of the others. `on_progress` hears states done and in all. Raises CacheTrouble."""
        assert self._store is not None
        same = 0
        different: list[str] = []
        for ids, snapshot in self._texts(sample):
            on_progress(same + len(different), sample)
            saved, computed = self._new_state(), self._new_state()
            try:
                self._store.load(snapshot, self.block_keys(ids, (), snapshot.num_tokens), saved)
            except BadBlob:
                different.append(snapshot.key)
                continue
            positions = np.broadcast_to(np.arange(snapshot.num_tokens), (3, snapshot.num_tokens))
            for begin in range(0, snapshot.num_tokens, PREFILL_CHUNK):
                part = slice(begin, min(begin + PREFILL_CHUNK, snapshot.num_tokens))
                backend.prefill(computed, ids[part], np.ascontiguousarray(positions[:, part]), None)
            if is_close(saved, computed):
                same += 1
            else:
                different.append(snapshot.key)
        return same, different

    def _texts(self, sample: int) -> list[tuple[np.ndarray, Snapshot]]:
        """Snapshots of this model that begin remembered prompts and hold no picture, with those ids."""
        assert self._store is not None
        found: dict[str, tuple[np.ndarray, Snapshot]] = {}
        lengths = self._store.lengths(self.model)
        for ids in self._store.prompts(self.model):
            size = next(iter(np.flatnonzero(ids < 0)), len(ids))
            for length, key in prefix_keys(self.model, ids[:size], (), lengths).items():
                snapshot, _ = self._store.deepest({length: key})
                if snapshot is not None:
                    found.setdefault(key, (ids[:length], snapshot))
            if len(found) >= sample:
                break
        return list(found.values())[:sample]

    def _later(self, work: Callable[[], None], saved: ModelState | np.ndarray | None = None) -> None:
        if self._saver is None:
            self._jobs = queue.SimpleQueue()  # the one before may still be at work on what it has
            self._saver = Thread(target=self._save, args=(self._jobs,), name="save-states", daemon=True)
            self._saver.start()
        self._jobs.put((work, saved))

    def _save(self, jobs: Jobs) -> None:
        num_skipped = 0
        while (job := jobs.get()) is not None:
            work, saved = job
            self._may_save.wait()
            try:
                if num_skipped:
                    num_skipped -= 1
                else:
                    work()
            except (CacheTrouble, OSError) as trouble:
                if str(trouble) not in self.notes:
                    self.notes.append(str(trouble))
                # What waits would meet the same, and wait for the same lock one after another.
                num_skipped = jobs.qsize()
            finally:
                if isinstance(saved, ModelState):
                    self._memory.saved(saved)
                elif saved is not None:
                    with self._counting:
                        self._waiting_bytes -= saved.nbytes
            del job, work, saved  # else they are held until the next one comes


def _walked_blocks(key: str, num_tokens: int) -> tuple[str, ...]:
    return tuple(f"{key}-{end}" for end in range(BLOCK_TOKENS, num_tokens + 1, BLOCK_TOKENS))


def _marked(ids: np.ndarray, media: Sequence[Medium]) -> np.ndarray:
    """The ids (T,) int64, each picture's placeholders replaced by a negative number of its own."""
    ids = ids.astype(np.int64)
    for medium in media:
        ids[medium.start : medium.end] = -1 - int.from_bytes(medium.key[:7], "little")
    return ids


def _num_same(a: np.ndarray, b: np.ndarray) -> int:
    """The length of the beginning that both share."""
    size = min(len(a), len(b))
    differs = np.flatnonzero(a[:size] != b[:size])
    return int(differs[0]) if len(differs) else size
