"""What `qwen models ls --known` shows: the catalogue, and the user's own names."""

from collections.abc import Mapping
from typing import Any

from qwen35.weights.catalogue import RELEASES, SIZES, Release
from qwen35.weights.plan import forecast


def published(own_models: Mapping[str, str]) -> list[dict[str, Any]]:
    """The user's own names first; None stands for what only the repository tells."""
    packed = {size: forecast(shape.config, "q4").data_bytes for size, shape in SIZES.items()}
    own = [
        {"name": name, "repo": repo} | dict.fromkeys(("parameters", "fetch_bytes", "packed_bytes", "license"))
        for name, repo in own_models.items()
    ]
    return own + [
        _row(release, packed[release.size]) for release in RELEASES if release.alias not in own_models
    ]


def _row(release: Release, packed_bytes: int) -> dict[str, Any]:
    return {
        "name": release.alias,
        "repo": release.repo,
        "parameters": SIZES[release.size].num_parameters,
        "fetch_bytes": release.download_bytes,
        "packed_bytes": packed_bytes,
        "license": release.license,
    }
