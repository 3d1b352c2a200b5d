"""Which experts to keep, and whether to guess the next ones: `python benchmarks/expert_policies.py`.

Hit rates of decoding by simulation, over traces of choices: those of `mini` on text, and drawn ones with the
published locality (see routing.py). Policies keep the experts that were used last (LRU), used twice before
those used once (SLRU, a fifth of the room on probation), used most often (LFU), or by counts that fade (what
ExpertStore does). "guess" adds, while layer L is computed, the experts that layer L + 1's router would choose
for layer L's input, read ahead of their use where they are missing.
"""

import argparse
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

import qwen35
from benchmarks.harness import markdown
from benchmarks.routing import Local
from qwen35.backends.native.backend import NativeBackend
from qwen35.backends.native.layers import Layer
from qwen35.backends.native.library import load
from qwen35.experts.counts import HALF_LIFE
from qwen35.experts.store import ExpertStore
from qwen35.processing.processor import Processor
from qwen35.weights.packed import PackedModel
from qwen35.weights.placement import text_experts
from qwencli.speed import prompt_of_words

MINI = Path(qwen35.__file__).parent / "builtin" / "mini"
Floats = NDArray[np.float32]
Chosen = NDArray[np.int32]
Trace = NDArray[np.int64]  # (tokens, layers, A)


class Policy(Protocol):
    """One layer's cache of `room` experts."""

    def use(self, experts: Sequence[int]) -> int:
        """A token's choices. Returns how many of them were not there."""
        ...


class LRU:
    def __init__(self, room: int) -> None:
        self._room, self._kept = room, OrderedDict[int, None]()

    def use(self, experts: Sequence[int]) -> int:
        missing = [e for e in experts if e not in self._kept]
        for expert in experts:
            self._kept[expert] = None
            self._kept.move_to_end(expert)
        while len(self._kept) > self._room:
            self._kept.popitem(last=False)
        return len(missing)


