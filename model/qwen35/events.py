"""What the engine tells while it works. Renderers, JSON, batch and server consume the same events."""

from dataclasses import asdict, dataclass, field
from typing import Literal

# length: cut. loop: it repeated itself. schema: it ended, but not as its grammar or schema wants.
FinishReason = Literal["stop", "length", "loop", "schema", "interrupted"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of tokens. `prompt_tokens` includes image and video tokens and those taken from a cache."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    image_tokens: int = 0
    video_tokens: int = 0
    completion_tokens: int = 0  # everything generated, reasoning included
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of wall clock, and rates of tokens per second (0 where nothing was measured)."""

    media_s: float = 0.0  # frames decoded, pictures and frames through the vision encoder
    prefill_s: float = 0.0
    first_token_s: float = 0.0  # from the start of the request to its first token
    decode_s: float = 0.0
    prefill_tokens_per_s: float = 0.0
    decode_tokens_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ExpertUse:
    """Experts that a request needed, each counted once in a layer and a call of it; or layers, once a step.

    `hits` were in memory, `misses` were read from the disk; `stall_s`: seconds of waiting for the disk with
    nothing left to compute; `arena_bytes`: memory that holds experts, or layers; `bytes_wasted`: of those
    read, what was guessed to be needed and was not.
    """

    hits: int = 0
    misses: int = 0
    bytes_read: int = 0
    stall_s: float = 0.0
    arena_bytes: int = 0
    bytes_wasted: int = 0

    @property
    def hit_rate(self) -> float:
        return self.hits / (self.hits + self.misses) if self.hits + self.misses else 0.0

    def to_dict(self) -> dict[str, float]:
        return asdict(self) | {"hit_rate": round(self.hit_rate, 4), "stall_s": round(self.stall_s, 4)}

    def since(self, earlier: "ExpertUse") -> "ExpertUse":
        return ExpertUse(
            self.hits - earlier.hits,
            self.misses - earlier.misses,
            self.bytes_read - earlier.bytes_read,
            self.stall_s - earlier.stall_s,
            self.arena_bytes,
            self.bytes_wasted - earlier.bytes_wasted,
        )


@dataclass(frozen=True, slots=True)
class Speculated:
    """Tokens that were drafted ahead, those of them that came, and the passes that checked them."""

    drafted: int
    accepted: int
    passes: int

    @property
    def acceptance(self) -> float:
        """Of the drafts."""
        return self.accepted / self.drafted if self.drafted else 0.0

    def to_dict(self) -> dict[str, float]:
        return asdict(self) | {"acceptance": round(self.acceptance, 4)}


@dataclass(frozen=True, slots=True)
class PictureProgress:
    """`done` of `total` image and video tokens have come out of the vision encoder.

    They do when their turn in the prompt comes. Until all have, this tells how far a prompt is, and no
    PrefillProgress is told between.
    """

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """`done` of `total` prompt tokens have gone through the model."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The prompt is through; the next event carries text."""

    prompt_tokens: int
    cached_tokens: int  # of them, whose state was saved before
    seconds: float
    miss_reason: str | None = None  # why not more of them; None where there could not be


@dataclass(frozen=True, slots=True)
class Note:
    """Something a person should know: a resize, a slow path. One line, no trailing full stop needed."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    text: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, slots=True)
class WindowAnswered:
    """The seconds [start_s, end_s) of a clip that is walked through in windows have their own answer, which
    the deltas since the one before gave."""

    start_s: float
    end_s: float
    answer: str
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of an answer, and the logarithm of its probability before anything restricted the choice; None
    where there was none. `token` is its text; a part of a character shows as U+FFFD."""

    token: str
    logprob: float | None


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a request. `answer` and `reasoning` are whole, as the deltas gave them.

    `token_ids` are what the model wrote, reasoning included, without the token that ends it. `experts`: of
    a model whose experts are not all in memory; `layers`: of one whose layers are not. `logprobs`: of the
    answer's tokens, if asked for. `others`: more answers to the same request. `speculated`: where tokens were
    drafted ahead.
    """

    reason: FinishReason
    answer: str
    reasoning: str
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    token_ids: tuple[int, ...] = ()
    experts: ExpertUse | None = None
    layers: ExpertUse | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    others: "tuple[Finished, ...]" = ()
    speculated: Speculated | None = None


Event = (
    PictureProgress
    | PrefillProgress
    | Prefilled
    | Note
    | ReasoningDelta
    | TextDelta
    | WindowAnswered
    | Finished
)
