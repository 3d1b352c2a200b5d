"""How fast the disk gives records, read as experts and layers are: several at once, past the cache."""

import contextlib
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from qwen35.experts.files import ALIGNMENT, RecordFile
from qwen35.memory import allocate

PROBE_BYTES = 128 << 20
RECORD_BYTES = 2 << 20  # an expert of the 35B
_NUM_READERS = 4  # at once


def disk_speed(folder: Path) -> float | None:
    """Bytes per second from the disk of `folder`, measured on a file that is written there and removed.

    None where there is no room or no right to write.
    """
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".qwen-probe-") as file:
            block = np.random.default_rng(0).bytes(RECORD_BYTES)  # disks may compress
            for _ in range(PROBE_BYTES // RECORD_BYTES):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            return _read_speed(file.name)
    except OSError:
        return None


def _read_speed(path: str) -> float:
    record_file = RecordFile(path)
    assert RECORD_BYTES % ALIGNMENT == 0
    slots = [memoryview(allocate(RECORD_BYTES)) for _ in range(_NUM_READERS)]
    order = np.random.default_rng(0).permutation(PROBE_BYTES // RECORD_BYTES)

    def read(number: int) -> None:
        for record in order[number::_NUM_READERS]:
            record_file.read_into(int(record) * RECORD_BYTES, slots[number])

    with contextlib.closing(record_file), ThreadPoolExecutor(_NUM_READERS) as pool:
        start = time.perf_counter()
        list(pool.map(read, range(_NUM_READERS)))
        return PROBE_BYTES / (time.perf_counter() - start)
