"""Documents in block letters: tables, receipts, invoices, and simple charts."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import ImageDraw

from mini.architecture import TOKEN_PIXELS
from mini.block_letters import Hand
from mini.degrade import degrade
from mini.document_questions import Document, document_questions
from mini.fonts import load_face
from mini.labels import Sample
from mini.marks import END_OF_FIELD, END_OF_LINE, END_OF_LIST, LAST_LINE, Marks
from mini.scene_questions import COLOURS
from mini.scenes import Colour, draw_colour, draw_ground
from mini.words import read_list

ROWS, COLUMNS = (6, 8), (11, 12)  # of tokens
CONSONANTS, VOWELS = "BDFGKLMNPRSTVZ", "AEIOU"
NAMES = [name.upper() for name in read_list("names") + read_list("owners") if name.isalpha()]
GOODS = [name.upper() for name in read_list("goods") if name.isalpha()]
FIRST_HEADERS = ("NAME", "ITEM", "CITY", "WHO", "TEAM", "WORD", "DAY")
HEADERS = ("QTY", "AGE", "NO", "PTS", "WINS", "SUM", "KG", "COST", "YEAR", "A", "B", "X", "Y", "MIN", "MAX")
LABELS = (
    ("A", "B", "C", "D", "E"),
    ("Q1", "Q2", "Q3", "Q4"),
    ("MO", "TU", "WE", "TH", "FR"),
    ("1", "2", "3", "4", "5"),
    ("X", "Y", "Z"),
    ("V", "W", "X", "Y", "Z"),
)
STEP = 5  # of the values in a chart, whose axis ends at 100
TOP, BOTTOM = 9, 3  # pixels above 100, and between 0 and the labels' row
AXIS = 2  # tokens at the left, for its numbers

Point = tuple[float, float]


def draw_grid(rng: random.Random) -> tuple[int, int]:
    """(rows, columns) of a document in tokens."""
    return rng.randint(*ROWS), rng.randint(*COLUMNS)


def invented(rng: random.Random, length: int) -> str:
    """A word that can be spoken, but that nobody has heard."""
    start = rng.randint(0, 1)
    return "".join(rng.choice((CONSONANTS, VOWELS)[(start + index) % 2]) for index in range(length))


def short_word(words: Sequence[str], most: int, rng: random.Random) -> str:
    fitting = [word for word in words if len(word) <= most]
    if not fitting or rng.random() < 0.4:
        return invented(rng, rng.randint(min(2, most), most))
    return rng.choice(fitting)


class Page:
    """A picture that is being written on, and what has been written."""

    def __init__(self, grid: tuple[int, int], rng: random.Random, split: str) -> None:
        self.grid, self.rng = grid, rng
        self.image = draw_ground((grid[0] * TOKEN_PIXELS, grid[1] * TOKEN_PIXELS), rng)
        self.hand = Hand.draw(rng, split)
        self.marks = Marks(grid)

    def write(self, text: str, row: int, column: int, line: int, number: int, end: int) -> None:
        self.hand.write(self.image, text, row, column)
        self.marks.add(text, row, column, line, number, end)

    def rule(self, row: int) -> None:
        """A thin line above a row."""
        y = row * TOKEN_PIXELS
        ImageDraw.Draw(self.image).line([(3, y), (self.image.width - 4, y)], fill=self.hand.ink)


def draw_table(page: Page) -> Document:
    """A header and three to six rows of two to four columns, the first of words, the others of numbers."""
    rng, (rows, columns) = page.rng, page.grid
    num_rows = rng.randint(3, min(6, rows - 1))
    widths = draw_widths(columns - 1, rng)
    top = rng.randint(0, rows - 1 - num_rows)
    headers = [rng.choice([name for name in FIRST_HEADERS if len(name) <= widths[0]] or ["ID"])]
    for width in widths[1:]:
        headers.append(rng.choice([name for name in HEADERS if len(name) <= width and name not in headers]))
    if rng.random() < 0.4:
        page.rule(top + 1)
    is_right = rng.random() < 0.5
    for line in range(num_rows + 1):
        left = 0
        for number, width in enumerate(widths, 1):
            if line == 0:
                text = headers[number - 1]
            elif number == 1:
                text = short_word(NAMES + GOODS, width, rng)
            else:
                digits = rng.randint(1, width)
                text = str(rng.randint(10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1))
            shift = width - len(text) if is_right and number > 1 else 0
            is_last = number == len(widths)
            end = END_OF_FIELD if not is_last else END_OF_LIST if line == num_rows else END_OF_LINE
            page.write(text, top + line, left + shift, line + 1, number, end)
            left += width + 1
    return Document("table", page.marks, num_rows, len(widths))


def draw_widths(room: int, rng: random.Random) -> list[int]:
    """Of two to four columns with an empty square between them, the first the widest."""
    count = rng.randint(2, 4)
    widths = [2] + [1] * (count - 1)
    spare = room - sum(widths) - (count - 1)
    for _ in range(rng.randint(spare // 2, spare)):
        fitting = [n for n, width in enumerate(widths) if width < (5 if n == 0 else 4)]
        if fitting:
            widths[rng.choice(fitting)] += 1
    return widths


def draw_date(rng: random.Random) -> str:
    return f"{rng.randint(2020, 2029)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"


def write_items(page: Page, row: int, line: int, count: int) -> None:
    """Items with their prices at the right, then their total."""
    rng, right = page.rng, page.grid[1] - 1
    most = 10 ** (right - len("TOTAL") - 2) - 1  # cents, as there is room beside that word
    prices = [rng.randint(5, most // count) for _ in range(count)]
    for index, cents in enumerate([*prices, sum(prices)]):
        price = f"{cents // 100}.{cents % 100:02d}"
        is_total = index == count
        text = "TOTAL" if is_total else short_word(GOODS, right - 1 - len(price), rng)
        number = LAST_LINE if is_total else line + index
        if is_total and rng.random() < 0.4:
            page.rule(row + index)
        page.write(text, row + index, 0, number, 1, END_OF_FIELD)
        end = END_OF_LIST if index >= count - 1 else END_OF_LINE
        page.write(price, row + index, right - len(price), number, 2, end)


def draw_receipt(page: Page) -> Document:
    """A shop, a date, items, their total."""
    rng, (rows, columns) = page.rng, page.grid
    count = rng.randint(2, rows - 3)
    top = rng.randint(0, rows - 3 - count)
    name = short_word(NAMES, columns - 1, rng)
    page.write(name, top, rng.randint(0, columns - 1 - len(name)), 1, 1, END_OF_LINE)
    page.write(draw_date(rng), top + 1, 0, 2, 1, END_OF_LINE)
    write_items(page, top + 2, 3, count)
    return Document("receipt", page.marks, count, 2)


def draw_invoice(page: Page) -> Document:
    """A number, a date, who has to pay, items, their total."""
    rng, (rows, columns) = page.rng, page.grid
    count = rng.randint(1, rows - 4)
    top = rng.randint(0, rows - 4 - count)
    number = str(rng.randint(10, 10 ** (columns - 6) - 1))[: columns - 5]
    page.write(rng.choice(["NO", "INV"]), top, 0, 1, 1, END_OF_FIELD)
    page.write(number, top, 4, 1, 2, END_OF_LINE)
    page.write(draw_date(rng), top + 1, 0, 2, 1, END_OF_LINE)
    page.write("TO", top + 2, 0, 3, 1, END_OF_FIELD)
    page.write(short_word(NAMES, columns - 4, rng), top + 2, 3, 3, 2, END_OF_LINE)
    write_items(page, top + 3, 4, count)
    return Document("invoice", page.marks, count, 2)


@dataclass(frozen=True, slots=True)
class Plot:
    """Where the values of a chart lie: `foot` is the height of 0 in pixels, `scale` the pixels of 1."""

    foot: int
    scale: float

    def y(self, value: int) -> float:
        return self.foot - value * self.scale


def draw_bars(page: Page) -> Document:
    def draw(points: Sequence[Point], foot: int, fill: Colour) -> None:
        width = round((points[1][0] - points[0][0]) * page.rng.uniform(0.31, 0.46))
        for x, y in points:
            bar = [x - width // 2, round(y), x + width // 2 - 1, foot]
            ImageDraw.Draw(page.image).rectangle(bar, fill=fill)

    return draw_chart(page, "bar chart", draw)


def draw_line(page: Page) -> Document:
    def draw(points: Sequence[Point], foot: int, fill: Colour) -> None:
        pen = ImageDraw.Draw(page.image)
        pen.line(points, fill=fill, width=2)
        for x, y in points:
            pen.ellipse([x - 3, round(y) - 3, x + 3, round(y) + 3], fill=fill)

    return draw_chart(page, "line chart", draw)


def draw_chart(page: Page, kind: str, draw: Callable[[Sequence[Point], int, Colour], None]) -> Document:
    """Three to five values between 5 and 100, each over its label."""
    rng, (rows, columns) = page.rng, page.grid
    labels, pitch = draw_labels(columns, rng)
    values = [STEP * rng.randint(1, 100 // STEP) for _ in labels]
    left = AXIS + rng.randint(0, columns - AXIS - len(labels) * pitch)
    plot = draw_axis(page)
    points = []
    for number, (label, value) in enumerate(zip(labels, values, strict=True), 1):
        column = left + (number - 1) * pitch
        end = END_OF_LIST if number == len(labels) else END_OF_FIELD
        page.write(label, rows - 1, column, 1, number, end)
        middle, y = (column + len(label) / 2) * TOKEN_PIXELS, plot.y(value)
        points.append((middle, y))
        # Between two tokens, the left one has the mark.
        page.marks.add_value(
            int(y / TOKEN_PIXELS) * columns + int((middle - 1) / TOKEN_PIXELS), number, value // STEP
        )
    draw(points, plot.foot, draw_colour(rng.choice(COLOURS), rng))
    return Document(kind, page.marks, len(labels), 1, values)


def draw_labels(columns: int, rng: random.Random) -> tuple[Sequence[str], int]:
    """Three or more of one sort that follow each other, and how many tokens apart they stand."""
    fitting = [labels for labels in LABELS if 3 * (len(labels[0]) + 1) <= columns - AXIS]
    labels = rng.choice(fitting)
    pitch = len(labels[0]) + 1
    count = rng.randint(3, min(len(labels), (columns - AXIS) // pitch))
    start = rng.randint(0, len(labels) - count)
    return labels[start : start + count], pitch


def draw_axis(page: Page) -> Plot:
    """Lines at 0, 50 and 100, with their numbers in small print: they are the same in every chart."""
    foot = (page.grid[0] - 1) * TOKEN_PIXELS - BOTTOM
    plot = Plot(foot, (foot - TOP) / 100)
    ink, pen = page.hand.ink, ImageDraw.Draw(page.image)
    red, green, blue = ((level + 3 * 235) // 4 for level in ink)
    for tick in (0, 50, 100):
        y = round(plot.y(tick))
        pen.line([(26, y), (page.image.width - 4, y)], fill=(red, green, blue) if tick else ink)
        pen.text((24, y), str(tick), fill=ink, font=load_face(page.hand.face, 9), anchor="rm")
    return plot


DOCUMENTS: dict[str, Callable[[Page], Document]] = {
    "table": draw_table,
    "receipt": draw_receipt,
    "invoice": draw_invoice,
    "bar chart": draw_bars,
    "line chart": draw_line,
}
SHARES = {"table": 4.0, "receipt": 2.0, "invoice": 2.0, "bar chart": 2.0, "line chart": 1.5}


def make_document(size: tuple[int, int], num_questions: int, rng: random.Random, split: str) -> Sample:
    """`size` (height, width) in pixels is wanted; it has so many tokens, but in the range of `draw_grid`."""
    rows, columns = (
        min(max(side // TOKEN_PIXELS, low), high)
        for side, (low, high) in zip(size, (ROWS, COLUMNS), strict=True)
    )
    page = Page((rows, columns), rng, split)
    kind = rng.choices([*SHARES], [*SHARES.values()])[0]
    document = DOCUMENTS[kind](page)
    questions = document_questions(document, num_questions, rng)
    return Sample(
        world="document", pixels=degrade(page.image, rng, 0.6), questions=questions, marks=page.marks
    )
