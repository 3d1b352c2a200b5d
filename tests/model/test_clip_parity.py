"""Clips, and pictures beside them, through the engine: step by step the logits of the official model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from qwen35.engine.load import load_engine
from qwen35.messages import Sampling, VideoPart
from tests.model.cache.asking import ask, picture, user
from tests.model.clips import clip
from tests.model.reference import TOKEN_ID

TOLERANCE = 1e-4
NUM_TOKENS = 8

# Frames, height and width of each clip.
PROMPTS = {
    "one clip": [(8, 64, 96)],
    "an odd number of frames, an odd size": [(7, 75, 133)],
    "one frame": [(1, 64, 64)],
    "several, and a picture": [(5, 64, 96), picture(height=64, width=64), (4, 200, 40)],
}


@pytest.mark.parametrize("name", PROMPTS)
def test_logits_are_those_of_transformers(talkative: tuple[Path, PreTrainedModel], name: str) -> None:
    folder, model = talkative
    parts = [
        VideoPart(clip(*part, fps=3.0, seed=index), Sampling(num_frames=part[0]))
        if isinstance(part, tuple)
        else part
        for index, part in enumerate(PROMPTS[name])
    ]
    messages = [user("Look: ", *parts, "what happens?")]
    engine = load_engine(folder, device="cpu", num_threads=1)
    prompt = engine.processor.prepare(messages)
    patches = [pair for planned in prompt.clips for pair in planned.patches()]
    grids = [(planned.plan.num_pairs, *planned.processor.grid(planned.plan)[1:]) for planned in prompt.clips]
    kinds = {TOKEN_ID["<|image_pad|>"]: 1, TOKEN_ID["<|video_pad|>"]: 2}
    pictures = (
        {}
        if prompt.pixel_values is None
        else {
            "pixel_values": torch.from_numpy(prompt.pixel_values),
            "image_grid_thw": torch.from_numpy(prompt.grid_thw),
        }
    )
    ids = torch.from_numpy(prompt.ids)[None]
    model.model.rope_deltas = None  # else a picture's delta is reused by the next prompt
    expected = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=torch.tensor([[kinds.get(token, 0) for token in prompt.ids.tolist()]]),
        pixel_values_videos=torch.from_numpy(np.concatenate(patches)),
        video_grid_thw=torch.tensor(grids),
        **pictures,
        do_sample=False,
        max_new_tokens=NUM_TOKENS,
        pad_token_id=TOKEN_ID["<|endoftext|>"],
        return_dict_in_generate=True,
        output_logits=True,
    )

    answer = ask(engine, messages)

    assert answer.pictures == len(prompt.media)
    np.testing.assert_allclose(answer.logits, torch.cat(expected.logits).numpy(), atol=TOLERANCE)
