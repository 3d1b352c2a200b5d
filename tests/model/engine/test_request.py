import pytest

from qwen35.engine.request import GenerationDefaults, SamplingOverrides
from qwen35.engine.sampler import SamplingParams
from qwen35.errors import CheckpointError

WHERE = "generation_config.json"
CARD = {
    "bos_token_id": 248044,
    "do_sample": True,
    "eos_token_id": [248046, 248044],
    "temperature": 0.7,
    "top_k": 20,
    "top_p": 0.8,
    "transformers_version": "5.0",
}


def test_the_checkpoints_own_values_are_the_defaults() -> None:
    defaults = GenerationDefaults.from_dict(CARD, WHERE)
    assert defaults.stop_ids == {248046, 248044}
    assert defaults.sampling == SamplingParams(temperature=0.7, top_p=0.8, top_k=20)


def test_a_file_that_does_not_sample_is_greedy() -> None:
    assert GenerationDefaults.from_dict({"eos_token_id": 3}, WHERE).sampling.temperature == 0


def test_what_the_user_sets_goes_before_even_where_it_switches_off() -> None:
    sampling = GenerationDefaults.from_dict(CARD, WHERE).sampling
    assert SamplingOverrides(temperature=0.0, top_k=0).over(sampling) == SamplingParams(
        0.0, top_p=0.8, top_k=0
    )
    assert SamplingOverrides().over(sampling) == sampling


@pytest.mark.parametrize(
    "change", [{"eos_token_id": None}, {"eos_token_id": []}, {"eos_token_id": ["x"]}, {"top_k": "20"}]
)
def test_an_unusable_value_is_named_with_its_file(change: dict) -> None:
    with pytest.raises(CheckpointError, match=f"{WHERE}: '{next(iter(change))}'"):
        GenerationDefaults.from_dict(CARD | change, WHERE)
