"""One reading of a clip, in a process of its own: `python -m benchmarks.run_video JOB`, figures on stdout."""

import json
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwencli.media.source import FileSource, read_path

if TYPE_CHECKING:
    from qwencli.media.video import VideoClip


def main() -> None:
    """JOB: `path`; frames alone (`read`), or also what a `model` answers (`ask`)."""
    job = json.loads(sys.argv[1])
    start = time.perf_counter()
    source = read_path(job["path"])
    assert isinstance(source, FileSource)
    from qwencli.media.video import (
        open_clip,
    )  # here, as `qwen ask` has it: the file is being hashed meanwhile

    loaded = time.perf_counter()
    clip = open_clip(source, print)
    assert clip.sha256  # without which no program would go on
    figures = {"opened_s": time.perf_counter() - start} | (ask if "model" in job else read)(clip, job)
    figures["work_s"] = time.perf_counter() - loaded  # without the start of Python and its modules
    figures["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(figures))


def read(clip: "VideoClip", job: dict[str, Any]) -> dict[str, Any]:
    """`fps` frames a second or `frames` in all, evenly; their `size` (height, width)."""
    step = 1 / job["fps"] if job["fps"] else clip.duration / job["frames"]
    times = [number * step for number in range(int(clip.duration / step + 1e-6))]
    return {
        "frames": sum(frame.shape == (*job["size"], 3) for frame in clip.frames(times, tuple(job["size"])))
    }


def ask(clip: "VideoClip", job: dict[str, Any]) -> dict[str, Any]:
    """A token of an answer about `fps` frames a second of natural size; in windows of `window_s`, or not."""
    from qwen35.engine.load import load_engine
    from qwen35.engine.request import Request, SamplingOverrides
    from qwen35.engine.walk import walk
    from qwen35.engine.windows import Windows
    from qwen35.events import Finished
    from qwen35.messages import Message, Sampling, TextPart, VideoPart
    from qwen35.state import kv_bytes_per_token

    engine = load_engine(Path(job["model"]), device="cpu")
    part = VideoPart(clip, Sampling(fps=job["fps"], max_tokens=10**9))
    message = Message("user", (part, TextPart("What happens?")))
    request = Request((message,), sampling=SamplingOverrides(temperature=0.0), max_tokens=1)
    if job["window_s"]:
        events = engine.run(walk(engine, Windows.plan(engine.processor, request, job["window_s"])))
    else:
        events = engine.generate(request)
    *_, finished = events
    assert isinstance(finished, Finished)
    text = engine.processor.config.text
    return {
        "frames": int(clip.duration * job["fps"]),
        "tokens": finished.usage.prompt_tokens,
        "kv_bytes_per_token": kv_bytes_per_token(text, engine.backend.new_state().dtype),
    }


if __name__ == "__main__":
    main()
