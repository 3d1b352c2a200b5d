"""Where the time of decode and of prefill goes, kernel by kernel: `python benchmarks/kernels.py 0.8b`.

Every call of the native library is timed, in this process. Decode: bytes of weights, of recurrent states
(read and written), of keys and values, a second, against the read bandwidth before and after. Prefill: time a
token in the first chunk and in the last one.
"""

import argparse
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import harness, peers
from benchmarks.job import Job
from benchmarks.run_qwen import load, prompt, warm_up
from qwen35.backends.native.backend import NativeBackend
from qwen35.cores import num_cores
from qwen35.engine.engine import Engine
from qwen35.engine.request import Request
from qwen35.events import PrefillProgress
from qwen35.state import kv_bytes_per_token
from qwen35.weights.manifest import read_manifest
from qwencli.bandwidth import read_bandwidth
from qwencli.speed import endless

CALLS = ("qw_embed", "qw_linear", "qw_attention", "qw_mlp", "qw_moe", "qw_head")
OTHER = "between calls"


@dataclass
class Profile:
    """Seconds and numbers of calls by name, since `start`. Mutable: a backend's calls go through it."""

    start: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @classmethod
    def of(cls, backend: NativeBackend) -> "Profile":
        profile, call = cls(), backend._context.call

        def timed(name: str, *arguments: object) -> int:
            begin = time.perf_counter()
            try:
                return call(name, *arguments)
            finally:
                profile.seconds[name] += time.perf_counter() - begin
                profile.counts[name] += 1

        backend._context.call = timed  # type: ignore[method-assign]
        return profile

    def taken(self) -> tuple[dict[str, float], dict[str, int]]:
        """Seconds and calls since the last time, and the rest of the time; it begins anew here."""
        now = time.perf_counter()
        seconds, counts = dict(self.seconds), dict(self.counts)
        seconds[OTHER] = now - self.start - sum(seconds.values())
        self.start = now
        self.seconds.clear()
        self.counts.clear()
        return seconds, counts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", choices=peers.ALL_SIZES)
    parser.add_argument("--layers", type=int, help="a multiple of 4; default: all, of 35b-a3b 12")
    parser.add_argument("--prompt", type=int, default=2048, metavar="N", help="tokens; default 2,048")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="to decode; default 64")
    parser.add_argument("--recipe", choices=peers.RECIPE_OF, default="qwen-q4")
    parser.add_argument("--threads", type=int, default=num_cores(), help="default: one for each core")
    parser.add_argument("--work", type=Path, default=Path("synthetic-models"), metavar="FOLDER")
    options = parser.parse_args()
    shape = peers.Shape.of(options.size, options.layers)
    job = Job("decode", "", options.threads, load="read")
    contender = peers.contender(options.recipe, shape, job, options)
    profile_model(f"{contender.name}. {shape.title}, {options.threads} threads", contender.job, options)
    print(f"`{harness.command_line()}`\n")
    print(harness.machine_line(harness.Machine.inspect()))


