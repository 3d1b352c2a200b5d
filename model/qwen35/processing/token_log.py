"""Past answers in a prompt by the very ids that the model wrote, wherever their text stands there unchanged.

What is sampled is not always what the tokenizer makes of its text. Tokenised again, such an answer would be
other ids than those whose state was saved, and the model would see what it did not write.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qwen35.messages import Message
from qwen35.processing.boundaries import MESSAGE_START
from qwen35.processing.tokenizer import Tokenizer

MESSAGE_END = "<|im_end|>"
THINK_START, THINK_END = "<think>", "</think>"
_ANSWER_START = f"{MESSAGE_START}assistant"


@dataclass(frozen=True, slots=True)
class Logged:
    """These `ids` are prompt[start : end], a past answer or the end of one."""

    start: int
    end: int
    ids: tuple[int, ...]


def find_logged(prompt: str, messages: Sequence[Message], tokenizer: Tokenizer) -> tuple[Logged, ...]:
    """Of a rendered `prompt`, in order. `messages` are those it was rendered from, protected.

    An answer that the template shows otherwise than it was written has none, nor one without `token_ids`.
    """
    answers = [message for message in messages if message.role == "assistant"]
    last_end = prompt.rfind(MESSAGE_END)
    starts = [start for start in _occurrences(prompt, _ANSWER_START) if start < last_end]
    if len(starts) != len(answers):  # a template of another family
        return ()
    found = []
    for start, answer in zip(starts, answers, strict=True):
        end = prompt.index(MESSAGE_END, start)
        for ids in _forms(answer.token_ids or (), tokenizer):
            text = tokenizer.spelled(ids)
            shown = tokenizer.protect(text, special_only=True) if text else ""
            if shown and prompt.endswith(shown, start + len(_ANSWER_START), end):
                found.append(Logged(end - len(shown), end, ids))
                break
    return tuple(found)


def encode(
    prompt: str, logged: Sequence[Logged], tokenizer: Tokenizer, start: int = 0, end: int | None = None
) -> list[int]:
    """Ids of prompt[start:end], which ends within none of `logged`."""
    ids: list[int] = []
    for answer in logged:
        if start <= answer.start and (end is None or answer.end <= end):
            ids += tokenizer.encode(prompt[start : answer.start])
            ids += answer.ids
            start = answer.end
    return ids + tokenizer.encode(prompt[start:end])


def _forms(ids: tuple[int, ...], tokenizer: Tokenizer) -> Iterator[tuple[int, ...]]:
    """How a template may show what was written: with the reasoning, or without; the longest first."""
    yield _without_newlines(ids, tokenizer)
    think_end = tokenizer.id_of(THINK_END)
    if think_end in ids:
        last = len(ids) - 1 - ids[::-1].index(think_end)
        yield _without_newlines(ids[last + 1 :], tokenizer)


def _without_newlines(ids: tuple[int, ...], tokenizer: Tokenizer) -> tuple[int, ...]:
    """Without whole tokens of newlines at both ends, which are the template's business."""
    start, end = 0, len(ids)
    while start < end and _is_newlines(ids[start], tokenizer):
        start += 1
    while start < end and _is_newlines(ids[end - 1], tokenizer):
        end -= 1
    return ids[start:end]


def _is_newlines(token_id: int, tokenizer: Tokenizer) -> bool:
    text = tokenizer.spelled((token_id,)) or ""
    return text != "" and not text.strip("\n")


def _occurrences(text: str, part: str) -> Iterator[int]:
    place = text.find(part)
    while place >= 0:
        yield place
        place = text.find(part, place + len(part))
