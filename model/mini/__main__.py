"""`python -m mini`: make the data, train, evaluate on held-out seeds, write the checkpoint.

One command, resumable: run it again and it goes on where it stopped.
"""

import argparse
import os
from pathlib import Path

import torch

from mini.batches import Curriculum
from mini.train import Run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m mini", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the run lives: state, log, checkpoint")
    parser.add_argument("--minutes", type=float, default=120, help="training time, whatever the machine")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=None, help="processes that draw pictures ahead")
    parser.add_argument("--tokens-per-step", type=int, default=None, help="picture tokens in a batch")
    args = parser.parse_args()
    on_gpu = args.device != "cpu"
    workers = (
        args.workers if args.workers is not None else (max(1, (os.cpu_count() or 2) - 1) if on_gpu else 1)
    )
    run = Run(args.folder, args.minutes, torch.device(args.device))
    run.train(Curriculum(args.tokens_per_step or (16384 if on_gpu else 1280)), workers)


if __name__ == "__main__":
    main()
