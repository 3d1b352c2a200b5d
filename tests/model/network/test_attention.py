import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask

from qwen35.network.attention import GatedAttention, KeyValues, attention_mask
from qwen35.network.rope import rotary_tables
from tests.model.pair import Pair
from tests.model.reference import max_difference

T, D = 21, 50
TOLERANCE = 1e-6


def full_layer(pair: Pair) -> GatedAttention:
    return pair.ours.language_model.layers[3].self_attn


def random_input(rows: int = 1) -> Tensor:
    return torch.randn(rows, T, D, generator=torch.Generator().manual_seed(0))


def tables(pair: Pair, start: int = 0, length: int = T) -> tuple[Tensor, Tensor]:
    text = pair.ours.config.text
    positions = torch.arange(start, start + length).expand(3, 1, -1)
    return rotary_tables(positions, text.rope, text.rotary_dim, torch.float32)


def run_whole(pair: Pair, x: Tensor) -> tuple[Tensor, KeyValues]:
    return full_layer(pair)(x, tables(pair, length=x.shape[1]), None, None)


def test_layer_matches_transformers(main_pair: Pair) -> None:
    x = random_input(rows=2)
    text = main_pair.reference.model.language_model
    positions = torch.arange(T)[None].expand(2, -1)
    mask = create_causal_mask(
        config=text.config, inputs_embeds=x, attention_mask=None, past_key_values=None, position_ids=positions
    )
    rotary = text.rotary_emb(x, positions.expand(3, 2, T))
    expected, _ = text.layers[3].self_attn(x, position_embeddings=rotary, attention_mask=mask)
    assert max_difference(run_whole(main_pair, x)[0], expected) <= TOLERANCE


def test_no_token_sees_a_later_one(main_pair: Pair) -> None:
    x = random_input()
    changed = torch.cat([x[:, :-1], x[:, -1:] + 1], dim=1)
    before, after = run_whole(main_pair, x)[0], run_whole(main_pair, changed)[0]
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert max_difference(before[:, -1], after[:, -1]) > 1e-3


def test_a_past_continues_as_if_whole(main_pair: Pair) -> None:
    x = random_input()
    whole, all_new = run_whole(main_pair, x)
    _, past = run_whole(main_pair, x[:, :9])
    mask = attention_mask(T - 9, 9, None, x.device)
    rest, new = full_layer(main_pair)(x[:, 9:], tables(main_pair, 9, T - 9), past, mask)
    assert max_difference(rest, whole[:, 9:]) <= TOLERANCE
    assert max_difference(torch.cat([past.k, new.k], dim=2), all_new.k) <= TOLERANCE
    assert max_difference(torch.cat([past.v, new.v], dim=2), all_new.v) <= TOLERANCE


def test_rows_with_pasts_of_different_lengths_see_their_own_alone(main_pair: Pair) -> None:
    x, lengths = random_input(rows=2), torch.tensor([9, 4])
    _, past = run_whole(main_pair, x[:, :9])
    poisoned = [t.clone() for t in past]
    for t in poisoned:
        t[1, :, 4:] = 1e4  # beyond the second row's four tokens lies anything
    new = x[:, -3:]
    rotary = tables(main_pair, 9, 3)
    together, _ = full_layer(main_pair)(
        new, rotary, KeyValues(*poisoned), attention_mask(3, 9, lengths, x.device)
    )
    for row, length in enumerate(lengths.tolist()):
        own_past = KeyValues(*(t[row : row + 1, :, :length] for t in past))
        mask = attention_mask(3, length, None, x.device)
        alone, _ = full_layer(main_pair)(new[row : row + 1], rotary, own_past, mask)
        assert max_difference(together[row : row + 1], alone) <= TOLERANCE


def test_mask_is_left_out_only_where_everything_visible_is_causal() -> None:
    device = torch.device("cpu")
    assert attention_mask(5, 0, None, device) is None
    assert attention_mask(1, 7, None, device) is None
    assert attention_mask(3, 2, None, device).squeeze().tolist() == [
        [True, True, True, False, False],
        [True, True, True, True, False],
        [True, True, True, True, True],
    ]
    one_token = attention_mask(1, 3, torch.tensor([3, 1]), device)
    assert one_token.squeeze().tolist() == [[True, True, True, True], [True, False, False, True]]
