"""What printed text is made of: words, numbers, prices, dates, times, codes and random strings."""

import random
from pathlib import Path

LISTS = Path(__file__).parent / "lists"


def read_list(name: str) -> list[str]:
    """The entries of `lists/NAME.txt`, one a line."""
    return (LISTS / f"{name}.txt").read_text().splitlines()


WORDS = read_list("words")
SHORT_WORDS = [text for text in WORDS if len(text) <= 4]

MONTHS = read_list("months")
CURRENCIES = ("$", "", "", "")

# Letters and digits that look alike in many fonts stay out of random strings: nothing there tells them apart.
LETTERS = "abcdefghijkmnopqrstuvwxyz"
CAPITALS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
DIGITS = "0123456789"
# A character of a certain height beside them tells c from C.
ANCHORS = frozenset("abdefghijkmnqrtyABDEFGHJKLMNQRTY23456789")


def price(rng: random.Random) -> str:
    """`0.45` to `999.99`, mostly below 20."""
    units = rng.choice([rng.randint(0, 9), rng.randint(0, 19), rng.randint(10, 99), rng.randint(100, 999)])
    return f"{units}.{rng.randint(0, 99):02d}"


def date(rng: random.Random) -> str:
    day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(1990, 2031)
    form = rng.randrange(6)
    if form == 0:
        return f"{year}-{month:02d}-{day:02d}"
    if form == 1:
        return f"{day:02d}/{month:02d}/{year}"
    if form == 2:
        return f"{day:02d}.{month:02d}.{year}"
    if form == 3:
        return f"{day} {MONTHS[month - 1]} {year}"
    if form == 4:
        return f"{MONTHS[month - 1][:3]} {day}, {year}"
    return f"{day} {MONTHS[month - 1][:3]} {year}"


def time(rng: random.Random) -> str:
    hour, minute = rng.randint(0, 23), rng.randint(0, 59)
    return f"{hour:02d}:{minute:02d}" if rng.random() < 0.8 else f"{hour % 12 + 1}:{minute:02d} pm"


def number(rng: random.Random) -> str:
    """Up to six digits, some with thousands separated, some with a per cent sign."""
    digits = rng.randint(1, 6)
    value = rng.randint(10 ** (digits - 1), 10**digits - 1)
    form = rng.random()
    if form < 0.15:
        return f"{value:,}"
    return f"{value}%" if form < 0.25 else str(value)


def code(rng: random.Random) -> str:
    """Like `A7-42` or `XK 3051`."""
    head = "".join(rng.choice(CAPITALS) for _ in range(rng.randint(1, 3)))
    tail = str(rng.randint(0, 10 ** rng.randint(1, 4)))
    return head + rng.choice(["", "-", "-", ".", "/"]) + tail


def random_string(rng: random.Random, length: int) -> str:
    """Letters and digits of no meaning, at least one of them of a telling height."""
    pool = rng.choice([LETTERS, LETTERS, CAPITALS, DIGITS, LETTERS + CAPITALS + DIGITS[1:]])
    while True:
        text = "".join(rng.choice(pool) for _ in range(length))
        if not ANCHORS.isdisjoint(text):
            return text


def word(rng: random.Random) -> str:
    text = rng.choice(WORDS)
    form = rng.random()
    if form < 0.25:
        return text.capitalize()
    return text.upper() if form < 0.4 else text


def token(rng: random.Random) -> str:
    """One piece of text without a space, but for some dates and times."""
    chance = rng.random()
    if chance < 0.60:
        return word(rng)
    if chance < 0.68:
        return random_string(rng, rng.randint(2, 8))
    if chance < 0.77:
        return number(rng)
    if chance < 0.85:
        return rng.choice(CURRENCIES) + price(rng)
    if chance < 0.91:
        return date(rng)
    return time(rng) if chance < 0.95 else code(rng)


def punctuated(text: str, rng: random.Random) -> str:
    """Some tokens with a mark behind or around them."""
    chance = rng.random()
    if chance < 0.80:
        return text
    if chance < 0.95:
        return text + rng.choice(",,..:;!?")
    return rng.choice(
        ["({})", '"{}"', "'{}'", "{}'s", "[{}]", "#{}", "@{}", "{}/", "* {}", "- {}", "+ {}", "= {}", "& {}"]
    ).format(text)


def line(rng: random.Random, max_chars: int) -> str:
    """A line of one to `max_chars` characters, most often close to full."""
    if max_chars < 5:
        return short_line(rng, max_chars)
    wanted = max_chars if rng.random() < 0.6 else rng.randint(3, max_chars)
    text = ""
    for _ in range(12):
        piece = punctuated(token(rng), rng)
        longer = f"{text} {piece}" if text else piece
        if len(longer) <= wanted:
            text = longer
    return text or short_line(rng, 4)


def short_line(rng: random.Random, max_chars: int) -> str:
    """One to `max_chars` characters: a short word, a number or a random string."""
    length = rng.randint(1, max_chars)
    if rng.random() < 0.3:
        text = rng.choice(SHORT_WORDS)
        if 1 < len(text) <= max_chars:
            return text.capitalize() if rng.random() < 0.3 else text
    return random_string(rng, length)
