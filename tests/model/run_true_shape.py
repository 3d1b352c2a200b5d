"""Load a checkpoint, ask it about a picture, print what was seen as JSON.

A process of its own, so that its peak memory is that of loading and running alone.
"""

import json
import resource
import sys
from pathlib import Path

import numpy as np

from qwen35.engine.engine import prepare
from qwen35.engine.load import load_engine
from qwen35.engine.request import Request, SamplingOverrides
from qwen35.messages import ImagePart, Message, TextPart

NUM_STEPS = 4


def main(folder: Path) -> None:
    engine = load_engine(folder, device="cpu", num_threads=2)
    pixels = np.random.default_rng(0).integers(0, 256, (270, 390, 3), dtype=np.uint8)
    message = Message("user", (ImagePart(pixels, "noise"), TextPart("What is this?")))
    request = Request((message,), sampling=SamplingOverrides(temperature=0.0), max_tokens=NUM_STEPS)
    finished = list(engine.generate(request))[-1]

    # The same once more by hand: an answer would hide logits that are NaN.
    backend, prompt = engine.backend, prepare(engine.processor, request)
    features = backend.encode_pictures(prompt.pixel_values, [span.grid for span in prompt.media])
    state = backend.new_state()
    state.mrope_delta = prompt.mrope_delta
    logits = [backend.prefill(state, prompt.ids, prompt.position_ids, features)]
    for _ in range(NUM_STEPS - 1):
        logits.append(backend.decode([state], logits[-1].argmax(keepdims=True))[0])

    report = {
        "num_parameters": sum(parameter.numel() for parameter in backend.model.parameters()),
        "image_tokens": finished.usage.image_tokens,
        "completion_tokens": finished.usage.completion_tokens,
        "is_finite": bool(np.isfinite(logits).all()),
        "spread": float(np.std(logits)),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
