"""`--dry-run`: what a batch would cost, from a look at some of its items. No model runs."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from qwencli.batch.prepare import Preparer
from qwencli.batch.speeds import Speed
from qwencli.batch.summary import duration
from qwencli.batch.survey import Survey
from qwencli.render.columns import facts

_SHOWN_ERRORS = 3


@dataclass(frozen=True, slots=True)
class Estimate:
    """Tokens are those of one item, on the average of the `looked_at`. `prompt`: the first one, rendered."""

    items: int
    bad_items: int  # that cannot be asked
    done: int  # in the output
    to_do: int  # of the others, --limit at most
    looked_at: int
    unusable: int  # of these
    prompt_tokens: float
    image_tokens: float
    video_tokens: float
    answer_tokens: float | None  # None: not known
    tokens_per_s: float | None
    prompt: str
    errors: tuple[str, ...]

    @property
    def seconds(self) -> float | None:
        if not self.tokens_per_s or self.answer_tokens is None:
            return None
        return self.to_do * (self.prompt_tokens + self.answer_tokens) / self.tokens_per_s

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"seconds": self.seconds, "errors": list(self.errors)}

    def text(self) -> str:
        """For a person."""
        left = [f"{self.done:,} in the output already"] if self.done else []
        left += [f"{self.bad_items:,} that cannot be asked"] if self.bad_items else []
        rows = {"items": f"{self.items:,}" + (f" ({', '.join(left)})" if left else "")}
        if self.to_do < self.items:
            rows["items"] += f"; {self.to_do:,} to ask"
        media = {"pictures": self.image_tokens, "videos": self.video_tokens}
        of = "".join(f", {tokens:,.0f} of {what}" for what, tokens in media.items() if tokens)
        rows["prompts"] = (
            f"{self.prompt_tokens:,.0f} tokens each{of}; {self.to_do * self.prompt_tokens:,.0f} in all "
            f"({self.looked_at:,} of the items looked at)"
        )
        if self.unusable:
            rows["unusable"] = f"{self.unusable:,} of those looked at: {'; '.join(self.errors)}"
        if self.seconds is None:
            rows["time"] = "not known: this model has run no batch here; --limit 5 runs a small one"
        else:
            rows["answers"] = (
                f"about {self.answer_tokens:,.0f} tokens each, as in this model's last batch here"
            )
            rows["time"] = (
                f"about {duration(self.seconds)}, at the {self.tokens_per_s:,.0f} tokens/s of that batch"
            )
        return f"{self.prompt.rstrip()}\n\n{facts(rows)}"


def estimate(
    found: Survey,
    limit: int | None,
    preparer: Preparer,
    speed: Speed | None,
    on_progress: Callable[[int, int], None],
) -> Estimate:
    """Read and tokenise the survey's sample; `on_progress` gets how many of how many."""
    prompts, errors, first = [], [], ""
    for number, item in enumerate(found.sample):
        on_progress(number, len(found.sample))
        prepared = preparer.prepare(item)
        if prepared.prompt is None:
            errors.append(str(prepared.error).rstrip("."))
            continue
        first = first or prepared.prompt.prompt
        num_tokens, num_video = len(prepared.prompt.ids), prepared.prompt.video_tokens
        if prepared.windows:
            num_tokens += prepared.windows.num_tokens - num_video
            num_video = prepared.windows.num_tokens
        prompts.append((num_tokens, prepared.prompt.image_tokens, num_video))
    answer_tokens = speed.answer_tokens if speed else None
    if answer_tokens is not None and preparer.settings.max_tokens is not None:
        answer_tokens = min(answer_tokens, float(preparer.settings.max_tokens))
    prompt_tokens, image_tokens, video_tokens = map(fmean, zip(*prompts or [(0, 0, 0)], strict=True))
    return Estimate(
        found.num_items,
        found.num_bad,
        found.num_done,
        found.num_to_do if limit is None else min(limit, found.num_to_do),
        len(found.sample),
        len(errors),
        prompt_tokens,
        image_tokens,
        video_tokens,
        answer_tokens,
        speed.tokens_per_s if speed else None,
        first,
        tuple(errors[:_SHOWN_ERRORS]),
    )
