"""Weights on the disk, at several amounts of memory: `python benchmarks/experts.py 35b-a3b --ram 3G,4G,6G`.

Each run is a process in a control group with that much memory (needs root; `--no-group`: it is told to take
that much, and measured), so that nothing hides in the system's cache. Its share is of what the disk or the
processor would allow: the disk at the speed of reads of the same size, measured in the same process, the
processor as with all experts in memory. Routing is that of the random weights, which is uniform, and that of
real models, imposed (see routing.py). Of a dense model it is layers that stay on the disk, and it is mapped
for comparison. llama.cpp maps its file.
"""

from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks import harness, peers
from benchmarks.harness import Contender, Run
from benchmarks.job import Job
from qwencli.values import parse_bytes


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("size", choices=peers.ALL_SIZES)
    parser.add_argument("--layers", type=int, help="a multiple of 4; default: all, of 35b-a3b 12")
    parser.add_argument("--ram", default="3G,4G,6G", metavar="SIZE,SIZE", help="default 3G,4G,6G")
    parser.add_argument("--prompt", type=int, default=128, metavar="N", help="tokens before; default 128")
    parser.add_argument("--tokens", type=int, default=16, metavar="N", help="to decode; default 16")
    parser.add_argument("--without-guesses", action="store_true", help="also with no guesses at experts")
    parser.add_argument("--no-group", action="store_true", help="no control groups")
    options = parser.parse_args()
    shape = peers.Shape.of(options.size, options.layers)
    job = Job("decode", "", options.threads, prompts=(options.prompt,), num_tokens=options.tokens)
    contenders = []
    for name in peers.choose(options, shape, ("qwen-q4", "llama")):
        whole = peers.contender(name, shape, job, options)
        if name != "llama":
            contenders.append(replace(whole, name=f"{whole.name}, all in memory"))
        for text in options.ram.split(","):
            rows = limited(whole, text, options.no_group, is_moe=bool(shape.size.num_experts))
            contenders += rows
            if options.without_guesses and shape.size.num_experts:
                contenders += [
                    replace(row, name=f"{row.name}, no guesses", job=replace(row.job, guesses=False))
                    for row in rows
                    if row.engine != "llama"
                ]
    runs = harness.take_turns(contenders, options, headline)
    title = f"Weights on the disk, {options.tokens} tokens after {options.prompt}. {shape.title}"
    harness.report(title, options, contenders, runs, table(contenders, runs))


def limited(whole: Contender, text: str, no_group: bool, *, is_moe: bool) -> list[Contender]:
    """The rows of one amount of memory."""
    ram = parse_bytes(text)
    limit = None if no_group else ram
    name, job, files = (
        f"{whole.name}, mapped, {text}",
        replace(whole.job, load="mmap"),
        (Path(whole.job.model),),
    )
    mapped = replace(whole, name=name, job=job, memory_limit=limit, cold_files=files)
    if whole.engine == "llama":
        return [mapped]
    if not is_moe:
        mapped = replace(mapped, cold_files=peers.weight_files(Path(job.model)))
        read = replace(whole, name=f"{whole.name}, {text}", job=replace(job, load="auto", ram=ram))
        return [replace(read, memory_limit=limit), mapped]
    return [
        replace(
            whole,
            name=f"{whole.name}, {text}, {routing or 'uniform'} routing",
            job=replace(whole.job, ram=ram, routing=routing),
            memory_limit=limit,
        )
        for routing in ("", "local")
    ]


def headline(run: Run) -> str:
    rate = f"{run.figures['tokens_per_s']:.2f} tokens/s"
    return rate + (f", {run.figures['hit_rate']:.0%} hits" if "hit_rate" in run.figures else "")


def table(contenders: list[Contender], runs: list[Run]) -> str:
    in_memory = [run.figures["tokens_per_s"] for run in runs if run.name.endswith("all in memory")]
    rows = []
    for contender in contenders:
        own = harness.of(runs, contender)
        rates = [run.figures["tokens_per_s"] for run in own]
        row = [contender.name, harness.spread(rates, 2)]
        if own and "hit_rate" in own[0].figures:
            figures = [run.figures for run in own]
            disk = [
                f["disk_bytes_per_s"] / needed
                if (needed := f["bytes_per_token"] - f["wasted_per_token"])
                else 1e9
                for f in figures
            ]
            limits = [min(rate, median(in_memory)) if in_memory else rate for rate in disk]
            shares = [rate / limit for rate, limit in zip(rates, limits, strict=True)]
            row += [
                f"{median(f['hit_rate'] for f in figures):.0%}",
                f"{median(f['bytes_per_token'] for f in figures) / 1e9:.3f} GB",
                f"{median(f['wasted_per_token'] for f in figures) / 1e9:.3f} GB",
                f"{median(f['disk_bytes_per_s'] for f in figures) / 1e9:.2f} GB/s",
                f"{median(limits):.2f}",
                f"{median(shares):.0%}",
            ]
        else:
            row += ["-"] * 6
        row.append(f"{median(run.figures['peak_bytes'] for run in own) / 1e9:.2f} GB" if own else "-")
        rows.append(row)
    header = (
        *("engine, memory, routing", "tokens/s", "hits", "read per token", "in vain"),
        *("disk", "limit, tokens/s", "of the limit", "peak memory"),
    )
    return harness.markdown(header, rows)


if __name__ == "__main__":
    main()
