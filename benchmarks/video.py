"""Seconds and memory of reading clips, against the program ffmpeg: `python benchmarks/video.py`.

Clips are made by ffmpeg once (a test picture that moves, H.264). "dense": all frames at 2 a second of a
minute of 1920x1080, resized, against what ffmpeg needs to write the same ones scaled. "sparse": 32 frames of
an hour of 320x180, against ffmpeg's decoding of all of it. "memory": the peak of a process that reads a
minute of that, and the hour, at 2 frames a second. Opening a clip, with the hash of its file, counts.
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
from qwencli.machine import Machine

SIZE = (480, 832)  # height, width
SMALL = (176, 320)
HOUR_S = 3600


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turns; default 3")
    parser.add_argument("--work", type=Path, default=Path("synthetic-clips"), help="where clips are kept")
    parser.add_argument("--seconds", type=int, default=60, help="of the short clips; default 60")
    parser.add_argument("--long-seconds", type=int, default=HOUR_S, help="of the long one; default 3600")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every run into FILE")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    large = make_clip(options.work, "1920x1080", 30, options.seconds, ["-preset", "veryfast"])
    short = make_clip(options.work, "320x180", 30, options.seconds, ["-preset", "ultrafast", "-g", "250"])
    long = make_clip(options.work, "320x180", 30, options.long_seconds, ["-preset", "ultrafast", "-g", "250"])
    dense = {"path": str(large), "fps": 2, "frames": 0, "size": SIZE}
    sparse = {"path": str(long), "fps": 0, "frames": 32, "size": SMALL}
    scaled = f"fps=2,scale={SIZE[1]}:{SIZE[0]}:flags=bicubic"
    work: dict[str, Callable[[], dict[str, Any]]] = {
        "dense: qwen": lambda: ours(dense),
        "dense: ffmpeg": lambda: ffmpegs(large, "-vf", scaled, "-pix_fmt", "rgb24", "-f", "rawvideo"),
        "sparse: qwen, 32 frames": lambda: ours(sparse),
        "sparse: ffmpeg, all frames": lambda: ffmpegs(long, "-f", "null"),
        "memory: qwen, short": lambda: ours({**sparse, "path": str(short), "fps": 2}),
        "memory: qwen, long": lambda: ours({**sparse, "fps": 2}),
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in work}
    for number in range(options.rounds):
        for name, run in work.items():
            if name == "memory: qwen, long" and number:
                continue  # minutes of decoding for a figure that does not vary
            runs[name].append(run())
            harness.say(f"round {number + 1}/{options.rounds}, {name}: {runs[name][-1]['seconds']:.2f} s")
    report(runs)
    if options.json:
        options.json.write_text(json.dumps(runs, indent=1))


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


def ours(job: dict[str, Any]) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": f"{harness.ROOT}{os.pathsep}{harness.ROOT / 'model'}"}
    command = [sys.executable, "-m", "benchmarks.run_video", json.dumps(job)]
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


def report(runs: dict[str, list[dict[str, Any]]]) -> None:
    def seconds(name: str) -> list[float]:
        return [run["seconds"] for run in runs[name]]

    rows = []
    for name, own in runs.items():
        kind = name.partition(":")[0]
        theirs = next((other for other in runs if other.startswith(f"{kind}: ffmpeg")), None)
        share = min(seconds(name)) / min(seconds(theirs)) if theirs and theirs != name else None
        peak = max((run.get("peak_bytes", 0) for run in own), default=0)
        rows.append(
            (
                name,
                f"{own[0].get('frames', '-')}",
                harness.spread(seconds(name), 2),
                f"{share:.1%}" if share else "-",
                f"{peak / 1e6:.0f} MB" if peak else "-",
            )
        )
    print(harness.markdown(("what", "frames", "seconds", "of ffmpeg's", "peak memory"), rows))
    print(f"`{harness.command_line()}`\n\n{harness.machine_line(Machine.inspect())}")


if __name__ == "__main__":
    main()
