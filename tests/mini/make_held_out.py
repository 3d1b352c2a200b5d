"""Write what the tests ask the built-in model about: `python -m tests.mini.make_held_out [TASK ...]`.

They are held out from training, and committed so that the tests need no typefaces. Make them anew only
when the data change; those of other tasks than the named ones stay as they are.
"""

import json
import sys
from pathlib import Path

from PIL import Image

from mini.clips import Film
from mini.evaluate_tasks import CLIP_TASKS, DOCUMENT_TASKS, held_out
from tests.media.clips import encode

FOLDER = Path(__file__).parent / "held_out"
NUM_SAMPLES = {"scenes": 60, "text": 12, "lines": 12, "receipts_total": 12, "outside": 40}
NUM_SAMPLES |= dict.fromkeys((task for task in DOCUMENT_TASKS if task != "document_cells"), 8)
MAX_PIXELS = 200 * 200  # small files: noise does not compress
NUM_CLIPS = 5  # of each task
MAX_CLIP_BYTES = 7_000


def write_clips(task: str) -> list[dict[str, str]]:
    """The first small ones, as users have them: H.264, whose sides are even."""
    items: list[dict[str, str]] = []
    for sample in held_out(task, 4 * NUM_CLIPS):
        assert sample.clip is not None
        film, question = sample.clip.clip, sample.questions[0]
        assert isinstance(film, Film)
        path = FOLDER / f"{task}-{len(items):02}.mp4"
        height, width = film.height // 2 * 2, film.width // 2 * 2
        encode(path, (pixels[:height, :width] for pixels in film.pictures()), fps=round(film.fps), crf="26")
        if len(items) == NUM_CLIPS or path.stat().st_size > MAX_CLIP_BYTES:
            path.unlink()
            continue
        items.append(
            {"task": task, "clip": path.name, "question": question.question, "answer": question.answer}
            | ({"system": question.system} if question.system else {})
        )
    return items


def write_pictures(task: str, num_samples: int) -> list[dict[str, str | None]]:
    items: list[dict[str, str | None]] = []
    small = [
        sample
        for sample in held_out(task, 4 * num_samples)
        if sample.pixels is None or sample.pixels.shape[0] * sample.pixels.shape[1] <= MAX_PIXELS
    ]
    for index, sample in enumerate(small[:num_samples]):
        question = sample.questions[0]
        name = None
        # Photographs belong to the packages they come from and stay there.
        if question.task == "outside_photograph":
            continue
        if sample.pixels is not None:
            name = f"{task}-{index:02}.png"
            Image.fromarray(sample.pixels).save(FOLDER / name, optimize=True)
        items.append(
            {"task": task, "picture": name, "question": question.question, "answer": question.answer}
            | ({"kind": question.task} if task in DOCUMENT_TASKS else {})
            | ({"system": question.system} if question.system else {})
        )
    return items


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    listing = FOLDER / "questions.json"
    wanted = sys.argv[1:] or [*NUM_SAMPLES, *CLIP_TASKS]
    items = [item for item in json.loads(listing.read_text()) if item["task"] not in wanted]
    for task in wanted:
        for path in FOLDER.glob(f"{task}-[0-9]*"):
            path.unlink()
        items += write_clips(task) if task in CLIP_TASKS else write_pictures(task, NUM_SAMPLES[task])
    listing.write_text(json.dumps(items, indent=1) + "\n")


if __name__ == "__main__":
    main()
