"""Another question about the same document, side by side with llama.cpp.

`python benchmarks/same_document.py 0.8b`. Two questions in one process, and another one in the next; tokens
are counted where they enter the model. llama-cpp-python goes on from what its context holds; over a restart,
from what its caller saved by hand. Loading the model is not in the first token's time, loading states is.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks import harness, peers
from benchmarks.harness import Contender, Run
from benchmarks.job import Job

ANSWER_TOKENS = 8


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("size", choices=peers.ALL_SIZES)
    parser.add_argument("--layers", type=int, help="a multiple of 4; default: all, of 35b-a3b 12")
    parser.add_argument("--document", type=int, default=2363, metavar="N", help="its tokens; default 2363")
    parser.add_argument("--question", type=int, default=20, metavar="N", help="tokens of each; default 20")
    options = parser.parse_args()
    shape = peers.Shape.of(options.size, options.layers)
    prompts = options.document, options.question
    job = Job("same_document", "", options.threads, prompts=prompts, num_tokens=ANSWER_TOKENS, load="read")
    with tempfile.TemporaryDirectory() as work:
        contenders = []
        for name in peers.choose(options, shape, ("qwen-q4", "llama")):
            folder = str(Path(work) / name)
            first = peers.contender(name, shape, replace(job, folder=folder), options)
            contenders += [
                first,
                replace(first, name=next_of(first), job=replace(first.job, task="restarted")),
            ]
        runs = harness.take_turns(contenders, options, headline)
    title = f"Another question about the same {options.document:,} tokens. {shape.title}"
    harness.report(title, options, contenders, runs, table(contenders, runs))


def next_of(contender: Contender) -> str:
    return f"{contender.name}, next process"


def headline(run: Run) -> str:
    return "; ".join(
        f"{name}: {asked['computed']:,} tokens, {asked['first_token_s']:.2f} s"
        for name, asked in run.figures["asked"].items()
    )


def table(contenders: Sequence[Contender], runs: Sequence[Run]) -> str:
    rows = []
    for contender in contenders:
        own = [run.figures["asked"] for run in harness.of(runs, contender)]
        for name in own[0] if own else ():
            rows.append(
                (
                    f"{contender.name.partition(',')[0]}: {name}",
                    f"{median(asked[name]['computed'] for asked in own):,.0f}",
                    harness.spread([asked[name]["first_token_s"] for asked in own], 2),
                )
            )
    return harness.markdown(("question", "tokens computed", "first token, s"), rows)


if __name__ == "__main__":
    main()
