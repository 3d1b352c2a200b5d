import pytest

from tests.model.ours import features_of
from tests.model.pair import Pair
from tests.model.reference import PROMPTS, Prompt, max_difference, reference_forward

TOLERANCE = 1e-4


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_hidden_states_match_transformers_layer_by_layer(pair: Pair, prompt: Prompt) -> None:
    # Embeddings, the output of each layer but the last, and that of the final norm.
    expected = reference_forward(pair.reference, prompt, output_hidden_states=True).hidden_states
    text, states = pair.ours.language_model, []
    hooks = [layer.register_forward_pre_hook(lambda _, args: states.append(args[0])) for layer in text.layers]
    x = pair.ours.embed(prompt.input_ids, features_of(pair.ours, prompt))
    states.append(text(x, pair.positions(prompt))[0])
    for hook in hooks:
        hook.remove()
    for layer, (ours, theirs) in enumerate(zip(states, expected, strict=True)):
        assert max_difference(ours, theirs) <= TOLERANCE, f"before layer {layer}"


def test_each_layer_leaves_the_state_that_transformers_caches(main_pair: Pair) -> None:
    prompt = PROMPTS["several images of odd sizes"]
    cache = reference_forward(main_pair.reference, prompt, use_cache=True).past_key_values
    x = main_pair.ours.embed(prompt.input_ids, features_of(main_pair.ours, prompt))
    _, left = main_pair.ours.language_model(x, main_pair.positions(prompt))
    for index in (0, 1, 2):
        assert (
            max_difference(left[index].conv, cache.get_conv_state(index, state_idx=0)[..., -3:]) <= TOLERANCE
        )
        assert max_difference(left[index].state, cache.get_recurrent_state(index, state_idx=0)) <= TOLERANCE
    assert max_difference(left[3].k, cache.layers[3].keys) <= TOLERANCE
    assert max_difference(left[3].v, cache.layers[3].values) <= TOLERANCE
