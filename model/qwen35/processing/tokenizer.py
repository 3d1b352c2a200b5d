"""Text to token ids and back, as the checkpoint's tokenizer.json says.

A rendered prompt mixes structure (`<|im_start|>`, `<|image_pad|>`), which becomes one id each, with
text from outside, which may hold the same strings and must not: a document that spells `<|im_end|>`
would end the user's turn. So outside text is `protect`ed before it is rendered: a mark that no valid
text can hold stands inside each such string, and `encode` takes the string as ordinary text.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import tokenizers

from qwen35.errors import CheckpointError
from qwen35.processing.vocabulary import FILE, Vocabulary, WholeVocabulary, load_vocabulary

# A lone surrogate: not a Unicode scalar value, so no encodable text holds it.
MARK = "\ud800"
_TAIL = 2000  # characters in which a last word is looked for
_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer:
    """A vocabulary, and around it added tokens, a pre-tokenizer and a decoder of the `tokenizers` package."""

    def __init__(
        self,
        frame: tokenizers.Tokenizer,
        vocabulary: Vocabulary | None = None,
        added: Mapping[int, tokenizers.AddedToken] | None = None,
    ) -> None:
        """`vocabulary` and `added` tokens by id: None where `frame` has them."""
        self._vocabulary = vocabulary or WholeVocabulary(frame)
        self._pre_tokenizer, self._decoder = frame.pre_tokenizer, frame.decoder
        added = frame.get_added_tokens_decoder() if added is None else added
        self._added = {token.content: token_id for token_id, token in added.items()}
        self._added_names = {token_id: token for token, token_id in self._added.items()}
        self._added_pattern = _any_of(self._added)
        self._special_pattern = _any_of([token.content for token in added.values() if token.special])
        self._special_ids = {token_id for token_id, token in added.items() if token.special}
        # Added tokens may lie inside the vocabulary or after it, so neither count alone is the size.
        self.size = max([self._vocabulary.size, *(i + 1 for i in added)])
        """Ids from here on are padding rows of the matrices: never sampled, never decoded."""

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Read `tokenizer.json`, or what was compiled of it. Raises CheckpointError."""
        path = folder / FILE
        if not path.exists():
            path = folder / "tokenizer.json"
        try:
            if path.name == FILE:
                return cls(*load_vocabulary(path))
            return cls(tokenizers.Tokenizer.from_buffer(path.read_bytes()))
        except FileNotFoundError:
            raise CheckpointError(
                f"{path}: no such file. The model folder needs its tokenizer.json.", path=str(path)
            ) from None
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror}).", path=str(path)) from None
        except Exception as error:  # the package raises bare Exception for a file it cannot parse
            raise CheckpointError(f"{path}: not a tokenizer ({error}).", path=str(path)) from None

    def encode(self, text: str) -> list[int]:
        """Ids of a rendered prompt: added tokens become their ids, `protect`ed ones ordinary text.

        Nothing is put before or after.
        """
        ids: list[int] = []
        end = 0
        for match in self._added_pattern.finditer(text):
            ids += self._vocabulary.encode(unmarked(text[end : match.start()]))
            ids.append(self._added[match.group()])
            end = match.end()
        return ids + self._vocabulary.encode(unmarked(text[end:]))

    def protect(self, text: str, *, special_only: bool = False) -> str:
        """Mark the added tokens spelled out in `text`, so that `encode` reads them as ordinary text.

        `special_only` leaves those that a model writes itself, such as `<tool_call>`: they are tokens
        wherever its answer is shown to it again. Lone surrogates (undecodable bytes of a command line)
        become U+FFFD. `unmarked` gives the text back.
        """
        pattern = self._special_pattern if special_only else self._added_pattern
        # After every character, so that strings that overlap are all broken.
        return pattern.sub(lambda match: MARK.join(match.group()) + MARK, _SURROGATE.sub("\ufffd", text))

    def stable_end(self, text: str, end: int) -> int:
        """The last place in text[:end] before which no continuation changes the ids.

        That is where its last word begins. A word is what the pre-tokenizer takes as one, or an added token.
        """
        added = [*self._added_pattern.finditer(text, max(0, end - _TAIL), end)]
        begin = added[-1].end() if added else max(0, end - _TAIL)
        if not added and begin:
            begin = text.find("\n", begin, end) + 1 or begin  # a word begins after a line's end
        cut = self._pre_tokenizer
        words = cut.pre_tokenize_str(unmarked(text[begin:end])) if cut else []
        if not words or MARK in text[begin:end]:  # offsets are those of the unmarked text
            return begin
        return begin + int(words[-1][1][0])

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of `ids`; an incomplete character at either end becomes U+FFFD.

        Added tokens that are not "special", such as `<think>`, stay in the text.
        """
        hidden = self._special_ids if skip_special else ()
        tokens = [token for i in ids if i not in hidden and (token := self.token_of(i)) is not None]
        return str(self._decoder.decode(tokens)) if self._decoder else " ".join(tokens)

    def spelled(self, ids: Sequence[int]) -> str | None:
        """All that `ids` stand for as text; None where one is special, or not of this vocabulary."""
        if any(i in self._special_ids or self.token_of(i) is None for i in ids):
            return None
        return self.decode(ids)

    def id_of(self, token: str) -> int | None:
        return self._added[token] if token in self._added else self._vocabulary.id_of(token)

    def token_bytes(self) -> list[bytes]:
        """What each token stands for, by id up to `size`; nothing where there is none."""
        tokens = self._vocabulary.token_bytes()
        tokens += [b""] * (self.size - len(tokens))
        for token_id, name in self._added_names.items():
            tokens[token_id] = name.encode()
        return tokens

    @property
    def added_ids(self) -> list[int]:
        """Ids of tokens that are structure, "special" or not."""
        return list(self._added_names)

    def token_of(self, token_id: int) -> str | None:
        if token_id < 0:
            return None
        return self._added_names.get(token_id) or self._vocabulary.token_of(token_id)


def unmarked(text: str) -> str:
    return text.replace(MARK, "")


def _any_of(strings: Sequence[str] | dict[str, int]) -> re.Pattern[str]:
    """Matches the longest of `strings` that begins at a place; with none of them, nothing."""
    if not strings:
        return re.compile(r"(?!)")
    return re.compile("|".join(re.escape(string) for string in sorted(strings, key=len, reverse=True)))
