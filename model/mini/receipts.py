"""Receipts: a merchant, a date, two to five items with their prices, and their total."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from mini.degrade import degrade
from mini.fonts import draw_face, load_face
from mini.goods import goods, merchant
from mini.labels import Glyph, Sample
from mini.printing import mean_advance, print_line, text_width
from mini.receipt_questions import Receipt, receipt_questions
from mini.scenes import draw_ground, hsv_colour
from mini.words import date, time

LEAST_ROWS = 5  # merchant, date, two items, total
LEAST_CHARS = 13
TOTAL_LABELS = ("Total", "TOTAL", "Total:", "TOTAL:", "Total", "TOTAL", "Sum", "SUM", "Amount due", "To pay")
FOOTERS = ("Thank you!", "THANK YOU", "Thank you", "Come again!", "Have a nice day", "Goodbye")


@dataclass(frozen=True, slots=True)
class Row:
    """One printed line: text at the left or in the middle, perhaps an amount at the right."""

    text: str
    amount: str = ""
    is_centred: bool = False


def fitting(
    draw_text: Callable[[random.Random], str], fits: Callable[[str], bool], rng: random.Random
) -> str:
    """A drawn text that fits; after many tries the last one, cut."""
    text = draw_text(rng)
    for _ in range(30):
        if fits(text):
            return text
        text = draw_text(rng)
    while not fits(text) and len(text) > 1:
        text = text[:-1].rstrip()
    return text


def draw_amounts(num_items: int, rng: random.Random) -> list[str]:
    """Prices of the items, then their sum, each as it is printed."""
    highest = rng.choice([999, 1999, 1999, 4999, 9999])
    cents = [rng.randint(20, highest) for _ in range(num_items)]
    if rng.random() < 0.5:
        cents = [max(20, value // 10 * 10 + rng.choice([0, 5, 9])) for value in cents]
    sign = rng.choice(["", "", "", "$"])
    return [f"{sign}{value // 100}.{value % 100:02d}" for value in (*cents, sum(cents))]


def draw_receipt(face: ImageFont.FreeTypeFont, width: float, num_items: int, rng: random.Random) -> Receipt:
    """A receipt each line of which is at most `width` pixels wide in this face."""

    def fits(text: str) -> bool:
        return text_width(face, text) <= width

    amounts = draw_amounts(num_items, rng)
    widest_amount = max(text_width(face, amount) for amount in amounts)

    def fits_beside_amount(text: str) -> bool:
        return text_width(face, text) + widest_amount + 1.5 * mean_advance(face) <= width

    style = rng.choice([str.upper, str.capitalize, str.capitalize, str.lower])
    names: list[str] = []
    while len(names) < num_items:
        name = style(fitting(goods, fits_beside_amount, rng))
        while not fits_beside_amount(name):
            name = name[:-1].rstrip()
        if all(name.lower() not in other.lower() and other.lower() not in name.lower() for other in names):
            names.append(name)
    return Receipt(
        merchant=fitting(merchant, fits, rng),
        date=fitting(date, fits, rng),
        items=tuple(zip(names, amounts[:-1], strict=True)),
        total=amounts[-1],
    )


def lay_out(
    receipt: Receipt, face: ImageFont.FreeTypeFont, width: float, spare_rows: int, rng: random.Random
) -> list[Row]:
    """The receipt's rows from top to bottom, with up to `spare_rows` that no question asks about."""

    def fits(text: str) -> bool:
        return text_width(face, text) <= width

    def spend(chance: float) -> bool:
        nonlocal spare_rows
        is_wanted = spare_rows > 0 and rng.random() < chance
        spare_rows -= is_wanted
        return is_wanted

    is_centred = rng.random() < 0.6
    dated = receipt.date
    for label in rng.sample([f"Date: {dated}", f"{dated} {time(rng)}", f"DATE {dated}", dated], 4):
        if fits(label):
            dated = label
            break
    date_row = Row(dated, is_centred=is_centred and rng.random() < 0.5)
    rule = rng.choice("--=*.") * int(width / face.getlength("-") * rng.uniform(0.5, 0.9))
    rule = rule if fits(rule) else ""
    label = rng.choice(TOTAL_LABELS)
    if not fits(label + receipt.total + "  "):
        label = "Total"

    is_date_last = rng.random() < 0.2
    rows = [Row(receipt.merchant, is_centred=is_centred)]
    rows += [] if is_date_last else [date_row]
    rows += [Row(rule if rng.random() < 0.6 else "")] if spend(0.5) else []
    rows += [Row(name, price) for name, price in receipt.items]
    rows += [Row(rule if rng.random() < 0.6 else "")] if spend(0.5) else []
    rows += [Row(label, receipt.total)]
    if fits("Change" + receipt.total + "  ") and spend(0.25):
        paid = round(float(receipt.total.lstrip("$")) + rng.randint(1, 900) / 100, 2)
        sign = "$" if receipt.total.startswith("$") else ""
        rows += [Row(rng.choice(["Cash", "CASH", "Paid"]), f"{sign}{paid:.2f}")]
    rows += [date_row] if is_date_last else []
    footer = rng.choice(FOOTERS)
    rows += [Row(footer, is_centred=is_centred)] if fits(footer) and spend(0.3) else []
    return rows


