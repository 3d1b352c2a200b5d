"""A checkpoint written by `save_pretrained`, asked through the command line, token by token against
the official processing and `generate`.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, PreTrainedModel, PreTrainedTokenizerFast

from tests.model.reference import TOKEN_ID

NUM_TOKENS = 64
CLEAR_LEAD = 1e-3  # of the best logit over the second: so far ours must choose alike


@dataclass(frozen=True)
class Question:
    prompt: str
    picture_sizes: tuple[tuple[int, int], ...] = ()  # (height, width) in pixels
    system: str | None = None


QUESTIONS = {
    "text": Question("Wie heißt die Hauptstadt?\nIn one word, please."),
    "one picture": Question("What is this?", ((97, 171),)),
    "pictures of odd sizes and a system message": Question(
        "Which differs?", ((64, 64), (33, 190), (201, 45)), system="Be brief."
    ),
}


def write_pictures(folder: Path, question: Question) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = []
    for index, (height, width) in enumerate(question.picture_sizes):
        coarse = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        path = folder / f"{index}.png"
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)
        paths.append(path)
    return paths


def official_answer(
    folder: Path, model: PreTrainedModel, question: Question, pictures: list[Path]
) -> tuple[str, int, int]:
    """The greedy answer, for how many tokens it is certain, and the length of the prompt."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    tokenizer.chat_template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    system = [{"role": "system", "content": question.system}] if question.system else []
    content = [{"type": "image"} for _ in pictures] + [{"type": "text", "text": question.prompt}]
    prompt = tokenizer.apply_chat_template(
        [*system, {"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    inputs = {}
    if pictures:
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        inputs = dict(processor([Image.open(path) for path in pictures], return_tensors="pt"))
        before, *after = prompt.split("<|image_pad|>")
        num_pads = (inputs["image_grid_thw"].prod(-1) // 4).tolist()
        prompt = before + "".join(
            "<|image_pad|>" * count + rest for count, rest in zip(num_pads, after, strict=True)
        )
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    result = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == TOKEN_ID["<|image_pad|>"]).int(),
        **inputs,
        do_sample=False,
        max_new_tokens=NUM_TOKENS,
        pad_token_id=TOKEN_ID["<|endoftext|>"],
        eos_token_id=[TOKEN_ID["<|im_end|>"], TOKEN_ID["<|endoftext|>"]],
        return_dict_in_generate=True,
        output_logits=True,
    )
    best = torch.cat(result.logits).topk(2).values
    is_close = (best[:, 0] - best[:, 1] < CLEAR_LEAD).tolist()
    num_certain = is_close.index(True) if True in is_close else NUM_TOKENS
    return tokenizer.decode(result.sequences[0, ids.shape[1] :]), num_certain, ids.shape[1]


def ask(folder: Path, home: Path, question: Question, pictures: list[Path]) -> dict:
    options = ["--json", "--threads", "1", "--temperature", "0", "--max-tokens", str(NUM_TOKENS)]
    if question.system:
        options += ["--system", question.system]
    words = ["ask", "-m", str(folder), *options, *map(str, pictures), question.prompt]
    result = subprocess.run(
        [sys.executable, "-m", "qwencli", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "QWEN_HOME": str(home)},
    )
    assert result.returncode == 7, result.stderr  # cut after so many tokens, as asked
    return json.loads(result.stdout)


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_the_command_line_answers_as_generate_does(
    talkative: tuple[Path, PreTrainedModel], tmp_path: Path, question: Question
) -> None:
    folder, model = talkative
    pictures = write_pictures(tmp_path, question)
    expected, num_certain, prompt_tokens = official_answer(folder, model, question, pictures)
    assert num_certain >= NUM_TOKENS // 4  # else choose another question
    assert len(set(expected)) > 1
    record = ask(folder, tmp_path / "home", question, pictures)
    assert record["answer"][:num_certain] == expected[:num_certain]
    assert record["usage"]["prompt_tokens"] == prompt_tokens
    assert record["usage"]["completion_tokens"] == NUM_TOKENS
    assert record["finish_reason"] == "length"
