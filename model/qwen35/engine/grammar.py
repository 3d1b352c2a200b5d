"""What an answer has to look like, token by token: llguidance's masks and forced tokens.

`Grammars` is the vocabulary as llguidance wants it, built once and only where it is needed (a third of a
second for 248,000 tokens, in a thread while the prompt is read). `Constraint` follows one answer.
"""

import json
import threading
from collections.abc import Set
from typing import TYPE_CHECKING, Any

import numpy as np

from qwen35.engine.request import Grammar
from qwen35.errors import InputError
from qwen35.processing.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

# JSON as Python's json.dumps writes it: one line, so that a model cannot fill its context with white space,
# and all that stands between two values is forced.
_JSON_STYLE: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

_INTERRUPT = "type: <class 'KeyboardInterrupt'>"  # in the text of a panic


def compile_grammar(grammar: Grammar) -> str:
    """As llguidance takes it. Raises InputError where the source is no JSON object or boolean."""
    from llguidance import LLMatcher

    if grammar.kind == "lark":
        return LLMatcher.grammar_from_lark(grammar.source)
    if grammar.kind == "regex":
        return LLMatcher.grammar_from_regex(grammar.source)
    schema = json.loads(grammar.source)
    if isinstance(schema, bool):
        schema = {} if schema else {"enum": []}
    if not isinstance(schema, dict):
        raise InputError(f"A JSON Schema is an object, not {grammar.source[:40]}.")
    return LLMatcher.grammar_from_json_schema(schema, overrides=_JSON_STYLE)


def grammar_error(grammar: Grammar) -> str | None:
    """What llguidance cannot do of it, in its words; None where it can be enforced. Needs no model."""
    from llguidance import LLMatcher

    is_error, messages = LLMatcher.validate_grammar_with_warnings(compile_grammar(grammar))
    return messages[0] if is_error else None


class Constraint:
    """One answer's place in a grammar. Mutable; arrays and ids are those of the tokenizer."""

    def __init__(self, matcher: "LLMatcher", num_tokens: int) -> None:
        self._matcher, self._num_tokens = matcher, num_tokens

    @property
    def is_complete(self) -> bool:
        """Whether what was written is a whole answer."""
        return not self._matcher.is_error() and self._matcher.is_accepting()

    @property
    def is_over(self) -> bool:
        """Whether nothing can follow: a whole answer that cannot grow, or a grammar that gave up."""
        return self._matcher.is_stopped()

    @property
    def error(self) -> str | None:
        """Why the grammar could not be followed further, on one line: its parser has limits."""
        return self._matcher.get_error().partition("\n")[0] or None

    def allowed(self) -> np.ndarray:
        """Which tokens may come next (num_tokens,) bool; the end of the answer is among them where it may."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._raise_interrupt()
        return np.unpackbits(bits, count=self._num_tokens, bitorder="little").view(np.bool_)

    def forced(self) -> list[int]:
        """Tokens that have to come next, where there is no choice."""
        tokens = self._matcher.compute_ff_tokens()
        self._raise_interrupt()
        return tokens

    def push(self, token: int) -> None:
        """Go past a token of the answer."""
        self._matcher.consume_token(token)
        self._raise_interrupt()

    def _raise_interrupt(self) -> None:
        """A Ctrl-C that came while llguidance asked the tokenizer is a panic there, and swallowed."""
        if self._matcher.is_error() and _INTERRUPT in self._matcher.get_error():
            raise KeyboardInterrupt


class Grammars:
    """A tokenizer's vocabulary for constraints. Mutable: built when it is first asked for."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: Set[int]) -> None:
        self._tokenizer, self._stop_ids = tokenizer, sorted(stop_ids)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._built: LLTokenizer | None = None
        self._error: BaseException | None = None

    def begin(self) -> None:
        """Build in a thread of its own, if nobody has begun."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._build, name="grammar", daemon=True)
                self._thread.start()

    def constraint(self, grammar: Grammar) -> Constraint:
        """A new answer's. Waits for what is being built. Raises InputError for what cannot be enforced."""
        from llguidance import LLMatcher

        self.begin()
        assert self._thread is not None
        self._thread.join()
        if self._built is None:
            assert self._error is not None
            raise self._error
        matcher = LLMatcher(self._built, compile_grammar(grammar), log_level=0)
        if matcher.is_error():
            raise InputError(f"The grammar cannot be enforced: {matcher.get_error()}")
        return Constraint(matcher, self._tokenizer.size)

    def _build(self) -> None:
        try:
            from llguidance import LLTokenizer

            self._built = LLTokenizer(
                _Vocabulary(self._tokenizer, self._stop_ids),  # type: ignore[arg-type]
                n_vocab=self._tokenizer.size,
                eos_token=self._stop_ids,
            )
        except BaseException as error:
            self._error = error


class _Vocabulary:
    """What LLTokenizer reads of a tokenizer: bytes of all tokens, and ids of bytes.

    Added tokens are structure, not text: none of them can stand in an answer, whose text other tokens spell.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, stop_ids: list[int]) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = stop_ids[0]
        self.tokens = tokenizer.token_bytes()
        self.special_token_ids = tokenizer.added_ids

    def __call__(self, text: str | bytes) -> list[int]:
        text = text.decode() if isinstance(text, bytes) else text
        return self._tokenizer.encode(self._tokenizer.protect(text))
