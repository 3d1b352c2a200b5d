"""Tokens per second of decoding, side by side: `python benchmarks/decode.py 0.8b`.

Each run is a process: load, warm up, prefill a prompt, then decode with sampling and text. The share is of
the read bandwidth that was measured just before and after the run: bytes that a token reads, times tokens
per second, over bytes per second. Ours holds the vision tower in memory as well; no state of a prompt is
saved. `--busy 2` repeats every row beside two processes that never rest.
"""

from dataclasses import replace
from statistics import median

from benchmarks import harness, peers
from benchmarks.harness import Contender, Run
from benchmarks.job import Job


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("size", choices=peers.ALL_SIZES)
    parser.add_argument("--layers", type=int, help="a multiple of 4; default: all, of 35b-a3b 12")
    parser.add_argument("--prompt", type=int, default=128, metavar="N", help="tokens before; default 128")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="to decode; default 64")
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="also beside N busy processes")
    options = parser.parse_args()
    shape = peers.Shape.of(options.size, options.layers)
    job = Job(
        "decode", "", options.threads, prompts=(options.prompt,), num_tokens=options.tokens, load="read"
    )
    contenders = [peers.contender(name, shape, job, options) for name in peers.choose(options, shape)]
    if options.busy:
        contenders += [beside(item, options.busy) for item in contenders]
    runs = harness.take_turns(
        contenders,
        options,
        lambda run: f"{run.figures['tokens_per_s']:.1f} tokens/s",
    )
    title = f"Decode, {options.tokens} tokens after {options.prompt}. {shape.title}"
    harness.report(title, options, contenders, runs, table(contenders, runs))


def beside(contender: Contender, num_busy: int) -> Contender:
    """The same with neighbours, and without a share of the bandwidth: theirs is not known."""
    facts = contender.facts | {"bytes_per_token": None}
    return replace(
        contender, name=f"{contender.name}, {num_busy} busy neighbours", facts=facts, num_busy=num_busy
    )


def table(contenders: list[Contender], runs: list[Run]) -> str:
    base = [run.figures["tokens_per_s"] for run in runs if run.name == peers.BASE]
    rows = []
    for contender in contenders:
        own = harness.of(runs, contender)
        rates = [run.figures["tokens_per_s"] for run in own]
        num_bytes = contender.facts["bytes_per_token"]
        rows.append(
            (
                contender.name,
                contender.facts["head"],
                f"{contender.facts['bits_per_weight']:.2f}",
                harness.spread(rates),
                harness.ratio(rates, base),
                f"{num_bytes / 1e9:.2f} GB" if num_bytes else "-",
                share(own, num_bytes),
                f"{median(run.figures['peak_bytes'] for run in own) / 1e9:.2f} GB" if own else "-",
            )
        )
    header = (
        *("engine", "head", "bits/weight", "tokens/s", "to llama.cpp"),
        *("read per token", "of bandwidth", "peak memory"),
    )
    return harness.markdown(header, rows)


def share(runs: list[Run], bytes_per_token: int | None) -> str:
    if not runs or not bytes_per_token:
        return "-"
    return f"{median(run.figures['tokens_per_s'] * bytes_per_token / run.bandwidth for run in runs):.0%}"


if __name__ == "__main__":
    main()
