"""Seconds and memory of clips, against the program ffmpeg: `python benchmarks/video.py`.

Clips are made by ffmpeg once (a test picture that moves, H.264). "dense": all frames at 2 a second of a
minute of 1920x1080, resized, against what ffmpeg needs to write the same ones scaled. "sparse": 32 frames of
an hour of 320x180, against ffmpeg's decoding of all of it. "memory": the peak of a process that reads a
minute of that, and the hour, at 2 frames a second. "model": the same of one that asks a model about all
frames at --fps, which it is given in one piece; "windows": in windows of a minute. Opening a clip, with the
hash of its file, counts, as does the start of Python; "at work" is without that.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.synthetic import SIZES, TINY_SIZES
from benchmarks.synthetic_packed import RECIPES, layout_hash, write_packed
from qwencli.machine import Machine

SIZE = (480, 832)  # height, width
SMALL = (176, 320)
HOUR_S = 3600
PARTS = ("dense", "sparse", "memory", "model", "windows")
ONCE = ("memory", "model", "windows")  # minutes of work for figures that do not vary

Runs = dict[str, list[dict[str, Any]]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="some of them, by comma; default: all")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turns; default 3")
    parser.add_argument("--work", type=Path, default=Path("synthetic-clips"), help="where clips are kept")
    parser.add_argument("--seconds", type=int, default=60, help="of the short clips; default 60")
    parser.add_argument("--long-seconds", type=int, default=HOUR_S, help="of the long one; default 3600")
    parser.add_argument("--model", choices=SIZES | TINY_SIZES, default="tiny", help="default tiny")
    parser.add_argument("--fps", type=float, default=1.0, help="that the model sees; default 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every run into FILE")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    parts = options.parts.split(",")
    runs: Runs = {}
    for number in range(options.rounds):
        for part in parts:
            if number and part in ONCE:
                continue
            for name, run in work_of(part, options).items():
                runs.setdefault(name, []).append(run())
                seconds = runs[name][-1]["seconds"]
                harness.say(f"round {number + 1}/{options.rounds}, {name}: {seconds:.2f} s")
    report(runs)
    if options.json:
        options.json.write_text(json.dumps(runs, indent=1))


def work_of(part: str, options: argparse.Namespace) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is run, by its name in the table; what it needs is made first."""

    def small(seconds: int) -> Path:
        return make_clip(options.work, "320x180", 30, seconds, ["-preset", "ultrafast", "-g", "250"])

    if part == "dense":
        large = make_clip(options.work, "1920x1080", 30, options.seconds, ["-preset", "veryfast"])
        scaled = f"fps=2,scale={SIZE[1]}:{SIZE[0]}:flags=bicubic"
        return {
            "dense: qwen": lambda: ours(path=large, fps=2, size=SIZE),
            "dense: ffmpeg": lambda: ffmpegs(large, "-vf", scaled, "-pix_fmt", "rgb24", "-f", "rawvideo"),
        }
    long = small(options.long_seconds)
    if part == "sparse":
        return {
            "sparse: qwen, 32 frames": lambda: ours(path=long, fps=0, frames=32, size=SMALL),
            "sparse: ffmpeg, all frames": lambda: ffmpegs(long, "-f", "null"),
        }
    short = small(options.seconds)
    if part == "memory":
        return {
            "memory: qwen, short": lambda: ours(path=short, fps=2, size=SMALL),
            "memory: qwen, long": lambda: ours(path=long, fps=2, size=SMALL),
        }
    asked = {"fps": options.fps, "model": make_model(options.work, options.model)}
    asked["window_s"] = options.seconds if part == "windows" else 0
    return {
        f"{part}: qwen, short": lambda: ours(path=short, **asked),
        f"{part}: qwen, long": lambda: ours(path=long, **asked),
    }


def make_clip(folder: Path, size: str, fps: int, seconds: int, words: list[str]) -> Path:
    path = folder / f"{size}-{seconds}s.mp4"
    if not path.exists():
        harness.say(f"making {path}")
        new = path.with_suffix(".new.mp4")
        source = ["-f", "lavfi", "-i", f"testsrc2=s={size}:r={fps}:d={seconds}"]
        encoder = ["-c:v", "libx264", "-pix_fmt", "yuv420p", *words]
        subprocess.run(["ffmpeg", "-v", "error", "-y", *source, *encoder, str(new)], check=True)
        new.replace(path)
    return path


def make_model(folder: Path, name: str) -> Path:
    """Of random weights, packed as `qwen models pack` does it."""
    size, recipe = (SIZES | TINY_SIZES)[name], RECIPES["default"]
    path = folder / f"{name}-{layout_hash(size, recipe)}"
    if not path.exists():
        harness.say(f"making {path}")
        new = path.with_suffix(".new")
        write_packed(size, new, recipe)
        new.replace(path)
    return path


def ours(**job: Any) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": f"{harness.ROOT}{os.pathsep}{harness.ROOT / 'model'}"}
    command = [sys.executable, "-m", "benchmarks.run_video", json.dumps(job, default=str)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    seconds = time.perf_counter() - start  # the start of Python counts, as that of ffmpeg does
    return dict(json.loads(done.stdout.splitlines()[-1])) | {"seconds": seconds}


def ffmpegs(path: Path, *words: str) -> dict[str, Any]:
    start = time.perf_counter()
    subprocess.run(
        ["ffmpeg", "-v", "error", "-y", "-i", str(path), "-an", *words, "-"],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return {"seconds": time.perf_counter() - start}


def report(runs: Runs) -> None:
    def seconds(name: str) -> list[float]:
        return [run["seconds"] for run in runs[name]]

    rows = []
    for name, own in runs.items():
        kind = name.partition(":")[0]
        theirs = next((other for other in runs if other.startswith(f"{kind}: ffmpeg")), None)
        share = min(seconds(name)) / min(seconds(theirs)) if theirs and theirs != name else None
        peak = max((run.get("peak_bytes", 0) for run in own), default=0)
        at_work = min((run["work_s"] for run in own if "work_s" in run), default=None)
        told = "-" if at_work is None else f"{at_work:.2f}"
        if at_work is not None and theirs:
            told += f" ({at_work / min(seconds(theirs)):.1%})"
        rows.append(
            (
                name,
                f"{own[0].get('frames', '-')}",
                f"{own[0]['tokens']:,}" if "tokens" in own[0] else "-",
                harness.spread(seconds(name), 2),
                f"{share:.1%}" if share else "-",
                told,
                f"{peak / 1e6:.0f} MB" if peak else "-",
            )
        )
    print(
        harness.markdown(
            ("what", "frames", "tokens", "seconds", "of ffmpeg's", "at work", "peak memory"), rows
        )
    )
    for part in ("model", "windows"):
        if f"{part}: qwen, long" in runs:
            print(growth(part, runs[f"{part}: qwen, short"][0], runs[f"{part}: qwen, long"][0]))
    print(f"`{harness.command_line()}`\n\n{harness.machine_line(Machine.inspect())}")


def growth(part: str, short: dict[str, Any], long: dict[str, Any]) -> str:
    """How much more memory the long clip takes than the short one, and what of that is its tokens'."""
    more = long["peak_bytes"] - short["peak_bytes"]
    tokens = 0 if part == "windows" else long["tokens"] - short["tokens"]
    rest = more - tokens * long["kv_bytes_per_token"]
    return (
        f"{part}: {more / 1e6:.0f} MB more, {(more - rest) / 1e6:.0f} MB of them keys and values; the others "
        f"are {rest / short['peak_bytes']:.1%} of what the short clip takes.\n"
    )


if __name__ == "__main__":
    main()
