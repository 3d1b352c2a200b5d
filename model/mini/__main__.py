"""`python -m mini FOLDER`: draw the data, train, evaluate on held-out seeds, write the checkpoint.

One command, resumable: run it again and it goes on where it stopped.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from mini.curriculum import STAGES, Curriculum, Stage
from mini.evaluate import evaluate, table
from mini.team import Team, work_together
from mini.train import ADOPTED_EYES_REST, Run
from mini.write import write_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m mini", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the run lives: states, logs, checkpoint, evaluation")
    parser.add_argument("--minutes", type=float, default=120, help="training time, whatever the machine")
    parser.add_argument("--stage", choices=STAGES, help="this stage alone, for all the minutes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--language-from", type=Path, help="a checkpoint to take the language from, instead of a stage"
    )
    parser.add_argument("--start-from", type=Path, help="a checkpoint that the stage `together` goes on from")
    parser.add_argument("--new-to-clips", action="store_true", help="that checkpoint has seen no clips")
    parser.add_argument(
        "--eyes-rest",
        type=float,
        default=ADOPTED_EYES_REST,
        help="for this share of it its eyes stand still",
    )
    parser.add_argument(
        "--skip-batches", type=int, default=0, help="so many that this checkpoint has been shown"
    )
    parser.add_argument("--processes", type=int, default=None, help="that share a stage's batches (CPU)")
    parser.add_argument("--workers", type=int, default=None, help="processes that draw pictures ahead")
    parser.add_argument("--tokens-per-step", type=int, default=None, help="picture tokens in a batch")
    parser.add_argument(
        "--no-reading", action="store_true", help="shapes alone: all that two cores can learn"
    )
    parser.add_argument("--clips", type=float, default=0.3, help="the share of batches in `together`")
    parser.add_argument(
        "--documents", type=float, default=0.3, help="and of those without clips, that with documents"
    )
    parser.add_argument("--samples", type=int, default=200, help="held-out samples of each task")
    parser.add_argument("--no-training", action="store_true", help="evaluate and write the state as it is")
    args = parser.parse_args()
    if args.stage in ("eyes", "language"):
        train(args, args.stage, args.minutes)
        return
    if not args.no_training:
        if args.stage is None and args.start_from is None:
            learn_apart(args)
        train(args, "together", args.minutes * (1 if args.stage or args.start_from else 0.3))
    run = Run(args.folder, "together", 1, torch.device(args.device))
    write_checkpoint(run.model, args.folder / "checkpoint")
    # In bfloat16, as the checkpoint is stored and used.
    figures = evaluate(run.model.bfloat16().eval(), args.samples)
    (args.folder / "evaluation.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(table(figures))


def learn_apart(args: argparse.Namespace) -> None:
    """Eyes and language need nothing of each other: they learn at the same time, in two processes.

    Where the language is taken from a checkpoint, the eyes have the machine to themselves.
    """
    stages = ("eyes",) if args.language_from else ("eyes", "language")
    processes = args.processes or max(1, (os.cpu_count() or 2) // len(stages))
    command = [sys.executable, "-m", "mini", str(args.folder), "--device", args.device]
    command += ["--minutes", str(args.minutes * 0.7), "--processes", str(processes)]
    command += ["--no-reading"] if args.no_reading else []
    for name in ("workers", "tokens_per_step"):
        if (value := getattr(args, name)) is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    running = [subprocess.Popen([*command, "--stage", stage]) for stage in stages]
    try:
        failed = [process.args for process in running if process.wait()]
    finally:
        for process in running:
            process.terminate()
    if failed:
        raise SystemExit(f"this stage failed, see above: {failed[0]}")


def train(args: argparse.Namespace, stage: Stage, minutes: float) -> None:
    on_gpu = args.device != "cpu"
    # On a CPU drawing is a twentieth of the work, and another process would only be in the way.
    workers = args.workers if args.workers is not None else (os.cpu_count() or 2) // 2 if on_gpu else 0
    tokens = args.tokens_per_step or (16384 if on_gpu else 640)
    processes = 1 if on_gpu else args.processes or os.cpu_count() or 1

    def work(team: Team) -> None:
        device = torch.device(args.device)
        begin = args.language_from, args.start_from, args.new_to_clips, args.eyes_rest
        run = Run(args.folder, stage, minutes, device, team, *begin)
        curriculum = Curriculum(stage, tokens, not args.no_reading, args.clips, args.documents)
        run.train(curriculum, workers, args.skip_batches)

    work_together(processes, work)


if __name__ == "__main__":
    main()
