"""The clipboard: the answer into it, a picture out of it, where the system has a way."""

import io
import shutil
import subprocess
import sys

from qwen35.errors import InputError

# Programs that take the clipboard's text on standard input.
_TAKING_TEXT = (
    ("wl-copy",),
    ("xclip", "-selection", "clipboard"),
    ("xsel", "--clipboard", "--input"),
    ("pbcopy",),
    ("clip.exe",),
)
_PATIENCE_S = 5.0
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # of Pillow


def copy_text(text: str) -> str | None:
    """Put `text` there. Returns the name of the program that did it; None where none could."""
    for program in _TAKING_TEXT:
        if shutil.which(program[0]) is None:
            continue
        try:
            done = subprocess.run(
                program, input=text.encode(), stderr=subprocess.DEVNULL, timeout=_PATIENCE_S
            )
        except subprocess.TimeoutExpired:
            continue
        if done.returncode == 0:
            return program[0]
    return None


def read_picture() -> bytes:
    """The picture that lies there, as PNG, or the file that was copied in its place (Windows).

    Raises InputError where there is none, or no way to read it.
    """
    from PIL import Image, ImageGrab

    try:
        found = ImageGrab.grabclipboard()
        if isinstance(found, list):
            found = Image.open(found[0]) if found else None
        if found is None:
            raise InputError("There is no picture in the clipboard. Copy one, or name a file: /image PATH.")
        png = io.BytesIO()
        (found if found.mode in _PNG_MODES else found.convert("RGB")).save(png, "png")
    except NotImplementedError:
        raise InputError(
            f"The clipboard cannot be read here: {_missing()} Or name a file: /image PATH."
        ) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"The clipboard's picture cannot be read ({reason}). Name a file: /image PATH."
        ) from None
    return png.getvalue()


def _missing() -> str:
    if sys.platform == "linux":
        return "install wl-clipboard (Wayland) or xclip (X11)."
    return "Pillow knows no way on this system."
