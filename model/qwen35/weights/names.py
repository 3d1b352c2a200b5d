"""From the names in checkpoint files to the parameters of our module tree.

Ours are the official names without the leading `model.`. Re-saves move prefixes about, and experts
come fused or one by one; each name leads to one place.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

Projection = Literal["gate", "up", "down"]

# The first that matches is taken.
_PREFIXES = (
    ("model.language_model.visual.", "visual."),
    ("model.language_model.", "language_model."),
    ("model.visual.", "visual."),
    ("model.mtp.", "mtp."),
    ("model.", "language_model."),  # re-saves of the text model alone
)
_EXPERT = re.compile(r"(.+\.mlp\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")
_FUSED: dict[str, tuple[Projection, ...]] = {
    ".mlp.experts.gate_up_proj": ("gate", "up"),
    ".mlp.experts.down_proj": ("down",),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file's tensor belongs: a whole parameter, or one expert's projection in a fused one."""

    parameter: str
    expert: int | None = None
    projection: Projection | None = None

    def __str__(self) -> str:
        if self.expert is None:
            return self.parameter
        experts = self.parameter.rpartition(".")[0]
        return f"{experts}.{self.expert}.{self.projection}_proj.weight"

    def index(self, shape: tuple[int, ...]) -> tuple[int | slice, ...]:
        """Of this place in its parameter of `shape`: (E, 2I, D) with gate rows first, or (E, D, I)."""
        if self.expert is None:
            return ()
        if self.projection == "down":
            return (self.expert,)
        half = shape[1] // 2
        return self.expert, slice(0, half) if self.projection == "gate" else slice(half, None)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of this place's tensor, where the parameter has `shape`."""
        if self.expert is None:
            return shape
        rows = shape[1] if self.projection == "down" else shape[1] // 2
        return rows, shape[2]


def place_of(name: str) -> Place:
    """The place of the tensor that a checkpoint file calls `name`."""
    for prefix, ours in _PREFIXES:
        if name.startswith(prefix):
            name = ours + name.removeprefix(prefix)
            break
    match = _EXPERT.fullmatch(name)
    if match is None:
        return Place(name)
    experts, expert = match[1], int(match[2])
    projection = cast(Projection, match[3])
    fused = "down_proj" if projection == "down" else "gate_up_proj"
    return Place(f"{experts}.{fused}", expert, projection)


def expert_places(parameter: str, shape: tuple[int, ...]) -> Iterator[Place]:
    """The places that together fill a fused `parameter` of `shape`; none for any other parameter."""
    for ending, projections in _FUSED.items():
        if parameter.endswith(ending):
            for expert in range(shape[0]):
                for projection in projections:
                    yield Place(parameter, expert, projection)
