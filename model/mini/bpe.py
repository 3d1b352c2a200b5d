"""Byte-pair encoding in plain Python: pieces of text, learning merges, applying them. ASCII only."""

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

Merge = tuple[str, str]

# The pieces that the family's pretokenizer makes of ASCII text.
PIECES = re.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\na-zA-Z0-9]?[a-zA-Z]+|[0-9]| ?[^\sa-zA-Z0-9]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    re.ASCII,
)


def byte_alphabet() -> dict[int, str]:
    """The printable character that stands for each byte in a byte-level vocabulary."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    alphabet = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        if byte not in alphabet:
            alphabet[byte] = chr(256 + len(alphabet) - len(printable))
    return alphabet


ALPHABET = byte_alphabet()
SPACE, NEWLINE = ALPHABET[ord(" ")], ALPHABET[ord("\n")]


def split_pieces(text: str) -> list[str]:
    """The pieces of the text, within which merges happen, in the byte alphabet."""
    assert text.isascii(), text
    return ["".join(ALPHABET[byte] for byte in piece.encode()) for piece in PIECES.findall(text)]


def apply_merges(piece: str, ranks: dict[Merge, int]) -> list[str]:
    """The tokens of one piece: the earliest learnt merge is applied first, wherever it fits."""
    parts = list(piece)
    while len(parts) > 1:
        rank, pair = min((ranks.get(pair, len(ranks)), pair) for pair in pairwise(parts))
        if rank == len(ranks):
            break
        parts = merge_pair(parts, pair)
    return parts


def merge_pair(parts: Sequence[str], pair: Merge) -> list[str]:
    merged: list[str] = []
    index = 0
    while index < len(parts):
        if tuple(parts[index : index + 2]) == pair:
            merged.append(parts[index] + parts[index + 1])
            index += 2
        else:
            merged.append(parts[index])
            index += 1
    return merged


def learn_merges(texts: Iterable[str], num_merges: int) -> list[Merge]:
    """The most frequent merges, of a restricted form: the opening of a word grows by one letter.

    An opening begins with a space or a capital, so merges leave the inside of printed words alone:
    there one token stays one character, and a model that reads can look at them in turn.
    """
    counts = Counter(piece for text in texts for piece in split_pieces(text))
    words = {piece: list(piece) for piece in counts}
    merges: list[Merge] = []
    while len(merges) < num_merges:
        pairs: Counter[Merge] = Counter()
        for piece, parts in words.items():
            if len(parts) > 1 and may_merge(parts[0], parts[1]):
                pairs[parts[0], parts[1]] += counts[piece]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = {piece: merge_pair(parts, best) for piece, parts in words.items()}
    return merges


def may_merge(opening: str, following: str) -> bool:
    if opening == SPACE:
        return following in string.ascii_letters
    return opening[0] in SPACE + string.ascii_uppercase and following in string.ascii_lowercase
