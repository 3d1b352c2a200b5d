"""Many requests at once: one token of each in every step, so that weights are read once for all of them.

Rows come and go between two steps. A request is run by the same code as alone (`Engine.steps`), and no row's
result depends on the rows beside it: on the native kernels each answer is the one it would get alone, bit for
bit.

The prompt that comes next is encoded and prefilled piece by piece (a picture, some pairs of a clip, a chunk
of tokens), one at a time, with one step of the others after each piece: they wait no longer than a piece
takes, and a free row, which costs more than their waiting, is soon filled again. One at a time also means
that what two prompts have in common is computed once: the first one's states are in the cache when the second
looks for them.
"""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from qwen35.engine.answer import Decode, Steps
from qwen35.engine.engine import Engine, decode
from qwen35.engine.request import Request
from qwen35.engine.walk import walk
from qwen35.engine.windows import Windows
from qwen35.errors import DoesNotFit, InputError, Qwen35Error
from qwen35.events import Event, PictureProgress, PrefillProgress
from qwen35.processing.processor import ModelInput
from qwen35.state import BLOCK_TOKENS, kv_bytes_per_token

MOST_ROWS = 8  # worth their while: more compute longer than one reading of the weights takes


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """A request under a name of the caller's. `prompt`: prepared already, else it is here.

    `windows`: its clip is walked through in them, with an answer at the end or `in_each`.
    """

    key: str
    request: Request
    prompt: ModelInput | None = None
    windows: Windows | None = None
    in_each: bool = False

    def steps(self, engine: Engine) -> Steps:
        if self.windows:
            return walk(engine, self.windows, in_each=self.in_each, is_one_of_many=True)
        return engine.steps(self.request, self.prompt, is_one_of_many=True)


@dataclass(frozen=True, slots=True, eq=False)
class Failed:
    """The end of an item that cannot be answered; the others go on."""

    error: Qwen35Error


def answer_all(
    engine: Engine, items: Iterable[Item | None], max_rows: int
) -> Generator[tuple[str, Event | Failed]]:
    """Answer `items`, at most `max_rows` at a time: events under the items' keys, as they happen.

    None among them: the next one cannot begin yet, and those at work go on meanwhile.

    Each item ends with Finished or Failed (an InputError, or a DoesNotFit of its own prompt); all other
    errors end everything. An item is taken when a row is free for it. Closing the generator ends the work.
    What experts and layers have cost is told of the time in which an item ran, with those beside it.
    """
    waiting = iter(items)
    rows: list[_Row] = []  # that decode
    reading: _Row | None = None
    has_more = True
    try:
        while True:
            if reading is None and has_more and len(rows) < max_rows:
                try:
                    item = next(waiting)
                except StopIteration:
                    has_more, item = False, None
                if item:
                    reading = _Row(item.key, item.steps(engine))
            if reading:
                yield from reading.go_on()
                if reading.wish:
                    rows.append(reading)
                if reading.wish or reading.is_over:
                    reading = None
            elif not rows and not has_more:
                return
            reads_again = [row for row in rows if not row.wish]  # the prompt of its second chance
            if wishes := [(row, row.wish) for row in rows if row.wish]:
                logits = decode(engine.backend, [wish for _, wish in wishes])
                for (row, _), scores in zip(wishes, logits, strict=True):
                    yield from row.go_on(scores)
            for row in reads_again:
                yield from row.go_on()
            rows = [row for row in rows if not row.is_over]
    finally:
        for row in rows:
            row.steps.close()
        if reading:
            reading.steps.close()


def row_bytes(engine: Engine, num_tokens: int) -> int:
    """What a row of `num_tokens` tokens, prompt and answer, takes."""
    state, text = engine.backend.new_state(), engine.processor.config.text
    blocks = -(-num_tokens // BLOCK_TOKENS)
    size_bytes = state.size_bytes + blocks * BLOCK_TOKENS * kv_bytes_per_token(text, state.dtype)
    return size_bytes + 2 * 4 * text.vocab_size  # logits, and scores made of them


@dataclass(slots=True, eq=False)
class _Row:
    """One item's run."""

    key: str
    steps: Steps
    wish: Decode | None = None
    is_over: bool = False

    def go_on(self, logits: np.ndarray | None = None) -> Iterator[tuple[str, Event | Failed]]:
        """Until it wishes for the logits of a token, a piece of its prompt is through, or all is over."""
        self.wish = None
        try:
            while True:
                step = self.steps.send(logits)
                logits = None
                if isinstance(step, Decode):
                    self.wish = step
                    return
                yield self.key, step
                if isinstance(step, PictureProgress | PrefillProgress):
                    return
        except StopIteration:
            self.is_over = True
        except (InputError, DoesNotFit) as error:
            self.is_over = True
            yield self.key, Failed(error)
