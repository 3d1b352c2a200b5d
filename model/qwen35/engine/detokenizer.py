"""Tokens to text as they come: whole characters only, and nothing that may become a stop string."""

from collections.abc import Sequence

from qwen35.processing.tokenizer import Tokenizer


class Detokenizer:
    """Text of one run of tokens, handed out in pieces. Mutable, for one request.

    Bytes of an unfinished character wait for the next token. Text that is a beginning of a stop
    string waits until it is one or is not.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.text = ""  # everything handed out so far
        self.is_stopped = False  # a stop string came; it and what follows are dropped
        self._tokenizer = tokenizer
        self._stop = [s for s in stop if s]
        self._ids: list[int] = []  # of the text not yet safely behind
        self._shown = 0  # characters of decode(_ids) that were taken
        self._held = ""  # decoded, but perhaps the beginning of a stop string

    def push(self, token: int) -> str:
        """The text that is certain now; often empty."""
        self._ids.append(token)
        decoded = self._tokenizer.decode(self._ids)
        if decoded.endswith("\ufffd"):  # an unfinished character, or a broken one: `flush` tells
            return ""
        new = decoded[self._shown :]
        self._shown = len(decoded)
        if len(self._ids) > 16:  # keep decoding short; the last token is context for the next
            self._ids = self._ids[-1:]
            self._shown = len(self._tokenizer.decode(self._ids))
        return self._hold_back(new)

    def flush(self) -> str:
        """What is still held, at the end of the run."""
        if self.is_stopped:
            return ""
        rest = self._held + self._tokenizer.decode(self._ids)[self._shown :]
        self._ids, self._shown, self._held = [], 0, ""
        self.text += rest
        return rest

    def _hold_back(self, new: str) -> str:
        text = self._held + new
        ends = [i for s in self._stop if (i := text.find(s)) >= 0]
        if ends:
            self.is_stopped = True
            self._held = ""
            text = text[: min(ends)]
        else:
            self._held = text[len(text) - self._num_held(text) :]
            text = text[: len(text) - len(self._held)]
        self.text += text
        return text

    def _num_held(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = max((len(s) for s in self._stop), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(s.startswith(text[-length:]) for s in self._stop):
                return length
        return 0
