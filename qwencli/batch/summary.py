"""What came of a batch, in numbers."""

import time
from dataclasses import dataclass, field
from typing import Any

from qwen35.events import Usage


@dataclass(slots=True)
class Summary:
    """Mutable: counted while the batch runs. Tokens are those computed: prompts less what was reused."""

    num_items: int
    answered: int = 0
    incomplete: int = 0  # of these: cut, in a loop, not by the schema
    failed: int = 0
    skipped: int = 0  # done before
    failed_before: int = 0  # of these
    incomplete_before: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    load_s: float = 0.0
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    @property
    def done(self) -> int:
        return self.answered + self.failed + self.skipped

    @property
    def computed_tokens(self) -> int:
        return self.prompt_tokens - self.cached_tokens + self.completion_tokens

    def begin(self) -> None:
        """The model is ready: seconds count from here."""
        self.started = time.monotonic()

    def end(self) -> None:
        self.seconds = time.monotonic() - self.started

    def count(self, usage: Usage, *, is_incomplete: bool) -> None:
        """One more answer."""
        self.answered += 1
        self.incomplete += is_incomplete
        self.prompt_tokens += usage.prompt_tokens
        self.cached_tokens += usage.cached_tokens
        self.completion_tokens += usage.completion_tokens

    def items_per_s(self) -> float:
        return self.answered / self.seconds if self.seconds else 0.0

    def tokens_per_s(self) -> float:
        elapsed = self.seconds or time.monotonic() - self.started
        return self.computed_tokens / elapsed if elapsed else 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "items": self.num_items,
            "answered": self.answered,
            "incomplete": self.incomplete,
            "failed": self.failed,
            "skipped": self.skipped,
            "failed_before": self.failed_before,
            "incomplete_before": self.incomplete_before,
            "usage": {
                "prompt_tokens": self.prompt_tokens,
                "cached_tokens": self.cached_tokens,
                "completion_tokens": self.completion_tokens,
            },
            "timings": {"load_s": round(self.load_s, 4), "run_s": round(self.seconds, 4)},
            "items_per_s": round(self.items_per_s(), 4),
            "tokens_per_s": round(self.tokens_per_s(), 2),
        }

    def text(self, output: str | None) -> str:
        """For a person; `output`: the file that can be gone on with, None where there is none."""
        parts = [f"{self.answered:,} of {self.num_items:,} items answered"]
        if self.skipped:
            kinds = {"failed": self.failed_before, "incomplete": self.incomplete_before}
            found = ", ".join(f"{number:,} {kind}" for kind, number in kinds.items() if number)
            before = found and f" (of them {found})"
            were = "was" if self.skipped == 1 else "were"
            parts.append(f"{self.skipped:,} {were} done before{before}")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        if left := self.num_items - self.done:
            parts.append(f"{left:,} left")
        lines = [", ".join(parts)]
        if self.answered:
            lines[0] += (
                f"; {self.computed_tokens:,} tokens in {duration(self.seconds)} ({self.items_per_s():,.1f} "
                f"items/s, {self.tokens_per_s():,.0f} tokens/s)"
            )
        if incomplete := self.incomplete + self.incomplete_before:
            number = "1 answer is" if incomplete == 1 else f"{incomplete:,} answers are"
            again = "; --retry-incomplete asks again, perhaps with a larger --max-tokens or --ctx"
            lines.append(f"{number} incomplete: 'finish_reason' says why{again if output else ''}")
        if failed := self.failed + self.failed_before:
            again = "; --retry-failed asks those items again"
            lines.append(f"each failure is told in {output or 'the output'}{again if output else ''}")
        if left and output:
            lines.append("the same command goes on where this one stopped")
        if not output and (left or incomplete or failed):
            lines.append("with -o FILE the same command goes on where it stopped, and can ask again")
        return "".join(f"{line}\n" for line in lines)


def duration(seconds: float) -> str:
    """12.3 s, 4:05, 2:03:04."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
