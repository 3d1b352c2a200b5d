"""Text from files, models and the net, made harmless for a terminal."""

import re

# Control characters of ASCII and Latin-1 but newline and tab; with ESC and CSI go all the sequences
# that move the cursor, set the title or write to the clipboard. Then the marks that turn the
# direction of what follows.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def terminal_safe(text: str) -> str:
    """`text` with every character that a terminal would obey shown as U+FFFD."""
    return _UNSAFE.sub("\ufffd", text)


def one_line(text: str) -> str:
    """The same on one line: for notes and errors, which hold names that anybody may have chosen."""
    return terminal_safe(text).replace("\n", "\\n")
