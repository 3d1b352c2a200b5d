"""Drafts of the MTP module, and the pass of the main model that checks several tokens at once.

The plain form of the module is `network/mtp.py`. Its keys and values belong to one answer and are not saved:
from a state that was restored it drafts with less to look back at, which costs drafts and no truth.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qwen35.backends.native.layers import Layers, MtpLayers, pointer
from qwen35.backends.native.library import Batch, Context
from qwen35.backends.native.places import BlockTable, address
from qwen35.backends.native.rotary import Floats, TextRotary
from qwen35.backends.native.rows import KeptRows, room
from qwen35.state import STORAGE, KVBlocks, LinearMemory, ModelState

if TYPE_CHECKING:
    from qwen35.backends.native.backend import NativeBackend


class NativeLookahead:
    """Of one sequence, whose state is passed at each call. Mutable.

    The module takes a token together with what the main model made of the token before it: such pairs wait
    until a draft is asked for, and go through together.
    """

    def __init__(self, backend: "NativeBackend", context: Context, layers: Layers, mtp: MtpLayers) -> None:
        self._run_rows, self._embed = backend.run_rows, backend.embed
        self._call, self._mtp, self._final_norm = context.call, mtp, layers.final_norm
        text = backend.config.text
        self._text, self._eps = text, text.rms_norm_eps
        self._rotary = TextRotary(text.rope, text.rotary_dim)
        self._table = BlockTable()
        self._memory = KVBlocks(text.num_key_value_heads, text.head_dim, STORAGE["bfloat16"])
        self._last: Floats | None = None  # (D,): what the main model made of its last token
        self._is_entered = False  # whether the token after that one is in the module's memory
        self._ids: list[int] = []  # of waiting pairs
        self._hidden: list[Floats] = []
        self._positions: list[int] = []
        self._spare: dict[int, list[LinearMemory]] = {}
        self._rows: KeptRows | None = None
        self._checked: tuple[list[int], Floats, int] = ([], np.empty((0, 0), np.float32), 0)
        self._num_accepted = 0

    def read(self, embeds: Floats, outputs: Floats, position_ids: NDArray[np.int64]) -> None:
        """A piece of text went through the main model: `embeds` (T, D) in, `outputs` (T, D) out."""
        self._settle()
        self._enter_waiting()
        hidden = _normed(outputs, self._final_norm, self._eps)
        first = 0 if self._last is not None and not self._is_entered else 1
        before = (
            hidden[:-1] if first or self._last is None else np.concatenate([self._last[None], hidden[:-1]])
        )
        if len(before):
            self._pass(embeds[first:], before, position_ids[:, first:])
        self._last, self._is_entered = hidden[-1].copy(), False

    def draft(self, state: ModelState, token: int, count: int) -> list[int]:
        """What may come after `token`, which comes after `state`: at most `count` tokens."""
        self._settle()
        if self._last is None or count < 1:
            return []
        position = state.num_tokens + state.mrope_delta
        self._wait(token, self._last, position)
        x = self._enter_waiting()
        assert x is not None
        self._is_entered = True
        num_true = self._memory.num_tokens
        drafts = []
        while True:
            hidden, best = self._best(x)
            drafts.append(best)
            if len(drafts) == count:
                break
            position += 1
            x = self._pass(self._embed(np.array(drafts[-1:])), hidden, _along(position, 1))
        self._memory.num_tokens = num_true  # what a draft left is not true
        return drafts

    def check(self, state: ModelState, ids: Sequence[int]) -> Floats:
        """Logits (M, vocab_size) after each of `ids`; `state` moves past the first of them.

        No more than `room(state)` of them.
        """
        self._settle()
        position = state.num_tokens + state.mrope_delta
        self._rows = KeptRows(state, len(ids), self._spare)
        x, logits = self._run_rows(self._rows, np.array(ids), _along(position, len(ids)))
        self._checked = list(ids), _normed(x, self._final_norm, self._eps), position
        self._num_accepted = 1
        return logits

    def accept(self) -> None:
        """The next of the ids that were checked came: the state moves past it."""
        assert self._rows is not None
        self._rows.accept()
        self._num_accepted += 1

    def room(self, state: ModelState) -> int:
        return room(state)

    def _settle(self) -> None:
        """Take over what was accepted since the last check."""
        if self._rows is None:
            return
        self._rows.release()
        self._rows = None
        ids, hidden, position = self._checked
        for number in range(self._num_accepted):
            if self._last is not None and not self._is_entered:
                self._wait(ids[number], self._last, position + number)
            self._last, self._is_entered = hidden[number], False

    def _wait(self, token: int, hidden: Floats, position: int) -> None:
        self._ids.append(token)
        self._hidden.append(hidden)
        self._positions.append(position)

    def _enter_waiting(self) -> Floats | None:
        """Let waiting pairs into the module's memory. What it makes of the last one, (1, D)."""
        if not self._ids:
            return None
        position_ids = np.tile(np.array(self._positions), (3, 1))
        x = self._pass(self._embed(np.array(self._ids)), np.stack(self._hidden), position_ids)
        self._ids, self._hidden, self._positions = [], [], []
        return x

    def _pass(self, embeds: Floats, hidden: Floats, position_ids: NDArray[np.int64]) -> Floats:
        """Pairs (R, D) through the module, into its memory: the last one's residual stream (1, D)."""
        mtp, R = self._mtp, len(embeds)
        halves = (
            _normed(embeds, mtp.norm_embedding, self._eps),
            _normed(hidden, mtp.norm_hidden, self._eps),
        )
        both = np.concatenate(halves, axis=1)
        x = np.empty(embeds.shape, np.float32)
        self._call("qw_matmul", mtp.fc, address(both), R, address(x))
        starts, past = np.array([0, R], np.int32), np.array([self._memory.num_tokens], np.int32)
        cos, sin = self._rotary.tables(position_ids)
        batch = pointer(Batch(R, 1, address(starts), address(past), address(cos), address(sin)))
        places = self._table.places([self._memory], [R])
        moe = self._text.moe
        h = np.empty_like(x)
        chosen = np.empty((R, moe.num_experts_per_tok if moe else 0), np.int32)
        weights = np.empty(chosen.shape, np.float32)
        mixed = (address(x), address(h), address(chosen), address(weights))
        self._call("qw_attention", mtp.layer.mixer, batch, address(places), *mixed)
        last_h, last_x = h[-1:], x[-1:]  # of the others keys and values were wanted
        if mtp.layer.records is None:
            self._call("qw_mlp", mtp.layer.mlp, 1, address(last_h), address(last_x))
        else:
            last = (address(last_h), address(chosen[-1:]), address(weights[-1:]), mtp.layer.records)
            self._call("qw_moe", mtp.layer.mlp, 1, *last, address(last_x))
        return last_x

    def _best(self, x: Floats) -> tuple[Floats, int]:
        """The module's output (1, D) of a residual stream, and the likeliest token after it."""
        mtp = self._mtp
        logits = np.empty(mtp.num_drafted, np.float32)
        x = np.ascontiguousarray(x)
        rows = np.zeros(1, np.int32)
        norm = np.ascontiguousarray(mtp.norm)
        self._call(
            "qw_head", address(norm), self._eps, mtp.head, address(x), address(rows), 1, address(logits)
        )
        return _normed(x, mtp.norm, self._eps), int(logits.argmax())


def _along(position: int, count: int) -> NDArray[np.int64]:
    """Positions (3, count) of text from `position` on."""
    return np.tile(np.arange(position, position + count), (3, 1))


def _normed(x: Floats, norm: NDArray[np.float32], eps: float) -> Floats:
    """RMSNorm of rows (M, D); no bit of an answer depends on it."""
    scale = 1 / np.sqrt(np.mean(np.square(x), axis=1, keepdims=True) + np.float32(eps))
    return np.ascontiguousarray(x * scale * (1 + norm), np.float32)
