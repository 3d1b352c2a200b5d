"""Documents in block letters: what is written is what is said, and each answer knows what it is read from."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mini.architecture import TOKEN_PIXELS
from mini.batches import IGNORE, BatchMaker
from mini.block_letters import LETTERS, SIZES, Hand
from mini.documents import COLUMNS, ROWS
from mini.fonts import first_faces
from mini.labels import Question, Sample
from mini.marks import (
    END_OF_FIELD,
    END_OF_LINE,
    END_OF_LIST,
    LAST_LINE,
    MARKED,
    NOWHERE,
    VALUE_LINE,
)
from mini.sample import make_sample

SEEDS = range(150)


def documents() -> Iterator[tuple[Sample, Question]]:
    for seed in SEEDS:
        sample = make_sample("document", seed, "train")
        for question in sample.questions:
            yield sample, question


def test_each_character_of_an_answer_has_a_source_or_none() -> None:
    tasks = set()
    for sample, question in documents():
        assert sample.marks is not None
        tasks.add(question.task)
        if not question.sources:
            continue
        assert len(question.sources) == len(question.answer) + 1
        for char, source in zip(question.answer, question.sources, strict=False):
            written = sample.marks.chars.get(source.token)
            if source.token != NOWHERE and char.isupper():
                assert char == written
            if written is not None and char.isdigit() and question.task != "chart_value":
                assert char == written
    assert {"table_json", "table_csv", "receipt_json", "invoice_json", "chart_json", "document_text"} <= tasks
    assert {"document_field", "cell", "chart_value", "describe_document"} <= tasks
    assert {"receipt_template", "invoice_template", "table_template", "chart_template"} <= tasks


def test_json_and_csv_hold_what_is_written() -> None:
    num_tables = num_receipts = num_charts = 0
    for sample, question in documents():
        assert sample.marks is not None
        if question.task == "table_json":
            rows = json.loads(question.answer)
            assert 3 <= len(rows) <= 6
            for line, row in enumerate(rows, 2):
                assert 2 <= len(row) <= 4
                for number, (name, value) in enumerate(row.items(), 1):
                    assert sample.marks.text(1, number) == name
                    assert sample.marks.text(line, number) == str(value)
            num_tables += 1
        elif question.task == "table_csv":
            read = list(csv.reader(io.StringIO(question.answer)))
            assert len({len(row) for row in read}) == 1
            assert read[1][0] == sample.marks.text(2, 1)
        elif question.task == "receipt_json":
            receipt = json.loads(question.answer)
            assert round(sum(item["price"] for item in receipt["items"]), 2) == receipt["total"]
            assert sample.marks.text(LAST_LINE, 2) == f"{receipt['total']:.2f}"
            num_receipts += 1
        elif question.task == "chart_json":
            chart = json.loads(question.answer)
            steps = [sample.marks.values[t, -1] for t in np.flatnonzero(sample.marks.values[:, -1])]
            assert sorted(5 * step for step in steps) == sorted(chart.values())
            num_charts += 1
    assert min(num_tables, num_receipts, num_charts) >= 10


@pytest.mark.parametrize("face", [None, *first_faces()])
@pytest.mark.parametrize("size", SIZES)
def test_letters_stay_in_their_squares(face: Path | None, size: int) -> None:
    for char in LETTERS:
        for shift in (-1, 1):
            image = Image.new("RGB", (3 * TOKEN_PIXELS, 3 * TOKEN_PIXELS), (255, 255, 255))
            Hand(face, size, (0, 0, 0), shift).write(image, char, 1, 1)
            is_ink = np.asarray(image)[..., 0] < 160
            rows, columns = np.nonzero(is_ink)
            assert min(rows.min(), columns.min()) >= TOKEN_PIXELS - 2
            assert max(rows.max(), columns.max()) < 2 * TOKEN_PIXELS + 2


def test_what_ends_is_marked_behind_each_field() -> None:
    num_tables = 0
    for sample, question in documents():
        if question.task != "table_json":
            continue
        assert sample.marks is not None
        rows = json.loads(question.answer)
        ends = sample.marks.values[:, list(MARKED).index("end")]
        for line in range(1, len(rows) + 2):
            for number in range(1, len(rows[0]) + 1):
                is_last = number == len(rows[0])
                end = END_OF_FIELD if not is_last else END_OF_LIST if line == len(rows) + 1 else END_OF_LINE
                *chars, behind = sample.marks.sources(line, number)
                assert ends[behind.token] == end
                assert not ends[[source.token for source in chars]].any()
        num_tables += 1
    assert num_tables > 20


def test_bars_end_where_their_marks_are() -> None:
    num_bars = 0
    for sample, question in documents():
        if question.task != "describe_document" or question.answer != "A bar chart.":
            continue
        assert sample.marks is not None
        assert sample.pixels is not None
        pixels = sample.pixels.astype(int)
        for token in np.flatnonzero(sample.marks.values[:, 0] == VALUE_LINE):
            row, column = divmod(int(token), sample.marks.grid[1])
            strip = pixels[:, column * TOKEN_PIXELS + 10]
            above, below = strip[row * TOKEN_PIXELS - 2], strip[(row + 1) * TOKEN_PIXELS + 1]
            if 0 < row < sample.marks.grid[0] - 3:  # there is room above, and some of the bar below
                assert np.abs(above - below).max() > 25
                num_bars += 1
    assert num_bars > 20


@pytest.mark.parametrize("seed", range(5))
def test_a_batch_shows_the_squares_as_tokens(seed: int) -> None:
    maker = BatchMaker()
    size = ROWS[0] * TOKEN_PIXELS, COLUMNS[1] * TOKEN_PIXELS
    samples = [make_sample("document", 3 * seed + index, "train", size, 3) for index in range(3)]
    batch = maker.collate(samples, (ROWS[0], COLUMNS[1]), None)
    assert batch.pictures is not None
    assert batch.pictures.marks is not None
    marks = batch.pictures.marks.view(3, -1, 1 + len(MARKED))
    for sample, mark in zip(samples, marks, strict=True):
        assert sample.marks is not None
        for token, char in sample.marks.chars.items():
            assert maker.tokenizer.decode([int(mark[token, 0])]) == char
        assert int((mark[:, 0] != IGNORE).sum()) == len(sample.marks.chars)
    num_read = 0
    for rows in batch.rows:
        assert rows.sources is not None
        is_read = rows.sources[..., 0] != NOWHERE
        assert not (is_read & (rows.targets == IGNORE)).any()
        for row, time in is_read.nonzero().tolist():
            said = maker.tokenizer.decode([int(rows.targets[row, time])])
            shown = marks[rows.pictures[row], rows.sources[row, time, 0], 0]
            if len(said) == 1 and said.isupper():
                assert int(shown) == int(rows.targets[row, time])
                num_read += 1
    assert num_read > 5
