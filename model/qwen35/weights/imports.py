"""What became of weights that the source had quantised already, summed up from the manifest."""

from dataclasses import dataclass
from math import prod

from qwen35.weights.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Imported:
    """Weights that came in one encoding and are packed in one format; `relative_error` 0: as they were."""

    encoding: str
    format: str
    parameters: int
    relative_error: float


def imported(manifest: Manifest) -> list[Imported]:
    """The largest part first; nothing for a source that was not quantised."""
    sums: dict[tuple[str, str], tuple[int, float]] = {}
    for name, entry in manifest.imports.items():
        if name in manifest.tensors:
            tensor = manifest.tensors[name]
            format_name, number = tensor.format, prod(tensor.shape)
        else:
            experts = manifest.experts[name]
            format_name = experts.format
            number = experts.count * sum(prod(part.shape) for part in experts.parts.values())
        key = entry.encoding, format_name
        before, squares = sums.get(key, (0, 0.0))
        sums[key] = before + number, squares + number * entry.relative_error**2
    found = [
        Imported(*key, number, float(f"{(squares / number) ** 0.5:.3g}"))
        for key, (number, squares) in sums.items()
    ]
    return sorted(found, key=lambda each: -each.parameters)
