"""Write a random packed model of a true shape: `python benchmarks/synthetic_packed.py 0.8b OUT`.

What `qwen models pack` would make of `synthetic.py`'s checkpoint, without the detour over 16 bits, which
for 35B-A3B would be 70 GB: tiles are drawn, not rounded. Zero-mean, so that routers spread their tokens.
"""

import argparse
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path

import numpy as np

from benchmarks.synthetic import (
    DEVIATION,
    SIZES,
    TINY_SIZES,
    Pool,
    RandomValues,
    Size,
    config_json,
    is_matrix,
    write_small_files,
)
from qwen35.config import ModelConfig
from qwen35.processing.vocabulary import FILE as VOCABULARY
from qwen35.processing.vocabulary import compile_vocabulary
from qwen35.weights.checksum import Checksum
from qwen35.weights.layout import Item, Part, file_sizes, lay_out
from qwen35.weights.manifest import MANIFEST, VERSION, FileEntry, Manifest, SourceEntry
from qwen35.weights.pack_plan import entries_of
from qwen35.weights.recipe import Recipe
from qwen35.weights.shapes import parameter_shapes
from qwen35.weights.sources.safetensors import SMALL_FILES
from qwen35.weights.tiles import F32, Q4, Q8, SCALE_BYTES, TileFormat

POOL_BLOCKS = 32771  # a prime: no matrix begins where another did


class AllQ4(Recipe):
    """4 bits also for embedding and head: the bits that a peer's file of pure Q4_0 has."""

    def format_of(self, name: str, shape: tuple[int, ...]) -> str:
        shipped = super().format_of(name, shape)
        is_kept = name.startswith("visual.") or fnmatchcase(name, "*.in_proj_[ab].weight")
        return shipped if shipped == F32 or is_kept else Q4.name


RECIPES = {"all-q4": AllQ4("q4"), "default": Recipe("q4")}


class RandomTiles:
    """Bytes of packed parts. Padding is drawn like the rest: it meets inputs that are zero."""

    def __init__(self, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self._values = RandomValues(seed)
        self._pools = {tile.name: Pool(_draw_blocks(tile, generator)) for tile in (Q4, Q8)}

    def of(self, part: Part, shape: tuple[int, ...]) -> Iterator[bytes | memoryview]:
        name = part.place.parameter
        if part.format != F32:
            yield from self._pools[part.format].take(part.size_bytes)
        elif is_matrix(name, shape):
            yield self._values.normal((part.n, part.k), DEVIATION).tobytes()
        else:
            yield self._values.small(name, shape).tobytes()


def _draw_blocks(tile: TileFormat, generator: np.random.Generator) -> bytes:
    blocks = np.empty((POOL_BLOCKS, tile.block_bytes), np.uint8)
    quants = blocks[:, SCALE_BYTES:]
    highest = tile.highest
    if tile is Q4:  # a nibble is q + 8; the lowest of the range, -8, would shift the mean
        nibbles = generator.integers(8 - highest, 8 + highest, (2, *quants.shape), np.uint8, endpoint=True)
        quants[:] = nibbles[0] | nibbles[1] << 4
    else:
        quants[:] = generator.integers(-highest, highest, quants.shape, np.int8, endpoint=True).view(np.uint8)
    blocks[:, :SCALE_BYTES] = draw_scales(generator, (POOL_BLOCKS, SCALE_BYTES // 2), highest).view(np.uint8)
    return blocks.tobytes()


def draw_scales(generator: np.random.Generator, shape: tuple[int, ...], highest: int) -> np.ndarray:
    """fp16 scales that make values of DEVIATION of whole numbers spread evenly over +-`highest`."""
    spread = np.sqrt(((2 * highest + 1) ** 2 - 1) / 12)
    return (generator.uniform(0.75, 1.25, shape) * DEVIATION / spread).astype(np.float16)


def layout_hash(size: Size, recipe: Recipe) -> str:
    """Changes with the shapes, with what the recipe makes of them and with the format of packed models."""
    config = ModelConfig.from_dict(config_json(size), "config.json")
    places = [
        (item.file, item.offset, [part.format for part in item.parts]) for item in _items(config, recipe)
    ]
    return hashlib.sha256(repr((VERSION, places)).encode()).hexdigest()[:8]


def _items(config: ModelConfig, recipe: Recipe) -> tuple[Item, ...]:
    return lay_out(parameter_shapes(config), recipe)


def write_packed(size: Size, folder: Path, recipe: Recipe) -> None:
    """The whole folder; the manifest last, as packing does it."""
    write_small_files(size, folder)
    if vocabulary := compile_vocabulary((folder / "tokenizer.json").read_bytes()):
        (folder / VOCABULARY).write_bytes(vocabulary)
    config = ModelConfig.from_dict(config_json(size), "config.json")
    items = _items(config, recipe)
    tiles = RandomTiles()
    checksums: list[str] = []
    files = {name: FileEntry(path.stat().st_size, _sha256(path)) for name, path in _small_files(folder)}
    for file, size_bytes in file_sizes(items).items():
        own = [item for item in items if item.file == file]
        files[file] = FileEntry(size_bytes, _write_file(folder / file, size_bytes, own, tiles, checksums))
    source = SourceEntry(
        folder.name, "bfloat16", 2 * sum(map(prod, parameter_shapes(config).values())), "synthetic"
    )
    manifest = Manifest(source, recipe.quant, *entries_of(items, checksums), files)
    (folder / MANIFEST).write_bytes(manifest.to_bytes())


def _small_files(folder: Path) -> list[tuple[str, Path]]:
    return [(name, folder / name) for name in (*SMALL_FILES, VOCABULARY) if (folder / name).exists()]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_file(
    path: Path, size_bytes: int, items: list[Item], tiles: RandomTiles, checksums: list[str]
) -> str:
    """Write one data file. Its items' checksums are added to `checksums`, its SHA-256 is returned."""
    whole = hashlib.sha256()
    with path.open("wb") as file:

        def write(data: bytes | memoryview) -> None:
            file.write(data)
            whole.update(data)

        for item in items:
            write(bytes(item.offset - file.tell()))
            checksum = Checksum()
            for part in item.parts:
                padding = bytes(item.offset + part.offset - file.tell())
                for data in (padding, *tiles.of(part, item.shape)):
                    write(data)
                    checksum.update(data)
            padding = bytes(item.offset + item.size_bytes - file.tell())
            write(padding)
            checksum.update(padding)
            checksums.append(checksum.hexdigest())
        write(bytes(size_bytes - file.tell()))
    return whole.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", choices=(*SIZES, *TINY_SIZES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, help="the first so many layers alone, a multiple of 4")
    parser.add_argument("--recipe", choices=RECIPES, default="default")
    arguments = parser.parse_args()
    size = (SIZES | TINY_SIZES)[arguments.size]
    size = replace(size, has_mtp=False, num_layers=arguments.layers or size.num_layers)
    if size.num_layers % 4:
        parser.error("--layers must be a multiple of 4")
    write_packed(size, arguments.folder, RECIPES[arguments.recipe])


if __name__ == "__main__":
    main()
