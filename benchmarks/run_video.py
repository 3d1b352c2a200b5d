"""One reading of a clip, in a process of its own: `python -m benchmarks.run_video JOB`, figures on stdout."""

import json
import resource
import sys
import time

from qwencli.media.source import FileSource, read_path
from qwencli.media.video import open_clip


def main() -> None:
    """JOB: `path`; `fps` frames a second or `frames` in all, evenly; their `size` (height, width)."""
    job = json.loads(sys.argv[1])
    start = time.perf_counter()
    source = read_path(job["path"])
    assert isinstance(source, FileSource)
    clip = open_clip(source, print)
    opened_s = time.perf_counter() - start
    step = 1 / job["fps"] if job["fps"] else clip.duration / job["frames"]
    times = [number * step for number in range(int(clip.duration / step + 1e-6))]
    num_frames = sum(frame.shape == (*job["size"], 3) for frame in clip.frames(times, tuple(job["size"])))
    figures = {
        "opened_s": opened_s,
        "frames": num_frames,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
