"""One word for a model's weights: two folders with the same are the same model."""

import hashlib
from pathlib import Path

from qwen35.errors import CheckpointError
from qwen35.weights.manifest import is_packed, read_manifest

_HEADER_BYTES = 1 << 20  # of each file, beside its size and age: gigabytes are not read for a name


def fingerprint(folder: Path) -> str:
    """Of a packed model what its manifest says; else of config.json and of the beginning, size and time of
    change of every weight file. Raises CheckpointError."""
    if is_packed(folder):
        return read_manifest(folder).fingerprint
    digest = hashlib.sha256()
    try:
        for path in [folder / "config.json", *sorted(folder.glob("*.safetensors"))]:
            stat = path.stat()
            with path.open("rb") as file:
                beginning = file.read(_HEADER_BYTES)
            digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns} {len(beginning)}\n".encode())
            digest.update(beginning)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read ({error.strerror}).") from None
    return digest.hexdigest()