def profile_model(title: str, job: Job, options: argparse.Namespace) -> None:
    engine = load(job)
    assert isinstance(engine.backend, NativeBackend)
    weights = bytes_by_call(engine, Path(job.model), options.prompt + options.tokens // 2)
    warm_up(job, engine)
    profile = Profile.of(engine.backend)
    before = read_bandwidth(options.threads)
    steps, decode = run(engine, job, options.prompt, options.tokens, profile)
    bandwidth = (before + read_bandwidth(options.threads)) / 2
    engine.close()
    print(f"Decode, {options.tokens} tokens after {options.prompt}. {title}.\n")
    print(decode_table(*decode, options.tokens, weights, bandwidth))
    print(f"Memory read meanwhile: {bandwidth / 1e9:.1f} GB/s.\n")
    print(f"Prefill of {options.prompt} tokens. {title}.\n")
    print(prefill_table(steps))


Taken = tuple[dict[str, float], dict[str, int]]


def run(
    engine: Engine, job: Job, num_prompt: int, num_tokens: int, profile: Profile
) -> tuple[list[tuple[int, Taken]], Taken]:
    """What was taken in each chunk of the prompt, with its tokens, and in the tokens after it."""
    steps: list[tuple[int, Taken]] = []
    done = 0
    profile.taken()
    for event in endless(engine).generate(
        Request((), max_tokens=num_tokens + 1), prompt(job, engine, num_prompt, 0)
    ):
        if isinstance(event, PrefillProgress):
            if event.done > done:
                steps.append((event.done - done, profile.taken()))
            done = event.done
    return steps, profile.taken()


def bytes_by_call(engine: Engine, folder: Path, num_context: int) -> dict[str, int]:
    """Bytes that one token reads and writes after `num_context` others."""
    backend = engine.backend
    assert isinstance(backend, NativeBackend)
    text, manifest = backend.config.text, read_manifest(folder)
    found = dict.fromkeys(CALLS, 0)
    head = "language_model.embed_tokens.weight" if backend.config.tie_word_embeddings else "lm_head.weight"
    found["qw_head"] = manifest.tensors[head].size_bytes
    mlp = "qw_moe" if text.moe else "qw_mlp"
    for name, tensor in manifest.tensors.items():
        if not name.startswith("language_model.layers."):
            continue
        # The router's weights are read by the call before it.
        is_mlp = ".mlp." in name and not name.endswith("mlp.gate.weight")
        kind = text.layer_types[int(name.split(".")[2])]
        mixer = "qw_linear" if kind == "linear_attention" else "qw_attention"
        found[mlp if is_mlp else mixer] += tensor.size_bytes
    if text.moe:
        found[mlp] += sum(
            text.moe.num_experts_per_tok * entry.stride
            for layer, entry in manifest.experts.items()
            if layer.startswith("language_model.")
        )
    values = text.linear_num_value_heads * text.linear_key_head_dim * text.linear_value_head_dim
    found["qw_linear"] += 2 * 4 * values * text.layer_types.count("linear_attention")
    found["qw_attention"] += num_context * kv_bytes_per_token(text, "bfloat16")
    return found


def decode_table(
    seconds: dict[str, float],
    counts: dict[str, int],
    num_tokens: int,
    weights: dict[str, int],
    bandwidth: float,
) -> str:
    total = sum(seconds.values())
    rows = []
    for name in (*CALLS, OTHER):
        if not seconds.get(name):
            continue
        per_token, num_bytes = seconds[name] / num_tokens, weights.get(name, 0)
        rate = num_bytes / per_token
        rows.append(
            (
                name,
                f"{counts.get(name, 0) / num_tokens:.0f}" if name in counts else "-",
                f"{1e3 * per_token:.2f}",
                f"{seconds[name] / total:.0%}",
                f"{num_bytes / 1e6:.1f}" if num_bytes else "-",
                f"{rate / 1e9:.1f}" if num_bytes else "-",
                f"{rate / bandwidth:.0%}" if num_bytes else "-",
            )
        )
    all_bytes = sum(weights.values())
    rate = all_bytes * num_tokens / total
    rows.append(
        ("all", "", f"{1e3 * total / num_tokens:.2f}", "100%", f"{all_bytes / 1e6:.1f}", f"{rate / 1e9:.1f}",
         f"{rate / bandwidth:.0%}")
    )  # fmt: skip
    return harness.markdown(
        ("call", "a token", "ms a token", "of the time", "MB", "GB/s", "of bandwidth"), rows
    )


def prefill_table(steps: list[tuple[int, Taken]]) -> str:
    """Milliseconds a token, by kind of call, in the first chunk and in the last one."""
    (first, (begin, _)), (last, (end, _)) = steps[0], steps[-1]
    rows = []
    for name in (*CALLS, OTHER):
        if name in begin or name in end:
            early, late = 1e3 * begin.get(name, 0) / first, 1e3 * end.get(name, 0) / last
            growth = f"{late / early:.2f}" if early > 0.001 else "-"
            rows.append((name, f"{early:.3f}", f"{late:.3f}", growth))
    early, late = 1e3 * sum(begin.values()) / first, 1e3 * sum(end.values()) / last
    rows.append(("all", f"{early:.3f}", f"{late:.3f}", f"{late / early:.2f}"))
    where = f"ms a token, first {first}", f"last {last}"
    return harness.markdown(("call", *where, "ratio"), rows)


if __name__ == "__main__":
    main()
