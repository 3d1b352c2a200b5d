"""What `--json` prints: one object for one question, with the same keys whatever the end.

`--jsonl` ends with the same object as its last line.
"""

import uuid
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from qwen35.events import (
    Event,
    ExpertUse,
    Finished,
    Note,
    Prefilled,
    ReasoningDelta,
    Speculated,
    TextDelta,
    Timings,
    TokenLogprob,
    Usage,
    WindowAnswered,
)
from qwencli.render.columns import facts, size
from qwencli.render.output import Output

if TYPE_CHECKING:
    from qwencli.structured.where import Place

SCHEMA_VERSION = 1

Style = Literal["text", "json", "jsonl"]


@dataclass(slots=True)
class Record:
    """Mutable: `qwen ask` and the events fill it while the run goes on; `qwencli.app` owns it.

    So a failure at any point can be printed with all that was known by then.
    """

    id: str = field(default_factory=lambda: f"ask-{uuid.uuid4().hex}")
    item: str | None = None  # of a batch: what it calls the one that was asked about
    model: str | None = None
    backend: str | None = None  # what it ran on
    attachments: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    prompt: str | None = None  # set by --dry-run alone
    load_s: float = 0.0
    answer: str | None = None
    data: Any = None  # what an answer by a schema holds; with --n a list of what each does
    where: "list[Place] | None" = None  # the data's values were found
    others: list[str] = field(default_factory=list)  # more answers to the same question
    logprobs: tuple[TokenLogprob, ...] | None = None
    reasoning: str | None = None
    windows: list[WindowAnswered] = field(default_factory=list)  # of a clip, answered one by one
    finish_reason: str | None = None
    chat_id: str | None = None
    miss_reason: str | None = None  # why not more tokens were reused
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    experts: ExpertUse | None = None  # of a model whose experts are not all in memory
    layers: ExpertUse | None = None  # of one whose layers are not
    speculated: Speculated | None = None  # where tokens were drafted ahead
    _is_printed: bool = False

    def take(self, event: Event) -> None:
        match event:
            case Note(text):
                self.notes.append(text)
            case TextDelta(text):
                self.answer = (self.answer or "") + text
            case ReasoningDelta(text):
                self.reasoning = (self.reasoning or "") + text
            case WindowAnswered():
                self.windows.append(event)
            case Prefilled():
                self.miss_reason = event.miss_reason
            case Finished():
                self.answer = event.answer
                self.reasoning = event.reasoning or None
                self.finish_reason = event.reason
                self.usage = event.usage
                self.timings = event.timings
                self.experts = event.experts
                self.layers = event.layers
                self.speculated = event.speculated
                self.logprobs = event.logprobs
                self._take_others(event.others)

    def _take_others(self, others: tuple[Finished, ...]) -> None:
        """The whole is as good as its worst answer, and costs what all do."""
        self.others = [other.answer for other in others]
        for other in others:
            if self.finish_reason == "stop":
                self.finish_reason = other.reason
            self.usage = replace(
                self.usage,
                completion_tokens=self.usage.completion_tokens + other.usage.completion_tokens,
                reasoning_tokens=self.usage.reasoning_tokens + other.usage.reasoning_tokens,
            )

    @property
    def is_incomplete(self) -> bool:
        """Whether the answer ended before it was whole, or what was asked for."""
        return self.finish_reason in ("length", "loop", "schema")

    def set_prompt(self, prompt: str, num_tokens: int, num_image_tokens: int, num_video_tokens: int) -> None:
        """The rendered prompt of a run that asks no model."""
        self.prompt = prompt
        self.usage = Usage(num_tokens, image_tokens=num_image_tokens, video_tokens=num_video_tokens)

    def prompt_report(self) -> str:
        """The same for a person."""
        lines = [(self.prompt or "").rstrip("\n"), ""]
        for item in self.attachments:
            lines.append(f"{item['tokens']:>8,} tokens  {item['type']:5}  {item['source']}")
        lines.append(f"{self.usage.prompt_tokens:>8,} tokens  in all")
        return "\n".join(lines) + "\n"

    def figures(self) -> str:
        """Counts and times for a person."""
        usage, times = self.usage, self.timings
        shown = {"pictures": usage.image_tokens, "videos": usage.video_tokens}
        media = ", ".join(f"{count:,} of {what}" for what, count in shown.items() if count)
        reasoning = f" ({usage.reasoning_tokens:,} of reasoning)" if usage.reasoning_tokens else ""
        on_disk = {
            name: f"{use.hit_rate:.0%} of {use.hits + use.misses:,} in memory, "
            f"{size(use.bytes_read)} read, {use.stall_s:.1f} s waited for the disk"
            for name, use in (("experts", self.experts), ("layers", self.layers))
            if use
        }
        return facts(
            {
                "model": f"{self.model}, loaded in {self.load_s:.1f} s, on {self.backend}",
                "prompt": f"{usage.prompt_tokens:,} tokens{f' ({media})' if media else ''}, "
                f"{times.media_s + times.prefill_s:.2f} s, {times.prefill_tokens_per_s:,.0f} tokens/s",
                "reused": f"{usage.cached_tokens:,} of {usage.prompt_tokens:,} tokens"
                + (f"; {self.miss_reason}" if self.miss_reason else ""),
                "answer": f"{usage.completion_tokens:,} tokens{reasoning}, {times.decode_s:.2f} s, "
                f"{times.decode_tokens_per_s:,.1f} tokens/s",
                "first": f"token after {times.first_token_s:.2f} s",
            }
            | on_disk
            | self._drafts()
        )

    def _drafts(self) -> dict[str, str]:
        use = self.speculated
        if use is None:
            return {}
        return {
            "drafts": f"{use.accepted:,} of {use.drafted:,} came ({use.acceptance:.0%}), checked in "
            f"{use.passes:,} passes"
        }

    def to_dict(self, error: dict[str, Any] | None = None) -> dict[str, Any]:
        """The object. `error` is that of `error_dict`; with one there is no answer."""
        answer = None if error else self.answer
        timings = {"load_s": self.load_s} | asdict(self.timings)
        values = {
            "schema_version": SCHEMA_VERSION,
            "id": self.id,
            "item": self.item,
            "model": self.model,
            "backend": self.backend,
            "answer": answer,
            "answers": [] if answer is None else [w.answer for w in self.windows] or [answer, *self.others],
            "data": None if error else self.data,
            "where": None if error or self.where is None else [asdict(place) for place in self.where],
            "reasoning": self.reasoning,
            "logprobs": [asdict(each) for each in self.logprobs] if self.logprobs is not None else None,
            "finish_reason": "error" if error else self.finish_reason,
            "usage": asdict(self.usage),
            "timings": {name: round(value, 4) for name, value in timings.items()},
            "attachments": self.attachments,
            "chat_id": self.chat_id,
            "cache": {"reused_tokens": self.usage.cached_tokens, "reason": self.miss_reason},
            "experts": self.experts.to_dict() if self.experts else None,
            "layers": self.layers.to_dict() if self.layers else None,
            "speculated": self.speculated.to_dict() if self.speculated else None,
            "windows": [asdict(window) for window in self.windows] or None,
            "notes": self.notes,
            "error": error,
        }
        return values if self.prompt is None else values | {"prompt": self.prompt}

    def print(self, output: Output, style: Style, error: dict[str, Any] | None = None) -> None:
        """Write the object, once: an interrupt on the way out must not make a second one."""
        if self._is_printed:
            return
        self._is_printed = True
        if style == "jsonl":
            output.print_line({"type": "result"} | self.to_dict(error))
        else:
            output.print_json(self.to_dict(error))


def error_dict(code: int, kind: str, message: str, path: str | None) -> dict[str, Any]:
    """`kind` is the stable word for programs, `path` the file, folder or URL at fault if there is one."""
    return {"code": code, "kind": kind, "message": message, "path": path}