class SLRU:
    def __init__(self, room: int) -> None:
        self._probation_room = max(1, room // 5)
        self._protected_room = room - self._probation_room
        self._probation, self._protected = OrderedDict[int, None](), OrderedDict[int, None]()

    def use(self, experts: Sequence[int]) -> int:
        missing = 0
        for expert in experts:
            if expert in self._protected:
                self._protected.move_to_end(expert)
            elif expert in self._probation:
                del self._probation[expert]
                self._protected[expert] = None
                if len(self._protected) > self._protected_room:
                    self._probation[self._protected.popitem(last=False)[0]] = None
            else:
                missing += 1
                self._probation[expert] = None
            while len(self._probation) > self._probation_room:
                self._probation.popitem(last=False)
        return missing


class Counts:
    """A use counts half as much after `half_life` tokens."""

    half_life = float(HALF_LIFE)

    def __init__(self, room: int) -> None:
        self._room, self._kept, self._scores = room, set[int](), dict[int, float]()
        self._increment = 1.0  # a use now weighs more than one before: the same as counts that fade

    def use(self, experts: Sequence[int]) -> int:
        missing = sum(e not in self._kept for e in experts)
        for expert in experts:
            self._scores[expert] = self._scores.get(expert, 0.0) + self._increment
        self._increment *= 2 ** (1 / self.half_life)
        candidates = self._kept | set(experts)
        self._kept = set(sorted(candidates, key=lambda e: -self._scores[e])[: self._room])
        return missing


class LFU(Counts):
    half_life = 1e9


POLICIES: dict[str, Callable[[int], Policy]] = {
    "LRU": LRU,
    "SLRU": SLRU,
    "LFU": LFU,
    f"counts, half-life {HALF_LIFE}": Counts,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=2000, metavar="N", help="of each trace; default 2000")
    options = parser.parse_args()
    mini, guesses, num_experts = trace_of_mini(options.tokens)
    drawn = local_trace(options.tokens, num_layers=8)
    rows = []
    for name, trace, count, shares in (
        ("mini", mini, num_experts, (0.25, 0.5, 0.75)),
        ("published locality", drawn, 256, (0.2, 0.3, 0.4, 0.6)),
    ):
        for share in shares:
            room = round(share * count)
            rates = [f"{hit_rate(trace, policy, room):.1%}" for policy in POLICIES.values()]
            guessed = guessing(trace, guesses, room) if name == "mini" else ("-", "-")
            rows.append([name, f"{share:.0%} of {count}", *rates, *guessed])
    header = ("trace", "kept", *POLICIES, "counts and guess", "its reads to those without")
    print(markdown(header, rows))


def hit_rate(trace: Trace, policy: Callable[[int], Policy], room: int) -> float:
    """Of the second half: the first fills the caches."""
    num_tokens, num_layers, top_k = trace.shape
    caches = [policy(room) for _ in range(num_layers)]
    missing = 0
    for token, layers in enumerate(trace.tolist()):
        misses = sum(cache.use(experts) for cache, experts in zip(caches, layers, strict=True))
        missing += misses if token >= num_tokens // 2 else 0
    return 1 - missing / ((num_tokens - num_tokens // 2) * num_layers * top_k)


def guessing(trace: Trace, guesses: Trace, room: int) -> tuple[str, str]:
    """Hits where guessed experts count as there, and reads to those without guesses."""
    num_tokens, num_layers, top_k = trace.shape
    guessed, plain = ([Counts(room) for _ in range(num_layers)] for _ in range(2))
    waits = reads = plain_reads = 0
    for token in range(num_tokens):
        for layer in range(num_layers):
            ahead = guessed[layer].use(guesses[token, layer].tolist()) if layer else 0
            misses = guessed[layer].use(trace[token, layer].tolist())
            plain_misses = plain[layer].use(trace[token, layer].tolist())
            if token >= num_tokens // 2:
                waits, reads, plain_reads = waits + misses, reads + misses + ahead, plain_reads + plain_misses
    total = (num_tokens - num_tokens // 2) * num_layers * top_k
    return f"{1 - waits / total:.1%}", f"{reads / max(plain_reads, 1):.2f}"


def local_trace(num_tokens: int, num_layers: int) -> Trace:
    layers = [Local(256, 8, seed) for seed in range(num_layers)]
    return np.array([[layer.draw() for layer in layers] for _ in range(num_tokens)])


def trace_of_mini(num_tokens: int) -> tuple[Trace, Trace, int]:
    """What its routers choose along a text, what layer L + 1's would have chosen for layer L's input, and
    the number of experts."""
    library, reason = load()
    if library is None:
        raise SystemExit(f"needs the native kernels: {reason}")
    processor = Processor.from_folder(MINI)
    ids = prompt_of_words(processor, num_tokens, 0).ids
    with PackedModel.open(MINI, "read") as model:
        layers = text_experts(model.manifest)
        store = ExpertStore(MINI, layers, 1 << 30)
        backend = NativeBackend(library, model, store=store)
        routers = [
            model.dequantised(f"language_model.layers.{index}.mlp.gate.weight")
            for index in range(len(layers))
        ]
        chosen_of: list[NDArray[np.int32]] = []
        guessed_of: list[NDArray[np.int64]] = []
        run = backend._run_experts

        def recorded(
            store: ExpertStore, index: int, layer: Layer, h: Floats, chosen: Chosen, *rest: Floats
        ) -> None:
            chosen_of.append(chosen.copy())
            scores = h @ routers[(index + 1) % len(routers)].T
            guessed_of.append(np.argsort(-scores, axis=1)[:, : chosen.shape[1]])
            run(store, index, layer, h, chosen, *rest)

        backend._run_experts = recorded  # type: ignore[method-assign, assignment]
        state = backend.new_state()
        for begin in range(0, len(ids), 512):
            part = ids[begin : begin + 512]
            positions = np.broadcast_to(np.arange(begin, begin + len(part)), (3, len(part)))
            backend.prefill(state, part, np.ascontiguousarray(positions), None)
        store.close()
    by_layer = [np.concatenate(chosen_of[i :: len(layers)]) for i in range(len(layers))]
    guesses = [np.concatenate(guessed_of[i :: len(layers)]) for i in range(len(layers))]
    guesses = [guesses[-1], *guesses[:-1]]  # the guess for a layer is made one layer before
    return np.stack(by_layer, 1).astype(np.int64), np.stack(guesses, 1), layers[0].count


if __name__ == "__main__":
    main()
