"""Facts for people, as text in columns: the same on a terminal and in a pipe."""

from collections.abc import Mapping, Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns two spaces apart; the last one is not padded."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header) - 1)]
    padded = [[*(line[i].ljust(width) for i, width in enumerate(widths)), line[-1]] for line in lines]
    return "".join("  ".join(line).rstrip() + "\n" for line in padded)


def facts(values: Mapping[str, str]) -> str:
    """One line for each name and value."""
    width = max(map(len, values))
    return "".join(f"{name.ljust(width)}  {value}\n" for name, value in values.items())


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
