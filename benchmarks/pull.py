"""How fast a model is fetched and packed: `python benchmarks/synthetic.py 0.8b FOLDER`, then
`python benchmarks/pull.py FOLDER`.

From a server on this machine, a process of its own that sends files without reading them. Prints MB/s of what
is fetched, until the packed model is whole on the disk, and the peak memory.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.hub_server import hub_server

REPO = "acme/synthetic"


def serve(folder: Path) -> None:
    """Until standard input ends."""
    with hub_server() as site:
        site.repos[REPO] = folder
        site.repo_hashes(REPO)  # so that nobody waits for them later
        print(site.url, flush=True)
        sys.stdin.read()


def pull_once(url: str, target: Path) -> tuple[int, float]:
    """Bytes and seconds."""
    from qwen35.backends.native.quantiser import best_quantiser
    from qwen35.weights.pull import pull
    from qwen35.weights.remote import Hub
    from qwencli.folders import Folders

    quantiser, reason = best_quantiser(Folders.locate(os.environ).cache)
    assert not reason, reason
    began = time.perf_counter()
    hub = Hub(url)
    pulled = pull(hub, hub.repo(REPO), target, quantiser=quantiser)
    seconds = time.perf_counter() - began
    hub.close()
    return pulled.bytes_fetched, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="where packed models are put; default: a temporary folder")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--from-url", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments.serve)
    with tempfile.TemporaryDirectory(dir=arguments.work) as made:
        target = Path(made) / "packed"
        if arguments.from_url:
            num_bytes, seconds = pull_once(arguments.from_url, target)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            print(
                f"{num_bytes / 1e9:.2f} GB in {seconds:.1f} s: {num_bytes / 1e6 / seconds:.0f} MB/s, "
                f"{time.process_time():.1f} s of the processor, peak memory {peak / 1e6:.0f} MB"
            )
            return None
        command = [sys.executable, "-m", "benchmarks.pull"]
        server = subprocess.Popen(
            [*command, "--serve", str(arguments.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        for _ in range(arguments.rounds):
            subprocess.run([*command, "--from-url", url, "--work", made], check=True)
            shutil.rmtree(target, ignore_errors=True)
        server.communicate("")
    return None


if __name__ == "__main__":
    main()
