"""Write the pictures that the tests ask the built-in model about: `python -m tests.mini.make_held_out`.

They are held out from training, and committed so that the tests need no typefaces. Make them anew only
when the data change.
"""

import json
from pathlib import Path

from PIL import Image

from mini.evaluate_tasks import held_out

FOLDER = Path(__file__).parent / "held_out"
NUM_SAMPLES = {"scenes": 60, "text": 12, "lines": 12, "receipts_total": 12, "outside": 40}
MAX_PIXELS = 200 * 200  # small files: noise does not compress


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*"):
        path.unlink()
    items = []
    for task, num_samples in NUM_SAMPLES.items():
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
                | ({"system": question.system} if question.system else {})
            )
    (FOLDER / "questions.json").write_text(json.dumps(items, indent=1) + "\n")


if __name__ == "__main__":
    main()
