"""`python -m mini FOLDER`: draw the data, train, evaluate on held-out seeds, write the checkpoint.

One command, resumable: run it again and it goes on where it stopped.
"""

import argparse
import json
import os
from pathlib import Path

import torch

from mini.batches import Curriculum
from mini.evaluate import evaluate
from mini.train import Run
from mini.write import write_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m mini", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the run lives: state, log, checkpoint, evaluation")
    parser.add_argument(
        "--start-from", type=Path, help="a checkpoint folder whose weights a new run begins with"
    )
    parser.add_argument("--minutes", type=float, default=120, help="training time, whatever the machine")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=None, help="processes that draw pictures ahead")
    parser.add_argument("--tokens-per-step", type=int, default=None, help="picture tokens in a batch")
    parser.add_argument("--reading-from", type=float, default=0.65, help="share of the time before reading")
    parser.add_argument("--samples", type=int, default=200, help="held-out samples of each task")
    parser.add_argument("--no-training", action="store_true", help="evaluate and write the state as it is")
    args = parser.parse_args()
    on_gpu = args.device != "cpu"
    workers = args.workers or (max(1, (os.cpu_count() or 2) - 1) if on_gpu else 1)
    run = Run(args.folder, args.minutes, torch.device(args.device))
    if args.start_from and run.clock.step == 0:
        run.start_from(args.start_from)
    if not args.no_training:
        tokens = args.tokens_per_step or (16384 if on_gpu else 640)
        run.train(Curriculum(tokens, reading_from=args.reading_from), workers)
    write_checkpoint(run.model, args.folder / "checkpoint")
    # In bfloat16, as the checkpoint is stored and used.
    figures = evaluate(run.model.bfloat16().eval(), args.samples)
    (args.folder / "evaluation.json").write_text(json.dumps(figures, indent=2) + "\n")
    for task, row in figures.items():
        print(f"{task:30} asked {row['asked']:4}  right {row['right']:.1%}  declined {row['declined']:.1%}")


if __name__ == "__main__":
    main()
