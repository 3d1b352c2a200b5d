"""What training is told of a document's tokens and of an answer's, as tensors; see `marks.py`."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from mini.cells import centre_of
from mini.labels import Question, Sample
from mini.marks import NOWHERE, Marks, sources_of_tokens
from mini.tokenizer import MiniTokenizer

NO_CHAR = -100  # as `IGNORE` of `batches.py`


def label_marks(marks: Marks, tokenizer: MiniTokenizer) -> np.ndarray:
    """(M, 1 + MARKED) int64: the ids of a document's characters, NO_CHAR where none is, and its marks."""
    chars = np.full((len(marks.values), 1), NO_CHAR)
    for token, char in marks.chars.items():
        chars[token] = tokenizer.id(char)
    return np.concatenate([chars, marks.values], axis=1)


def label_sources(
    questions: Sequence[Question], is_target: torch.Tensor, tokenizer: MiniTokenizer
) -> torch.Tensor:
    """(R, T, 4): the token (or NOWHERE), line, field and offset that each target is read from.

    `is_target` (R, T): a row's last targets are the answer and what ends it.
    """
    found = torch.tensor([NOWHERE, 0, 0, 0]).repeat(*is_target.shape, 1)
    for row, question in enumerate(questions):
        if question.sources:
            pieces = [tokenizer.decode([token]) for token in tokenizer.encode(question.answer)]
            sources = sources_of_tokens([*pieces, "."], question.sources)
            stop = int(is_target[row].nonzero().max()) + 1
            found[row, stop - len(sources) : stop] = torch.tensor(
                [[s.token, s.line, s.field, s.offset] for s in sources]
            )
    return found


def find_shapes(sample: Sample, grid: tuple[int, int]) -> None:
    """Say in which tokens of the `grid` (height, width) the shapes lie that answers are read from."""
    for question in sample.questions:
        question.sources = [
            source
            if source.shape == NOWHERE
            else replace(source, token=_token_of(sample, source.shape, grid))
            for source in question.sources
        ]


def _token_of(sample: Sample, number: int, grid: tuple[int, int]) -> int:
    assert sample.pixels is not None
    row, column = centre_of(sample.shapes[number], sample.pixels.shape[:2], grid)
    return row * grid[1] + column
