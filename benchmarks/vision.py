"""Seconds of a picture in the vision encoder, against transformers: `python benchmarks/vision.py 0.8b`.

The tower of that size with random weights; the text model behind it is cut to four small layers, which the
figures do not reach. "Memory" is what the picture adds to the process at the peak, patches included.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks import harness, peers
from benchmarks.harness import Contender, Run
from benchmarks.job import Job
from benchmarks.synthetic import Size
from qwen35.processing.processor import Processor

NAMES = ("qwen", "transformers")


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("size", choices=peers.ALL_SIZES, help="whose tower: 0.8b, 2b, and 9b are the three")
    parser.add_argument(
        "--pictures",
        type=parse_pictures,
        default="1024x1024,3840x2160",
        metavar="WxH,WxH",
        help="default 1024x1024,3840x2160",
    )
    options = parser.parse_args()
    shape = peers.Shape(f"{options.size}-tower", tower_alone(peers.ALL_SIZES[options.size]))
    names = peers.choose(options, shape, NAMES)
    contenders = [contender(name, shape, picture, options) for picture in options.pictures for name in names]
    runs = harness.take_turns(contenders, options, lambda run: f"{run.figures['encode_s']:.2f} s")
    tower = shape.size.vision
    title = f"Vision encoder, {tower.depth} blocks of {tower.hidden_size}, random weights"
    harness.report(title, options, contenders, runs, table(contenders, runs))


def tower_alone(size: Size) -> Size:
    """The same tower before the least text model that the formats allow."""
    return replace(
        size,
        num_layers=4,
        num_experts=0,
        num_experts_per_tok=0,
        intermediate_size=512,
        is_tied=True,
        has_mtp=False,
    )


def parse_pictures(text: str) -> list[tuple[int, int]]:
    """(height, width) each."""
    sizes = [size.split("x") for size in text.split(",")]
    return [(int(height), int(width)) for width, height in sizes]


def contender(
    name: str, shape: peers.Shape, picture: tuple[int, int], options: argparse.Namespace
) -> Contender:
    """Both engines read the packed folder, transformers only its config.json, and take the same patches."""
    job = Job("vision", "", options.threads, picture=picture)
    row = peers.contender("qwen", shape, job, options)
    if name == "transformers":
        processor = Processor.from_folder(Path(row.job.model)).image
        row = replace(row, engine=name, job=replace(row.job, picture=processor.plan(*picture)))
    title = f"{peers.TITLES[name]}, {picture[1]}x{picture[0]}"
    return replace(row, name=title, facts={"picture": picture})


def table(contenders: list[Contender], runs: list[Run]) -> str:
    rows = []
    for contender in contenders:
        own = [run.figures for run in harness.of(runs, contender)]
        theirs = [
            run.figures["encode_s"]
            for other in contenders
            if other.engine == "transformers" and other.facts == contender.facts
            for run in harness.of(runs, other)
        ]
        seconds = [figures["encode_s"] for figures in own]
        rows.append(
            (
                contender.name,
                f"{own[0]['patches']:,}" if own else "-",
                f"{own[0]['tokens']:,}" if own else "-",
                harness.spread(seconds, 2),
                harness.ratio(theirs, seconds),
                f"{median(figures['added_bytes'] for figures in own) / 1e9:.2f} GB" if own else "-",
                f"{median(figures['peak_bytes'] for figures in own) / 1e9:.2f} GB" if own else "-",
            )
        )
    header = ("engine", "patches", "tokens", "seconds", "faster than transformers", "memory", "peak memory")
    return harness.markdown(header, rows)


if __name__ == "__main__":
    main()
