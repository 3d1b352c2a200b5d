from torch import Tensor

from qwen35.network.attention import KeyValues
from tests.model.ours import features_of
from tests.model.pair import Pair
from tests.model.reference import PROMPTS, Prompt, max_difference, reference_forward
from tests.model.reference_mtp import ReferenceMtp

TOLERANCE = 2e-5
PROMPT = PROMPTS["several images of odd sizes"]


def inputs(pair: Pair, prompt: Prompt) -> tuple[Tensor, Tensor, Tensor]:
    """The next tokens' ids and positions, and the main model's output after its final norm."""
    hidden = reference_forward(pair.reference, prompt, output_hidden_states=True).hidden_states[-1]
    return prompt.input_ids[:, 1:], pair.positions(prompt)[..., 1:], hidden[:, :-1]


def draft(
    pair: Pair, next_ids: Tensor, positions: Tensor, hidden: Tensor, past: KeyValues | None = None
) -> tuple[Tensor, KeyValues]:
    return pair.ours.mtp(pair.ours.embed(next_ids), hidden, positions, past)


def test_drafts_match_the_reference_built_from_transformers(pair: Pair) -> None:
    next_ids, positions, hidden = inputs(pair, PROMPT)
    expected_hidden, expected_logits = ReferenceMtp(pair.reference, pair.shape)(next_ids, hidden, positions)
    ours, _ = draft(pair, next_ids, positions, hidden)
    assert max_difference(ours, expected_hidden) <= TOLERANCE
    assert max_difference(pair.ours.logits(ours), expected_logits) <= TOLERANCE


def test_drafts_continue_from_keys_and_values_of_the_prompt(main_pair: Pair) -> None:
    next_ids, positions, hidden = inputs(main_pair, PROMPT)
    whole, _ = draft(main_pair, next_ids, positions, hidden)
    _, past = draft(main_pair, next_ids[:, :20], positions[..., :20], hidden[:, :20])
    rest, _ = draft(main_pair, next_ids[:, 20:], positions[..., 20:], hidden[:, 20:], past)
    assert max_difference(rest, whole[:, 20:]) <= TOLERANCE


def test_the_main_model_hands_over_its_output_after_the_final_norm(main_pair: Pair) -> None:
    """From prompt to draft in our network alone: what `forward` returns is what the module takes."""
    next_ids, positions, hidden = inputs(main_pair, PROMPT)
    expected = ReferenceMtp(main_pair.reference, main_pair.shape)(next_ids, hidden, positions)[1]
    features = features_of(main_pair.ours, PROMPT)
    own_hidden, _ = main_pair.ours(PROMPT.input_ids, main_pair.positions(PROMPT), features)
    ours, _ = draft(main_pair, next_ids, positions, own_hidden[:, :-1])
    assert max_difference(main_pair.ours.logits(ours), expected) <= 1e-4
