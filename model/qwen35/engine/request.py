"""What one question asks of the engine, and the checkpoint's own defaults for what it leaves open."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from qwen35.config import read_json
from qwen35.engine.sampler import SamplingParams
from qwen35.errors import CheckpointError
from qwen35.messages import Message
from qwen35.processing.image import TokenBounds


@dataclass(frozen=True, slots=True)
class SamplingOverrides:
    """What the user set; None leaves a value to the checkpoint."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None

    def over(self, params: SamplingParams) -> SamplingParams:
        chosen = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}
        return replace(params, **chosen)


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer has to look like. `source`: a JSON Schema as JSON, a regular expression of Rust's kind
    that all of the answer matches, or a grammar in llguidance's dialect of Lark."""

    kind: Literal["json_schema", "regex", "lark"]
    source: str


@dataclass(frozen=True, slots=True)
class Request:
    messages: tuple[Message, ...]
    thinking: bool | None = None  # None: as the chat template defaults
    thinking_budget: int | None = None  # reasoning tokens, after which the block is closed
    sampling: SamplingOverrides = SamplingOverrides()
    max_tokens: int | None = None  # generated, reasoning included; None: what the context leaves
    stop: tuple[str, ...] = ()
    seed: int | None = None  # None: another answer each time, unless the temperature is 0
    image_bounds: TokenBounds | None = None  # None: the checkpoint's
    max_context: int | None = None  # tokens of prompt and answer; None: the checkpoint's
    grammar: Grammar | None = None  # of the answer, not of what is thought before it
    logprobs: bool = False  # whether Finished has those of the answer's tokens
    ends_loops: bool = False  # an answer that repeats itself without end; see engine.loops
    # What is wrong with a whole answer, None for nothing: then it is asked for once more; see engine.again.
    fault: Callable[[str], str | None] | None = None


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """generation_config.json: how the checkpoint wants to be sampled, and where answers end."""

    sampling: SamplingParams
    stop_ids: frozenset[int]

    @classmethod
    def from_folder(cls, folder: Path) -> "GenerationDefaults":
        """Raises CheckpointError for a missing file, a missing end token or a wrong type."""
        path = folder / "generation_config.json"
        return cls.from_dict(read_json(path), str(path))

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> "GenerationDefaults":
        stop = values.get("eos_token_id")
        stop_ids = [stop] if isinstance(stop, int) else stop
        if not stop_ids or not all(isinstance(i, int) for i in stop_ids):
            raise CheckpointError(f"{where}: 'eos_token_id' is {stop!r}, expected one or more token ids.")
        given: dict[str, Any] = {}
        for field in fields(SamplingParams):
            value = values.get(field.name)
            if value is None:
                continue
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise CheckpointError(f"{where}: '{field.name}' is {value!r}, expected a number.")
            given[field.name] = value
        # The format's own switch: without do_sample the file asks for the likeliest token.
        if not values.get("do_sample", False):
            given["temperature"] = 0.0
        return cls(SamplingParams(**given), frozenset(stop_ids))
