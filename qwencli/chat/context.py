"""How much of the context a conversation takes, told without running the model."""

from collections.abc import Sequence

from qwen35.errors import DoesNotFit
from qwen35.messages import ImagePart, Message, VideoPart
from qwen35.processing.image import TokenBounds
from qwen35.processing.processor import Processor
from qwencli.conversations.records import StoredMessage

ROOM = 256  # tokens that must be left for an answer, or an eighth of a small context
_TURN_TOKENS = 5  # that the template puts around a message, about
_NEARLY_FULL = 0.8  # of the context

CHOICES = (
    "/compact leaves out the oldest turns, /compact summary lets the model sum them up first, "
    "/clear begins anew"
)
TOO_MUCH_ATTACHED = (
    "What is attached does not fit by itself: /detach takes it off, /set image-tokens and /set video-tokens "
    "make it smaller, /set ctx raises the limit"
)
NO_CHOICES = "Shorten it, use smaller pictures (/set image-tokens), or raise the limit (/set ctx)"


class NoRoom(DoesNotFit):
    """The conversation has grown too long for its context."""


def room_for_answer(limit: int, max_tokens: int | None) -> int:
    """Tokens of the context that a question has to leave."""
    return min(ROOM, limit // 8, max_tokens or ROOM)


def check_room(num_prompt: int, limit: int, max_tokens: int | None, choices: str) -> None:
    """Raises NoRoom, with the choices there are, where too little of the context is left for an answer."""
    needed = room_for_answer(limit, max_tokens)
    if num_prompt + needed <= limit:
        return
    raise NoRoom(
        f"No room: with this question the conversation has {num_prompt:,} tokens, the context holds "
        f"{limit:,}, and {needed:,} are kept for the answer. It was not asked. {choices}."
    )


def is_nearly_full(num_used: int, limit: int) -> bool:
    """Whether it is time to tell a person of the choices."""
    return num_used > limit * _NEARLY_FULL


def count_tokens(processor: Processor, message: Message, bounds: TokenBounds | None) -> int:
    """Of one message, a few more or less."""
    count = _TURN_TOKENS + len(processor.tokenizer.encode(processor.tokenizer.protect(message.text)))
    for part in message.parts:
        if isinstance(part, ImagePart) and processor.image is not None:
            height, width = part.pixels.shape[:2]
            count += processor.image.num_tokens(processor.image.plan(height, width, bounds))
        elif isinstance(part, VideoPart) and processor.video is not None:
            count += processor.video.plan(part.clip, part.sampling).num_tokens
    return count


def turns_that_fit(seen: Sequence[StoredMessage], counts: Sequence[int], budget: int) -> int:
    """How many of the last turns have no more than `budget` tokens together; at least one."""
    num_turns = total = 0
    for message, count in zip(reversed(seen), reversed(counts), strict=True):
        total += count
        if message.role == "user":
            if total > budget and num_turns:
                break
            num_turns += 1
    return num_turns