def print_rows(
    draw: ImageDraw.ImageDraw,
    rows: list[Row],
    box: tuple[float, float, float, float],
    face: ImageFont.FreeTypeFont,
    rng: random.Random,
) -> list[Glyph]:
    """Print the rows into the box (left, top, right, bottom) and return their characters."""
    left, top, right, bottom = box
    ink = hsv_colour(rng.uniform(0, 360), rng.uniform(0, 0.5), rng.uniform(0.0, 0.4))
    pitch = min((bottom - top) / len(rows), face.size * rng.uniform(1.2, 1.6))
    first = top + 0.85 * face.size + rng.random() * (bottom - top - pitch * len(rows))
    glyphs = []
    for index, row in enumerate(rows):
        baseline = round(first + index * pitch)
        start = left + (right - left - text_width(face, row.text)) / 2 if row.is_centred else left
        glyphs += print_line(draw, row.text, round(start), baseline, face, ink)
        start = right - text_width(face, row.amount)
        glyphs += print_line(draw, row.amount, int(start), baseline, face, ink)
    return glyphs


def draw_paper(
    size: tuple[int, int], rng: random.Random
) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """A sheet of paper, on a desk or filling the picture, and the box to print in."""
    height, width = size
    image = draw_ground(size, rng)
    inset_x = inset_y = 0
    if rng.random() < 0.35:
        inset_x, inset_y = rng.randint(1, width // 20), rng.randint(1, height // 20)
        desk = hsv_colour(rng.uniform(0, 360), rng.uniform(0.1, 0.6), rng.uniform(0.2, 0.8))
        paper = hsv_colour(rng.uniform(0, 360), rng.uniform(0, 0.06), rng.uniform(0.9, 1.0))
        image.paste(desk, (0, 0, width, height))
        image.paste(paper, (inset_x, inset_y, width - inset_x, height - inset_y))
    margin_x, margin_y = inset_x + 3 + rng.random() * 0.05 * width, inset_y + 3
    return image, (margin_x, margin_y, width - margin_x, height - margin_y)


def make_receipt(size: tuple[int, int], num_questions: int, rng: random.Random, split: str) -> Sample:
    image, box = draw_paper(size, rng)
    width, height = box[2] - box[0], box[3] - box[1]
    path = draw_face(rng, split)
    face_size = rng.randint(12, 20)
    while face_size > 8 and (
        LEAST_ROWS * 1.2 * face_size > height
        or LEAST_CHARS * mean_advance(load_face(path, face_size)) > width
    ):
        face_size -= 1
    face = load_face(path, face_size)
    fitting_rows = max(LEAST_ROWS, int(height / (1.2 * face_size)))
    num_items = rng.randint(2, min(5, fitting_rows - LEAST_ROWS + 2))
    receipt = draw_receipt(face, width, num_items, rng)
    rows = lay_out(receipt, face, width, fitting_rows - LEAST_ROWS + 2 - num_items, rng)
    glyphs = print_rows(ImageDraw.Draw(image), rows, box, face, rng)

    names = [name.lower() for name, _ in receipt.items]
    drawn = [goods(rng) for _ in range(3)]
    absent = [name for name in drawn if all(name not in other and other not in name for other in names)]
    questions = receipt_questions(receipt, absent or ["elephant"], num_questions, rng)
    return Sample(world="receipt", pixels=degrade(image, rng), questions=questions, glyphs=glyphs)
