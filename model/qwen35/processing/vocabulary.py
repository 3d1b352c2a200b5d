"""A tokenizer's vocabulary and merges: the `tokenizers` package's own, or a file that is read by place.

To read tokenizer.json with Qwen's 248,000 tokens and as many merges takes the package longer than most
answers take. But what byte-pair encoding makes of a word depends on the tokens that are substrings of the
word, and on the merges among them, in their order. So a packed folder holds the vocabulary as arrays beside
tokenizer.json, and the package's own BPE is built of the few hundred entries that a prompt's words can need:
the ids are the same, by construction.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers.models import BPE

from qwen35.processing.byte_level import token_bytes

FILE = "vocabulary.safetensors"

_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_INVERSE = pow(_MULTIPLIER, -1, 1 << 64)
_MOST_SUBSTRINGS = 2_000_000  # of the words of one text: beyond, all of the vocabulary is less work
_MOST_WORDS = 100_000  # whose ids are remembered

Words = NDArray[np.uint64]


class Vocabulary(Protocol):
    """Tokens by id and ids by token, added tokens aside, and what the model makes of words."""

    size: int

    def token_of(self, token_id: int) -> str | None: ...

    def id_of(self, token: str) -> int | None: ...

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text: normalised, cut into words, each word by its merges."""
        ...

    def token_bytes(self) -> list[bytes]:
        """What all tokens stand for, by id, where they are spelled in the byte-level alphabet."""
        ...


class WholeVocabulary:
    """That of a tokenizer which the package has read whole."""

    def __init__(self, frame: tokenizers.Tokenizer) -> None:
        self.size: int = frame.get_vocab_size(with_added_tokens=False)
        self._model = frame.model
        self._plain = tokenizers.Tokenizer(frame.model)  # shares the vocabulary, no copy
        if frame.normalizer is not None:
            self._plain.normalizer = frame.normalizer
        if frame.pre_tokenizer is not None:
            self._plain.pre_tokenizer = frame.pre_tokenizer

    def token_of(self, token_id: int) -> str | None:
        token: str | None = self._model.id_to_token(token_id)
        return token

    def id_of(self, token: str) -> int | None:
        token_id: int | None = self._model.token_to_id(token)
        return token_id

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._plain.encode(text).ids if text else []
        return ids

    def token_bytes(self) -> list[bytes]:
        vocab = self._plain.get_vocab(with_added_tokens=False)
        spelled = {i: text.encode() for text, i in vocab.items()}
        texts = [spelled.get(i, b"") for i in range(max(spelled, default=-1) + 1)]
        ends = np.cumsum([len(text) for text in texts])
        return token_bytes(np.frombuffer(b"".join(texts), np.uint8), ends)


class CompiledVocabulary:
    """That of a file which `compile_vocabulary` made. Mutable: it remembers the words it has seen."""

    def __init__(self, arrays: dict[str, NDArray[Any]], frame: tokenizers.Tokenizer, settings: Any) -> None:
        """`frame`: what is around the model; `settings`: the model's own, without vocabulary and merges."""
        self._text, self._ends = arrays["text"], arrays["ends"]
        self._hashes, self._hash_ids, self._merges = arrays["hashes"], arrays["hash_ids"], arrays["merges"]
        self.size = len(self._ends)
        self._longest = int(arrays["longest"][0])
        self._normalizer, self._pre_tokenizer = frame.normalizer, frame.pre_tokenizer
        self._settings = settings
        self._known: dict[str, tuple[int, ...]] = {}  # ids by word
        self._tokens: dict[int, str] = {}
        self._whole: BPE | None = None

    def token_of(self, token_id: int) -> str | None:
        return self._token(token_id) if 0 <= token_id < self.size else None

    def id_of(self, token: str) -> int | None:
        for token_id in self._with_hash(_hashes([token])).tolist():
            if self.token_of(token_id) == token:
                return int(token_id)
        return None

    def encode(self, text: str) -> list[int]:
        if not text:
            return []
        if self._normalizer is not None:
            text = self._normalizer.normalize_str(text)
        words = [word for word, _ in self._pre_tokenizer.pre_tokenize_str(text)]
        known = self._known  # another thread may begin a new one meanwhile
        if new := set(words).difference(known):
            if len(known) > _MOST_WORDS:
                known, new = {}, set(words)
                self._known = known
            model = self._model(sorted(new))
            for word in new:
                known[word] = tuple(token.id for token in model.tokenize(word))
        return [token_id for word in words for token_id in known[word]]

    def token_bytes(self) -> list[bytes]:
        return token_bytes(self._text, self._ends)

    def _token(self, token_id: int) -> str:
        token = self._tokens.get(token_id)
        if token is None:
            token = self._tokens[token_id] = self._read_token(token_id)
        return token

    def _read_token(self, token_id: int) -> str:
        start = int(self._ends[token_id - 1]) if token_id else 0
        return self._text[start : int(self._ends[token_id])].tobytes().decode()

    def _model(self, words: list[str]) -> BPE:
        """The package's own, of all that `words` can need."""
        num_substrings = sum(len(word) * min(len(word), self._longest) for word in words)
        if self._whole is None and num_substrings > _MOST_SUBSTRINGS:
            self._whole = self._restricted(np.arange(self.size))
        return self._whole or self._restricted(self._with_hash(_substring_hashes(words, self._longest)))

    def _restricted(self, ids: NDArray[np.integer]) -> BPE:
        """A BPE of the tokens `ids` and the merges among them, in their order."""
        is_there = np.zeros(self.size, np.bool_)
        is_there[ids] = True
        names = {i: self._token(i) for i in np.flatnonzero(is_there).tolist()}
        left, right, result = (is_there[column] for column in self._merges)
        merges = self._merges[:, left & right & result]
        return BPE(
            vocab={name: i for i, name in names.items()},
            merges=[(names[left], names[right]) for left, right, _ in merges.T.tolist()],
            **self._settings,
        )

    def _with_hash(self, hashes: Words) -> NDArray[np.integer]:
        """Ids of tokens that have one of `hashes`: of others too, now and then, which does no harm."""
        first = np.searchsorted(self._hashes, hashes, "left")
        counts = np.searchsorted(self._hashes, hashes, "right") - first
        starts = np.repeat(first - np.cumsum(counts) + counts, counts)
        return self._hash_ids[starts + np.arange(len(starts))]


