"""Compute what the official processors' torchvision backend makes of three pictures and two clips.

torchvision's wheels of this machine's registry are built for CUDA: their compiled part does not load
beside the CPU build of torch, and importing them fails. Resizing needs none of it: it is
`torch.nn.functional.interpolate`. So the two operators that the import asks for are declared, without
any body, before torchvision is imported. Once, in an environment of its own:

    pip install torch==2.13.0 transformers==5.23.0 pillow
    pip install --no-deps --target TV torchvision==0.28.0
    PYTHONPATH=TV python tests/golden/make_torchvision_golden.py
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

GOLDEN = Path(__file__).parent / "torchvision.npz"
GOLDEN_CLIPS = Path(__file__).parent / "torchvision_clips.npz"
SETTINGS = {
    "size": {"shortest_edge": 8 * 32 * 32, "longest_edge": 20 * 32 * 32},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


CLIP_SETTINGS = SETTINGS | {"size": {"shortest_edge": 4096, "longest_edge": 8 * 48 * 32 * 32}}
CLIPS = {  # frames in the file, frames a second
    "smooth, as it is": (11, 5.0),
    "sharp, reduced": (30, 10.0),
}


def smooth_picture(height: int, width: int) -> np.ndarray:
    """Light and shade as in a photograph out of focus: a gradient, waves and two soft spots."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    shade = 0.5 + 0.25 * (x - y) + 0.1 * np.sin(9 * x + 5 * y) + 0.05 * np.cos(23 * x * y + 11 * y)
    spots = 0.4 * np.exp(-40 * ((x - 0.3) ** 2 + (y - 0.6) ** 2)) - 0.3 * np.exp(
        -25 * ((x - 0.7) ** 2 + (y - 0.3) ** 2)
    )
    channels = np.stack([shade + spots, shade - 0.5 * spots, 0.9 - shade + 0.3 * spots], axis=-1)
    return np.clip(np.rint(channels * 255), 0, 255).astype(np.uint8)


def sharp_picture(height: int, width: int) -> np.ndarray:
    """Black on white, with one-pixel lines: the worst that a resampler is given."""
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((width // 5, height // 4, width // 2, height // 2), fill="black")
    draw.ellipse((width // 2, height // 3, width - 5, height - 9), fill=(200, 20, 30))
    for offset in range(0, width, 7):
        draw.line((offset, 0, width - offset, height), fill=(0, 0, 160))
    return np.asarray(picture)


def pictures() -> dict[str, np.ndarray]:
    return {
        "smooth, enlarged": smooth_picture(61, 83),
        "smooth, reduced": smooth_picture(187, 301),
        "sharp, reduced": sharp_picture(173, 140),
    }


def clips() -> dict[str, np.ndarray]:
    """Frames (F, height, width, 3) that differ: a picture that moves across its frame."""
    smooth, sharp = smooth_picture(96, 200), sharp_picture(170, 330)
    moving = {
        "smooth, as it is": [smooth[:, 4 * n : 4 * n + 128] for n in range(11)],
        "sharp, reduced": [sharp[:, 2 * n : 2 * n + 251] for n in range(30)],
    }
    return {name: np.stack(frames) for name, frames in moving.items()}


def levels(pixel_values: torch.Tensor) -> np.ndarray:
    """Patches (P, 3, 2, 16, 16) as the bytes that they were normalised from."""
    exact = (pixel_values * 0.5 + 0.5) * 255
    rounded = exact.round()
    assert (exact - rounded).abs().max() < 1e-3, "not made from bytes: store float32 instead"
    return rounded.view(-1, 3, 2, 16, 16).numpy().astype(np.uint8)


def main() -> None:
    for operator in ("nms", "qnms"):
        torch.library.define(
            f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
    import torchvision
    from transformers import Qwen2VLImageProcessor, Qwen3VLVideoProcessor
    from transformers.video_utils import VideoMetadata

    processor = Qwen2VLImageProcessor(**SETTINGS)
    arrays = {}
    for name, pixels in pictures().items():
        result = processor(Image.fromarray(pixels), return_tensors="pt")
        arrays[f"{name}: pixels"] = pixels
        slots = levels(result["pixel_values"])
        assert np.array_equal(slots[:, :, 0], slots[:, :, 1])
        arrays[f"{name}: levels"] = slots[:, :, 0]
        arrays[f"{name}: grid"] = result["image_grid_thw"][0].numpy()
    np.savez_compressed(GOLDEN, **arrays)
    processor = Qwen3VLVideoProcessor(**CLIP_SETTINGS)
    arrays = {}
    for name, frames in clips().items():
        about = VideoMetadata(total_num_frames=len(frames), fps=CLIPS[name][1])
        result = processor(videos=[frames], video_metadata=[about], return_metadata=True, return_tensors="pt")
        arrays[f"{name}: levels"] = levels(result["pixel_values_videos"])
        arrays[f"{name}: grid"] = result["video_grid_thw"][0].numpy()
        arrays[f"{name}: indices"] = np.array(result["video_metadata"][0].frames_indices)
    np.savez_compressed(GOLDEN_CLIPS, **arrays)
    sizes = [path.stat().st_size for path in (GOLDEN, GOLDEN_CLIPS)]
    print(f"torchvision {torchvision.__version__}: {sizes} bytes")


if __name__ == "__main__":
    main()
