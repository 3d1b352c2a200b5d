"""Where typefaces come from, and which of them training never sees.

`python -m mini.fonts FOLDER` copies every face found here to a folder, for a machine that has none:
there the environment variable MINI_FONTS names that folder.
"""

import os
import random
import shutil
import sys
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

# Packages that bundle typefaces, each with the folder of its faces.
PACKAGES = {
    "matplotlib": "mpl-data/fonts/ttf",
    "font_roboto": "files",
    "font_source_sans_pro": "files",
    "font_source_serif_pro": "files",
    "font_hanken_grotesk": "files",
    "font_manrope": "files",
    "font_caladea": "files",
}
SYSTEM_FOLDERS = ("dejavu", "liberation", "freefont")
SYSTEM_ROOT = Path("/usr/share/fonts/truetype")
# Faces of signs or of letters in other signs' places, and faces too thin or too black to read small.
UNFIT = ("cm", "STIX", "LastResort", "Math", "Display", "Thin", "ExtraLight", "Black", "Variable")
HELD_OUT = "Caladea"
FIRST = ("DejaVuSans", "DejaVuSerif", "LiberationSans-Regular", "Roboto-Regular")


def folders() -> list[Path]:
    """Folders that may hold typefaces; MINI_FONTS, where set, is the only one."""
    if "MINI_FONTS" in os.environ:
        return [Path(os.environ["MINI_FONTS"])]
    found = [SYSTEM_ROOT / name for name in SYSTEM_FOLDERS]
    for package, inside in PACKAGES.items():
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            found.append(Path(spec.origin).parent / inside)
    return found


@lru_cache
def all_faces() -> tuple[Path, ...]:
    """The typefaces of this machine by name, each once."""
    by_name = {
        path.stem: path
        for folder in folders()
        for path in sorted(folder.iterdir() if folder.is_dir() else ())
        if path.suffix in (".ttf", ".otf") and not any(word in path.name for word in UNFIT)
    }
    return tuple(by_name[name] for name in sorted(by_name))


@lru_cache
def families(is_held_out: bool) -> tuple[tuple[Path | None, ...], ...]:
    """The faces by family, either those for training or those held out of it."""
    by_family: dict[str, list[Path | None]] = {} if is_held_out else {"Pillow": [None]}
    for path in all_faces():
        family = path.stem.split("-")[0]
        if (family == HELD_OUT) == is_held_out:
            by_family.setdefault(family, []).append(path)
    return tuple(tuple(faces) for faces in by_family.values())


@lru_cache
def first_faces() -> tuple[Path, ...]:
    return tuple(path for path in all_faces() if path.stem in FIRST)


@lru_cache(maxsize=4096)
def load_face(path: Path | None, size: int) -> ImageFont.FreeTypeFont:
    """The face at a size in pixels; without a path Pillow's own. Kerned, but without ligatures."""
    if path is None:
        face = ImageFont.load_default(size)
        assert isinstance(face, ImageFont.FreeTypeFont)
        return face
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def draw_face(rng: random.Random, split: str, difficulty: float = 1.0) -> Path | None:
    """A typeface for one picture: a few plain ones at difficulty 0, all of them at 1.

    One test picture in ten has the held-out family.
    """
    if split == "test" and families(is_held_out=True) and rng.random() < 0.1:
        return rng.choice(rng.choice(families(is_held_out=True)))
    if first_faces() and rng.random() >= 0.2 + 0.8 * difficulty:
        return rng.choice(first_faces())
    return rng.choice(rng.choice(families(is_held_out=False)))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for face_path in all_faces():
        shutil.copy(face_path, target)
    print(f"{len(all_faces())} faces in {target}")
