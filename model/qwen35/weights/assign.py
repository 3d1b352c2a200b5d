"""Which tensor of the files fills which parameter, decided from the headers alone.

So whatever is missing, unknown or misshapen is said before any data is read.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from qwen35.config import ModelConfig
from qwen35.errors import CheckpointError
from qwen35.weights.names import Place, expert_places, place_of

HEAD = "lm_head.weight"
NUM_NAMED = 5  # tensors of each kind that an error names; the rest are counted


class Placed(Protocol):
    """A tensor of the files: what is decided here needs its shape and where its data begin."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def path(self) -> Path: ...

    @property
    def begin(self) -> int: ...


class Tensors(Protocol):
    """A checkpoint, or a source for packing."""

    @property
    def path(self) -> Path: ...

    @property
    def tensors(self) -> Mapping[str, Placed]: ...


def config_for(checkpoint: Tensors, config: ModelConfig) -> ModelConfig:
    """`config` with the MTP module that the files hold: re-saves often drop it and keep the key."""
    has_mtp = any(place_of(name).parameter.startswith("mtp.") for name in checkpoint.tensors)
    return replace(config, text=replace(config.text, num_mtp_layers=int(has_mtp)))


def assign(checkpoint: Tensors, shapes: Mapping[str, tuple[int, ...]], *, is_tied: bool) -> dict[str, Place]:
    """Where each tensor to be read goes, in the order in which they lie in the files.

    `shapes` are those of the parameters. The head of a tied model is the embedding: a copy of it in
    the files is left unread. Raises one CheckpointError for all that does not fit.
    """
    names: dict[Place, str] = {}
    unknown = []
    for name in _in_file_order(checkpoint):
        place = place_of(name)
        if is_tied and place.parameter == HEAD:
            continue
        if place in names:
            unknown.append(f"{name} (the same as {names[place]})")
        names.setdefault(place, name)
    wanted = _wanted_places(shapes, names)
    unknown += [name for place, name in names.items() if place not in wanted]
    missing = [str(place) for place in wanted if place not in names]
    misshapen = [
        f"{name} is {list(found)}, expected {list(wanted[place])}"
        for place, name in names.items()
        if place in wanted and (found := checkpoint.tensors[name].shape) != wanted[place]
    ]
    problems = {"missing": missing, "unknown": unknown, "of another shape": misshapen}
    if any(problems.values()):
        raise _does_not_fit(checkpoint.path, problems)
    return {name: place for place, name in names.items()}


def _in_file_order(checkpoint: Tensors) -> Iterable[str]:
    def position(name: str) -> tuple[Path, int]:
        return checkpoint.tensors[name].path, checkpoint.tensors[name].begin

    return sorted(checkpoint.tensors, key=position)


def _wanted_places(
    shapes: Mapping[str, tuple[int, ...]], found: Container[Place]
) -> dict[Place, tuple[int, ...]]:
    """Every place to fill and its shape. A fused parameter is filled whole, unless its experts were found."""
    wanted: dict[Place, tuple[int, ...]] = {}
    for parameter, shape in shapes.items():
        pieces = list(expert_places(parameter, shape))
        if Place(parameter) in found or not any(piece in found for piece in pieces):
            pieces = [Place(parameter)]
        wanted |= {place: place.shape(shape) for place in pieces}
    return wanted


def _does_not_fit(path: Path, problems: Mapping[str, list[str]]) -> CheckpointError:
    cases = [
        f"{len(names)} {kind}: {', '.join(names[:NUM_NAMED])}{', ...' if len(names) > NUM_NAMED else ''}"
        for kind, names in problems.items()
        if names
    ]
    return CheckpointError(
        f"{path}: the weight files do not fit config.json. Tensors {'; '.join(cases)}.", path=str(path)
    )
