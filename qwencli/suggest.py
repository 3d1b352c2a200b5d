"""What somebody may have meant by a name that is not known."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str], form: str = "{}", otherwise: str = "") -> str:
    """A question with the nearest of the `known` names, written as `form` says; `otherwise` where none is."""
    close = get_close_matches(name, [*known], 1)
    return f"Did you mean {form.format(close[0])}?" if close else otherwise
