"""Tokens per second of prefill, side by side: `python benchmarks/prefill.py 0.8b`.

Each run is a process that loads once, warms up, then takes prompts of all lengths of `--tokens` in turn. The
last column tells how much dearer a token is at the end of the longest prompt than at 1,024 tokens.
"""

from statistics import median

from benchmarks import harness, peers
from benchmarks.harness import Contender, Run
from benchmarks.job import Job

EARLY_TOKENS = 1024


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("size", choices=peers.ALL_SIZES)
    parser.add_argument("--layers", type=int, help="a multiple of 4; default: all, of 35b-a3b 12")
    parser.add_argument(
        "--tokens",
        type=parse_lengths,
        default=(512, 2048),
        metavar="N,N",
        help="lengths of prompts; default 512,2048",
    )
    parser.add_argument(
        "--llama-ubatch", type=int, default=512, metavar="N", help="llama.cpp's n_ubatch; default 512"
    )
    options = parser.parse_args()
    shape = peers.Shape.of(options.size, options.layers)
    job = Job(
        "prefill", "", options.threads, prompts=options.tokens, load="read", ubatch=options.llama_ubatch
    )
    contenders = [peers.contender(name, shape, job, options) for name in peers.choose(options, shape)]
    runs = harness.take_turns(contenders, options, headline)
    title = f"Prefill. {shape.title}"
    harness.report(title, options, contenders, runs, table(contenders, runs, options.tokens))


def parse_lengths(text: str) -> tuple[int, ...]:
    return tuple(sorted(int(length) for length in text.split(",")))


def headline(run: Run) -> str:
    return ", ".join(
        f"{prompt['tokens']:,}: {prompt['tokens_per_s']:.1f} tokens/s" for prompt in run.figures["prompts"]
    )


def table(contenders: list[Contender], runs: list[Run], prompts: tuple[int, ...]) -> str:
    def rates(name: str, index: int) -> list[float]:
        return [run.figures["prompts"][index]["tokens_per_s"] for run in runs if run.name == name]

    rows = []
    for contender in contenders:
        own = harness.of(runs, contender)
        cells = [contender.name, contender.facts["head"]]
        for index in range(len(prompts)):
            found = rates(contender.name, index)
            cells += [harness.spread(found), harness.ratio(found, rates(peers.BASE, index))]
        growth = [value for run in own if (value := late_cost(run.figures["prompts"][-1]["parts"]))]
        cells.append(f"{median(growth):.2f}x" if growth else "-")
        cells.append(f"{median(run.figures['peak_bytes'] for run in own) / 1e9:.2f} GB" if own else "-")
        rows.append(cells)
    lengths = [cell for n in prompts for cell in (f"{n:,} tokens, tokens/s", "to llama.cpp")]
    header = ("engine", "head", *lengths, f"cost of a token at {prompts[-1]:,}", "peak memory")
    return harness.markdown(header, rows)


def late_cost(parts: list[list[float]]) -> float | None:
    """Seconds per token of the last whole part, over those of the part that ends at EARLY_TOKENS.

    None where the prompt is too short, or its parts end elsewhere.
    """
    if len(parts) < 2 or parts[-1][0] < 2 * EARLY_TOKENS:
        return None
    costs = {
        end: (seconds - before_s) / (end - begin)
        for (begin, before_s), (end, seconds) in zip([(0, 0.0), *parts], parts, strict=False)
    }
    early = costs.get(EARLY_TOKENS)
    return costs[parts[-1][0]] / early if early else None


if __name__ == "__main__":
    main()
