"""A text with `{name}` where other words go: an item's own in a batch, a variable's in a template."""

import re
from collections.abc import Iterable, Mapping

from qwencli.suggest import did_you_mean

_PLACE = re.compile(r"\{\{([^\W\d][\w -]*)\}\}|\{([^\W\d][\w -]*)\}")


class MissingColumn(Exception):
    """An item has nothing that is called `name`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Places:
    """`{word}` is a place, `{{word}}` the text {word}; all other braces, as in JSON, stand for themselves."""

    def __init__(self, text: str) -> None:
        self.text = text

    def fill(self, columns: Mapping[str, str]) -> str:
        """The question about the item that has these columns. Raises MissingColumn."""

        def put(match: re.Match[str]) -> str:
            literal, name = match.groups()
            if literal is not None:
                return f"{{{literal}}}"
            if name not in columns:
                raise MissingColumn(name)
            return columns[name]

        return _PLACE.sub(put, self.text)


def unknown_name(name: str, known: Iterable[str]) -> str:
    """What to say of a place that no item can fill."""
    known = sorted(known)
    hint = did_you_mean(name, known, "{{{}}}")
    names = ", ".join(f"{{{other}}}" for other in known)
    found = f"{hint}{hint and ' '}There is {names}."
    return f"No item has {{{name}}}. {found} Write {{{{{name}}}}} for the text {{{name}}}."