def load_vocabulary(path: Path) -> tuple[tokenizers.Tokenizer, Vocabulary, dict[int, Any]]:
    """What is around the model, the vocabulary of a compiled file, and the added tokens by id.

    Raises OSError, and other exceptions for a file that is damaged.
    """
    from safetensors.numpy import load

    arrays = load(path.read_bytes())
    about = json.loads(arrays["about"].tobytes())
    frame = tokenizers.Tokenizer.from_str(json.dumps(about["frame"]))
    added = {
        token["id"]: tokenizers.AddedToken(token["content"], special=token["special"])
        for token in about["added_tokens"]
    }
    return frame, CompiledVocabulary(arrays, frame, about["settings"]), added


def compile_vocabulary(tokenizer_json: bytes) -> bytes | None:
    """The file of arrays for a tokenizer.json; None where that is of another kind than what is read so.

    Read so is BPE over words that a pre-tokenizer cuts, its ids without gaps, with no dropout, no unknown
    token and no marks within words. The arrays: all tokens' `text` in UTF-8, end to end, and their `ends` by
    id; sorted `hashes` and their `hash_ids`; `merges` (3, R): left, right, what they make.
    """
    from safetensors.numpy import save

    try:
        about = json.loads(tokenizer_json)
        model = about.pop("model")
        vocab, pairs = model.pop("vocab"), model.pop("merges")
        if model.pop("type", "BPE") != "BPE" or not isinstance(vocab, dict) or not about["pre_tokenizer"]:
            return None
        settings = {key: value for key, value in model.items() if value not in (None, False, "")}
        if set(settings) - {"ignore_merges", "fuse_unk"} or set(vocab.values()) != set(range(len(vocab))):
            return None
        tokens = sorted(vocab, key=vocab.__getitem__)
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in pairs]
        merges = np.array(
            [
                [vocab[left] for left, _ in pairs],
                [vocab[right] for _, right in pairs],
                [vocab[left + right] for left, right in pairs],
            ],
            np.uint32,
        )
        added = about.pop("added_tokens") or []
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # the package will say what is wrong with it
    encoded = [token.encode() for token in tokens]
    hashes = _hashes(tokens)
    order = np.argsort(hashes, kind="stable")
    about |= {"model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": []}
    text = json.dumps({"frame": about, "added_tokens": added, "settings": settings}).encode()
    return bytes(
        save(
            {
                "text": np.frombuffer(b"".join(encoded), np.uint8),
                "ends": np.cumsum([len(each) for each in encoded], dtype=np.uint32),
                "hashes": hashes[order],
                "hash_ids": order.astype(np.uint32),
                "merges": merges,
                "longest": np.array([max(map(len, tokens), default=0)], np.uint32),
                "about": np.frombuffer(text, np.uint8),
            }
        )
    )


def _hashes(strings: Iterable[str]) -> Words:
    """Of each: the sum of its characters c[i] * M^i, modulo 2^64."""
    strings = list(strings)
    lengths = np.array([len(string) for string in strings], np.int64)
    ends = np.cumsum(lengths)
    return _between("".join(strings), ends - lengths, ends)


def _substring_hashes(words: list[str], longest: int) -> Words:
    """Of all substrings of `words` that are not longer than `longest`."""
    lengths = np.array([len(word) for word in words], np.int64)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(lengths.sum())  # characters to the word's end
    starts = np.arange(len(left))
    # By length, so that only places that have so many characters before them are looked at.
    spans = [starts[left >= length] for length in range(1, min(longest, int(lengths.max())) + 1)]
    begins = np.concatenate(spans)
    sizes = np.repeat(np.arange(1, len(spans) + 1), [len(span) for span in spans])
    return _between("".join(words), begins, begins + sizes)


def _between(text: str, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> Words:
    """Hashes of text[begin:end]: differences of running sums, brought back to the power of their place."""
    characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    sums = np.zeros(len(characters) + 1, np.uint64)
    np.cumsum(characters * _powers(_MULTIPLIER, len(characters)), out=sums[1:])
    inverse = _powers(_INVERSE, len(characters) + 1)
    return (sums[ends] - sums[begins]) * inverse[begins]


def _powers(base: int, count: int) -> Words:
    powers = np.full(count, base, np.uint64)
    powers[:1] = 1
    return np.cumprod(powers, dtype=np.uint64)
