"""Seconds to a loaded model, and memory: `python benchmarks/load.py 0.8b`.

The clock starts in a fresh process after the imports. "Prefill begins" is when the model is ready for its
first token; "first token" adds the prefill of a question of 32 tokens, which with mapped files is what
reads them. Cold: the model's files were put out of the system's cache before; warm: they were read into it.
"""

from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks import harness, peers
from benchmarks.harness import Contender, Run
from benchmarks.job import Job

MODES = ("read", "mmap")


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("size", choices=peers.ALL_SIZES)
    parser.add_argument("--layers", type=int, help="a multiple of 4; default: all, of 35b-a3b 12")
    options = parser.parse_args()
    shape = peers.Shape.of(options.size, options.layers)
    contenders = []
    for name in peers.choose(options, shape, ("qwen", "llama-q8-head", "transformers")):
        whole = peers.contender(name, shape, Job("load", "", options.threads), options)
        modes = ("auto",) if name == "transformers" else MODES
        contenders += [variant for mode in modes for variant in variants(whole, mode)]
    runs = harness.take_turns(contenders, options, headline)
    harness.report(f"Load. {shape.title}", options, contenders, runs, table(contenders, runs))


def variants(contender: Contender, mode: str) -> list[Contender]:
    """The same with the files out of the system's cache, and in it."""
    job = replace(contender.job, load=mode)
    how = "" if mode == "auto" else f", {mode}"
    files = peers.weight_files(Path(job.model))
    return [
        replace(contender, name=f"{contender.name}{how}, cold", job=job, cold_files=files),
        replace(contender, name=f"{contender.name}{how}, warm", job=job, warm_files=files),
    ]


def headline(run: Run) -> str:
    return f"loaded in {run.figures['loaded_s']:.2f} s, first token at {run.figures['first_token_s']:.2f} s"


def table(contenders: list[Contender], runs: list[Run]) -> str:
    rows = []
    for contender in contenders:
        own = [run.figures for run in harness.of(runs, contender)]
        size = sum(path.stat().st_size for path in peers.weight_files(Path(contender.job.model)))
        memory = [figures["memory"] for figures in own]
        rows.append(
            (
                contender.name,
                f"{size / 1e9:.2f} GB",
                harness.spread([figures["loaded_s"] for figures in own], 2),
                harness.spread([figures["first_token_s"] for figures in own], 2),
                *(
                    f"{median(values[key] for values in memory) / 1e9:.2f} GB" if memory else "-"
                    for key in ("resident", "own", "peak")
                ),
            )
        )
    header = (
        *("engine", "on disk", "prefill begins, s", "first token, s"),
        *("resident", "not shared with the cache", "peak memory"),
    )
    return harness.markdown(header, rows)


if __name__ == "__main__":
    main()
