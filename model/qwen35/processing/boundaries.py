"""Where in a prompt someone may come back to: after a message, a picture, a clip, a document.

Only the cache's yield depends on these places, never what is found there.
"""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from qwen35.processing.tokenizer import Tokenizer

MESSAGE_START = "<|im_start|>"


@dataclass(frozen=True, slots=True)
class Boundaries:
    """Numbers of ids, ascending, before placeholders are expanded. `documents` are among `all`."""

    all: tuple[int, ...]
    documents: tuple[int, ...]  # ends of pictures, clips, and texts that something follows in their message


def find_boundaries(
    prompt: str,
    ids: Sequence[int],
    texts: Sequence[str],
    tokenizer: Tokenizer,
    encode: Callable[[int, int], list[int]],
    media_ends: Set[int],
) -> Boundaries:
    """Of a rendered `prompt` with these `ids`, one placeholder for each picture and pair of frames.

    `texts` are those that something follows in their message, in order; `encode` gives the ids of
    prompt[start:end]. A picture or a clip is over after `media_ends` ids, a message where the next starts.
    """
    start = tokenizer.id_of(MESSAGE_START)
    messages_end = {n for n, token in enumerate(ids) if token == start and n}
    documents = {*media_ends} | _text_ends(prompt, ids, texts, tokenizer, encode)
    return Boundaries(tuple(sorted(messages_end | documents)), tuple(sorted(documents)))


def _text_ends(
    prompt: str,
    ids: Sequence[int],
    texts: Sequence[str],
    tokenizer: Tokenizer,
    encode: Callable[[int, int], list[int]],
) -> set[int]:
    """The ends of `texts`, moved back to where no continuation changes the ids."""
    ends: set[int] = set()
    place = cut = num_ids = 0  # the prompt up to `cut` has `num_ids` ids
    for text in texts:
        # A template may strip what it is given.
        found = prompt.find(text.strip(), place) if text.strip() else -1
        if found < 0:
            continue
        place = found + len(text.strip())
        stable = tokenizer.stable_end(prompt, place)
        if stable <= cut:
            continue
        more = encode(cut, stable)
        if list(ids[num_ids : num_ids + len(more)]) == more:
            cut, num_ids = stable, num_ids + len(more)
            ends.add(num_ids)
    return ends
