"""`--device cuda` as a user meets it: the built-in model, the examples' pictures, and what goes wrong."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import Invoke

pytestmark = pytest.mark.gpu

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# Answers of which the model is sure: on a GPU it runs in bfloat16, not on the kernels for CPUs.
QUESTIONS = {
    "shapes.png": ("describe", "how many shapes?"),
    "receipt.png": ("What was bought?",),
    "form.png": ("as csv",),
}


def ask(invoke: Invoke, device: str, *words: object) -> dict:
    result = invoke("ask", "-m", "mini", *words, "--device", device, "--json", "--temperature", "0")
    assert result.code == 0, result.err
    return json.loads(result.out)


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_built_in_model_answers_as_on_a_cpu(invoke: Invoke, device: str, name: str) -> None:
    for question in QUESTIONS[name]:
        found, expected = (
            ask(invoke, where, EXAMPLES / name, question, "--no-cache") for where in (device, "cpu")
        )
        assert found["answer"] == expected["answer"] != ""
        assert found["usage"] == expected["usage"]


def test_a_second_question_begins_where_the_first_ended(invoke: Invoke, device: str) -> None:
    picture = EXAMPLES / "shapes.png"
    ask(invoke, device, picture, "describe")
    second = ask(invoke, device, picture, "how many shapes?")
    assert second["answer"] == "3"
    assert second["cache"]["reused_tokens"] > 100
    if device == "cuda":  # what the CPU computed is not taken for what the GPU would
        assert ask(invoke, "cpu", picture, "how many shapes?")["cache"]["reused_tokens"] == 0


def test_a_batch_answers_as_one_by_one(invoke: Invoke, device: str) -> None:
    command = ("batch", "-m", "mini", EXAMPLES, "describe", "--include", "*.png", "--temperature", "0")
    assert invoke(*command, "--device", device, "-o", "out.jsonl").code == 0
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    answers = {Path(line["attachments"][0]["source"]).name: line["answer"] for line in lines}
    assert answers.keys() == {picture.name for picture in EXAMPLES.glob("*.png")}
    alone = ask(invoke, device, EXAMPLES / "shapes.png", "describe", "--no-cache")
    assert answers["shapes.png"] == alone["answer"]


def test_an_unpacked_model_runs_there_too(invoke: Invoke, folder_of: object, device: str) -> None:
    folder = folder_of("moe talks")  # type: ignore[operator]
    command = ("ask", "-m", folder, EXAMPLES / "shapes.png", "hello", "--no-cache", "--json", "--seed", "1")
    result = invoke(*command, "--max-tokens", "8", "--device", device)
    assert result.code == 7, result.err  # cut at --max-tokens
    assert json.loads(result.out)["usage"]["completion_tokens"] == 8


def run(*words: object, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qwencli", *map(str, words)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | environment,
        timeout=timeout,
    )


QUESTION = ("ask", "-m", "mini", EXAMPLES / "shapes.png", "describe", "--no-cache", "--json")


def test_a_process_of_its_own_answers(home: Path, device: str) -> None:
    done = run(*QUESTION, "--device", device)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answer"].startswith("A red circle at the top left")
    assert "Warning" not in done.stderr


def test_the_device_is_named(invoke: Invoke, device: str) -> None:
    values = json.loads(invoke("doctor", "--json").out)
    assert values["cuda"] == (torch.cuda.get_device_name(0) if torch.cuda.is_available() else None)


def test_no_device_is_told_in_words(home: Path, device: str) -> None:
    done = run(*QUESTION, "--device", "cuda", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 5
    last = done.stderr.splitlines()[-1]
    assert last == "error: --device cuda: torch finds no CUDA device here. Use --device cpu."
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["error"]["kind"] == "does_not_fit"


def test_a_model_too_large_for_the_card_is_told_in_words(
    invoke: Invoke, device: str, cuda: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda *_: (100 << 20, 1 << 36))
    result = invoke(*QUESTION, "--device", "cuda")
    assert result.code == 5
    assert "GB of GPU memory" in result.err
    assert "Traceback" not in result.err


def test_memory_that_runs_out_is_told_in_words(invoke: Invoke, device: str, cuda: None) -> None:
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved() / total)
    try:
        result = invoke(*QUESTION, "--device", "cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert result.code == 5, result.err
    assert "Not enough GPU memory" in result.err
    assert "Traceback" not in result.err


def test_a_card_that_others_have_filled_is_told_in_words(home: Path, device: str, cuda: None) -> None:
    """There is not even room for what CUDA itself needs."""
    gc.collect()
    torch.cuda.empty_cache()
    held = torch.empty(torch.cuda.mem_get_info()[0] - (96 << 20), dtype=torch.uint8, device=device)
    try:
        done = run(*QUESTION, "--device", "cuda")
    finally:
        del held
        torch.cuda.empty_cache()
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 5
    assert json.loads(done.stdout)["error"]["kind"] == "does_not_fit"
