"""Facts for people, as text in columns: the same on a terminal and in a pipe."""

import textwrap
from collections.abc import Mapping, Sequence

_LEAST_COLUMN = 20  # a narrower last column goes below the others


def table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Left-aligned columns two spaces apart; the last one is not padded.

    On a terminal of that `width` it is broken between words.
    """
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header) - 1)]
    return "".join(
        _hung("".join(f"{line[i].ljust(column)}  " for i, column in enumerate(widths)), line[-1], width)
        for line in lines
    )


def facts(values: Mapping[str, str], width: int | None = None) -> str:
    """One line for each name and value, which is broken between words on a terminal of that `width`."""
    column = max(map(len, values))
    return "".join(_hung(f"{name.ljust(column)}  ", value, width) for name, value in values.items())


def _hung(before: str, text: str, width: int | None) -> str:
    """One row, whose `text` goes on below where it began."""
    if width is None or not text.strip() or len(before) + len(text) <= width:
        return f"{before}{text}".rstrip() + "\n"
    if width - len(before) < _LEAST_COLUMN:
        below = textwrap.fill(
            text, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
        )
        return f"{before.rstrip()}\n{below}\n"
    indent = " " * len(before)
    hung = textwrap.fill(text, width, initial_indent=before, subsequent_indent=indent, break_on_hyphens=False)
    return hung + "\n"


def size(num_bytes: int) -> str:
    """12.3 MB: units of 1000, as disks are sold and models are listed."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= limit:
            return f"{num_bytes / limit:.1f} {unit}"
    return f"{num_bytes} B"


def count(number: int) -> str:
    """27.8B, 752M, 12.5M: as the names of models give their parameters."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= limit:
            digits = 0 if number >= 100 * limit else 1
            return f"{number / limit:.{digits}f}{unit}"
    return str(number)
