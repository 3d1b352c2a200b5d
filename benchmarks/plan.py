"""What `qwen plan` expects against what is measured: `python benchmarks/plan.py MODEL ...`.

Each model (packed: a name or a folder) is asked a question in a process of its own, whose peak memory is
compared with the plan's for that context, without room for a picture; then `qwen bench` measures decoding and
the memory's speed, from which the plan's tokens per second are taken.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import markdown
from qwen35.weights.packed import open_manifest, packed_config
from qwen35.weights.plan import KV_DTYPE, expected_speed, needs_disk, plan_memory
from qwencli.bandwidth import decode_bytes
from qwencli.disk_speed import disk_speed
from qwencli.folders import Folders
from qwencli.known_models import find_model

ANSWER_TOKENS = 64
WORDS = 1500  # of the question, so that a chunk is full


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--ram", type=int, help="bytes, for all of them")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.models:
        rows.append(compare(name, arguments.ram))
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    header = ("model", "memory planned", "measured", "off", "tokens/s planned", "measured", "off")
    print(markdown(header, rows))


def compare(name: str, ram: int | None) -> tuple[str, ...]:
    folder = find_model(name, Folders.locate(os.environ)).folder
    manifest = open_manifest(folder)
    config = packed_config(folder, manifest)
    limits = ["--ram", str(ram)] if ram else []
    peak, num_tokens = ask(folder, limits)
    planned = plan_memory(manifest, config, num_tokens, ram=ram)
    memory = planned.memory.total
    measured = bench(folder, limits)
    num_context = measured["prompt_tokens"] + measured["tokens"] // 2
    speed = expected_speed(
        planned,
        manifest,
        config,
        decode_bytes(manifest, config, num_context, KV_DTYPE),
        measured["bandwidth_bytes_per_s"],
        disk_speed(folder) if needs_disk(planned) else None,
    )
    rate = measured["decode_tokens_per_s"]
    return (
        Path(name).name,
        f"{memory / 1e6:,.0f} MB",
        f"{peak / 1e6:,.0f} MB",
        f"{memory / peak - 1:+.0%}",
        f"{speed.low:.1f}" if speed.low == speed.high else f"{speed.low:.1f} to {speed.high:.1f}",
        f"{rate:.1f} ({measured['bandwidth_bytes_per_s'] / 1e9:.1f} GB/s)",
        f"{speed.low / rate - 1:+.0%}",
    )


def ask(folder: Path, limits: list[str]) -> tuple[int, int]:
    """Peak bytes of a process that answers, and the tokens of prompt and answer."""
    script = (
        "import sys; from qwencli.app import main\n"
        "code = main()\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr)\n"
        "sys.exit(0)"
    )
    words = ["ask", "-q", "--no-cache", "-m", str(folder), "--json", "--max-tokens", "16", *limits]
    question = " ".join("word" for _ in range(WORDS))
    run = [sys.executable, "-c", script, *words, question]
    done = subprocess.run(run, check=True, capture_output=True, text=True)
    usage = json.loads(done.stdout)["usage"]
    peak = int(done.stderr.split()[-1]) * 1024
    return peak, usage["prompt_tokens"] + usage["completion_tokens"]


def bench(folder: Path, limits: list[str]) -> dict:
    words = ["bench", "-m", str(folder), "--json", "--tokens", str(ANSWER_TOKENS), "--rounds", "3", *limits]
    run = [sys.executable, "-m", "qwencli", *words]
    return json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
