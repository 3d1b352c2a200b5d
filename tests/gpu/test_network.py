"""The network on a CUDA device gives what it gives on a CPU, however it is cut, stepped, saved or batched."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from qwen35.backends.plain import PlainBackend
from qwen35.config import ModelConfig
from qwen35.engine.batching import Item, answer_all
from qwen35.engine.engine import Engine
from qwen35.engine.load import States, load_engine
from qwen35.engine.request import Request
from qwen35.engine.several import answer_several
from qwen35.events import Finished
from tests.gpu.running import (
    STEPS,
    TOLERANCE,
    Input,
    arrays_of,
    assert_close,
    assert_equal,
    decode,
    error,
    everything,
    input_of,
    load,
    prefill,
    tolerance_of,
)
from tests.model.cache.asking import GREEDY, picture, user, words
from tests.model.reference import PROMPTS, make_prompt

pytestmark = pytest.mark.gpu

PICTURES = "several images of odd sizes"
LONG = make_prompt(150, (4, 6), 130, (10, 2), 6)  # over a block of keys, five chunks of the delta rule


def given_for(backend: PlainBackend, name: str = PICTURES) -> Input:
    prompt = LONG if name == "long" else PROMPTS[name]
    return input_of(backend.model.config, prompt)


def test_products_of_float32_are_not_rounded_to_tf32(device: str) -> None:
    """As the program finds torch: nothing here sets it."""
    assert torch.get_float32_matmul_precision() == "highest"
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(300, 500, generator=generator), torch.randn(500, 200, generator=generator)
    found = (a.to(device) @ b.to(device)).cpu().numpy()
    assert error(found, (a.double() @ b.double()).numpy()) < 1e-5


@functools.cache
def on_cpu(folder: Path, dtype: str, name: str) -> dict[str, np.ndarray]:
    backend = load(folder, "cpu", dtype)
    return everything(backend, given_for(backend, name))


@pytest.mark.parametrize("name", [*PROMPTS, "long"])
def test_float32_is_that_of_a_cpu(folder: Path, device: str, name: str) -> None:
    """Features, logits of the prompt and of each step, and all states."""
    backend = load(folder, device)
    assert backend.device.type == device
    found = everything(backend, given_for(backend, name))
    assert_close(found, on_cpu(folder, "float32", name), tolerance_of(folder))


def test_bfloat16_is_as_close_to_float32_as_on_a_cpu(folder: Path, device: str) -> None:
    backend = load(folder, device, "bfloat16")
    found = everything(backend, given_for(backend))
    exact, usual = (on_cpu(folder, dtype, PICTURES) for dtype in ("float32", "bfloat16"))
    for what in ("features", "prefill", "decode"):
        ours, theirs = (np.abs(each[what] - exact[what]).mean() for each in (found, usual))
        assert np.isfinite(ours), what
        assert ours <= max(2 * theirs, 0.01 * np.abs(exact[what]).mean()), (what, ours, theirs)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [(PICTURES, [1]), (PICTURES, [16]), (PICTURES, [30, 1]), ("long", [64, 65]), ("long", [100])],
    ids=str,
)
def test_prefill_in_pieces_is_one_pass(tiny_folder: Path, device: str, name: str, sizes: list[int]) -> None:
    """Pieces of one token are decode steps; some borders lie inside a picture."""
    backend = load(tiny_folder, device)
    given = given_for(backend, name)
    assert_close(everything(backend, given, sizes), everything(backend, given))


def test_prefill_in_pieces_is_one_pass_with_true_heads(folder: Path, device: str) -> None:
    backend = load(folder, device)
    given = given_for(backend, "long")
    found, expected = everything(backend, given, [64, 65]), everything(backend, given)
    assert_close(found, expected, tolerance_of(folder))


def test_steps_are_the_prefill_of_what_they_decode(folder: Path, device: str) -> None:
    backend = load(folder, device)
    config, prompt = backend.model.config, PROMPTS[PICTURES]
    given = input_of(config, prompt)
    state, first = prefill(backend, given)
    found = np.concatenate([first[None], decode(backend, state)])
    for count in (0, 1, len(STEPS)):
        ids = np.concatenate([given.ids, np.array(STEPS[:count], given.ids.dtype)])
        more = len(given.ids) + given.delta + np.arange(count)
        positions = np.concatenate([given.position_ids, np.tile(more, (3, 1))], axis=1)
        whole = Input(ids, positions, given.delta, given.patches, given.grids)
        assert error(found[count], prefill(backend, whole)[1]) <= TOLERANCE


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_once_more_is_the_same_bits(folder: Path, device: str, dtype: str) -> None:
    """What is saved under one name must be what would be computed."""
    backend = load(folder, device, dtype)
    given = given_for(backend, "long")
    assert_equal(everything(backend, given, [100]), everything(backend, given, [100]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_fork_continues_as_the_original_and_leaves_it_alone(
    tiny_folder: Path, device: str, dtype: str
) -> None:
    backend = load(tiny_folder, device, dtype)
    state, _ = prefill(backend, given_for(backend, "long"))
    snapshot = state.fork()
    kept = [array.copy() for array in arrays_of(snapshot)]
    expected = decode(backend, state)
    other = snapshot.fork()
    decode(backend, other, [90, 91, 92])
    assert all(np.array_equal(a, b) for a, b in zip(arrays_of(snapshot), kept, strict=True))
    assert np.array_equal(decode(backend, snapshot), expected)


@pytest.mark.filterwarnings("default")  # of operations that are not deterministic
def test_no_value_is_read_that_nobody_wrote(folder: Path, device: str) -> None:
    """Fresh memory is NaN."""
    backend = load(folder, device)
    given = given_for(backend)
    expected = everything(backend, given, [30])
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.isnan(torch.empty(1000, device=device)).all()
        found = everything(load(folder, device), given, [30])
    finally:
        torch.use_deterministic_algorithms(False)
    assert_close(found, expected)


def test_rows_of_different_pasts_are_each_row_alone(folder: Path, device: str) -> None:
    backend = load(folder, device)
    config = backend.model.config
    prompts = (*PROMPTS.values(), make_prompt(1), make_prompt(256), LONG)
    states = [prefill(backend, input_of(config, prompt))[0] for prompt in prompts]
    alone = [state.fork() for state in states]
    tokens = np.arange(len(states)) + 60
    for step in range(4):
        together = backend.decode(states, tokens + step)
        for row, state in enumerate(alone):
            assert error(together[row], backend.decode([state], tokens[row : row + 1] + step)[0]) <= TOLERANCE
    for state, other in zip(states, alone, strict=True):
        for ours, theirs in zip(arrays_of(state), arrays_of(other), strict=True):
            assert error(ours, theirs) <= 10 * TOLERANCE


def engine_of(folder: Path, device: str, states: Path | None = None, speculate: int = 0) -> Engine:
    kept = States(states, 10**9, 10**8) if states else None
    return load_engine(folder, device=device, dtype="float32", states=kept, speculate=speculate)


def requests() -> dict[str, Request]:
    said = {
        "text": user("What is 2 + 2?"),
        "picture": user(picture(1), "What do you see?"),
        "two pictures": user(picture(2), picture(3, 64, 160), "Are they alike?"),
        "long": user(words(700), "What does it say?"),
        "short": user("a"),
    }
    lengths = dict(zip(said, (7, 12, 16, 3, 20), strict=True))
    return {
        name: Request((message,), sampling=GREEDY, max_tokens=lengths[name]) for name, message in said.items()
    }


def answers_alone(engine: Engine) -> dict[str, str]:
    found = {}
    for name, request in requests().items():
        finished = list(engine.generate(request))[-1]
        assert isinstance(finished, Finished)
        found[name] = finished.answer
    return found


def test_answers_are_those_of_a_cpu(talking_folder: Path, device: str) -> None:
    answers = answers_alone(engine_of(talking_folder, device))
    assert all(answers.values())
    assert answers == answers_alone(engine_of(talking_folder, "cpu"))


def test_several_requests_at_once_are_answered_as_alone(talking_folder: Path, device: str) -> None:
    engine = engine_of(talking_folder, device)
    items = [Item(name, request) for name, request in requests().items()]
    ends = {key: event for key, event in answer_all(engine, items, 3) if isinstance(event, Finished)}
    assert {key: event.answer for key, event in ends.items()} == answers_alone(engine)


def test_several_answers_are_those_of_requests_of_their_own(talking_folder: Path, device: str) -> None:
    engine = engine_of(talking_folder, device)
    request = Request((user(picture(1), "What?"),), max_tokens=8, seed=5)
    finished = list(answer_several(engine, request, None, 3))[-1]
    assert isinstance(finished, Finished)
    assert finished.others is not None
    alone = [
        list(engine.generate(Request(request.messages, max_tokens=8, seed=seed)))[-1].answer
        for seed in (5, 6, 7)
    ]
    assert [finished.answer, *(other.answer for other in finished.others)] == alone


def test_a_state_that_was_saved_to_a_file_goes_on_as_it_would_have(
    talking_folder: Path, device: str, tmp_path: Path
) -> None:
    fresh = answers_alone(engine_of(talking_folder, device))
    first = engine_of(talking_folder, device, tmp_path / "states")
    assert answers_alone(first) == fresh
    assert first.close() == []
    again = engine_of(talking_folder, device, tmp_path / "states")
    for name, request in requests().items():
        finished = list(again.generate(request))[-1]
        assert isinstance(finished, Finished)
        assert finished.answer == fresh[name]
        assert finished.usage.cached_tokens > 0 or name in ("text", "short"), name
    again.close()


def test_states_of_a_gpu_have_a_name_of_their_own(tiny_folder: Path, device: str) -> None:
    """They are not the CPU's, bit by bit."""
    names = {load(tiny_folder, where).numerics for where in (device, "cpu")}
    assert len(names) == (2 if device == "cuda" else 1)


def test_speculation_changes_nothing(talking_folder: Path, device: str) -> None:
    """This path drafts nothing; asked to, it answers all the same."""
    engine = engine_of(talking_folder, device, speculate=2)
    assert answers_alone(engine) == answers_alone(engine_of(talking_folder, device))


def test_tolerances_tell_a_wrong_network_apart(device: str, folder: Path) -> None:
    """One changed weight in one layer is seen."""
    backend = load(folder, device)
    given = given_for(backend)
    expected = everything(backend, given)
    weight = backend.model.language_model.layers[1].input_layernorm.weight
    weight[0] += 0.05
    assert error(everything(backend, given)["decode"], expected["decode"]) > TOLERANCE
    assert ModelConfig.from_folder(folder).vision is not None
