"""The model on the native library: what the engine calls, without torch.

Two calls a layer, over all rows: the tokens of one sequence in a prefill, one token of each of several
sequences in a decode step. A row's result does not depend on the rows beside it, nor on how a prompt was
cut into pieces, nor on the number of threads: bit for bit.
"""

from collections.abc import Sequence
from contextlib import closing
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from qwen35.backends.base import PREFILL_CHUNK
from qwen35.backends.native.layers import Layer, Layers, Weights, pointer
from qwen35.backends.native.library import Batch, Context, Library, forced_isa
from qwen35.backends.native.lookahead import NativeLookahead
from qwen35.backends.native.places import BlockTable, address, linear_places
from qwen35.backends.native.reused import ReusedRows
from qwen35.backends.native.rotary import Floats, TextRotary
from qwen35.backends.native.rows import Rows
from qwen35.backends.native.vision import Frames, encode_pictures
from qwen35.events import ExpertUse
from qwen35.experts.layers import LayerStream
from qwen35.experts.store import ExpertStore
from qwen35.state import ModelState

# Part of every cache key. All instruction sets, thread counts and batch sizes have the same numerics.
NUMERICS = "native-3"
STATE_DTYPE = "bfloat16"  # of keys, values and conv inputs
GUESSED_ROWS = 8  # at most, whose experts are guessed; a prompt's tokens need most of them


class NativeBackend:
    """Owns the library's threads and scratch memory; uses `weights`, which must outlive it.

    Not for two threads at once. Raises DoesNotFit where `QWEN_CPU` asks for kernels that cannot run here.
    """

    numerics = NUMERICS

    def __init__(
        self,
        library: Library,
        weights: Weights,
        *,
        num_threads: int = 1,
        isa: str | None = None,
        store: ExpertStore | None = None,
        stream: LayerStream | None = None,
        prefill_chunk: int = PREFILL_CHUNK,
    ) -> None:
        """`store`: where the experts are that `weights` does not hold; `stream`: what brings its layers.

        All three are closed with it.
        """
        self.config, self._weights = weights.config, weights
        self._context = Context(library, num_threads, forced_isa() if isa is None else isa)
        self._store, self._stream = store, stream
        self._slot_outputs = np.empty(0, np.float32)
        self._logits_memory = ReusedRows()
        self.prefill_chunk = prefill_chunk
        self._layers = Layers(weights, store.tables if store else None)
        self._block_table = BlockTable()
        self._lookaheads: WeakKeyDictionary[ModelState, NativeLookahead] = WeakKeyDictionary()
        self._rotary = TextRotary(self.config.text.rope, self.config.text.rotary_dim)
        self._frames = Frames()
        media = (self.config.image_token_id, self.config.video_token_id)
        self._media_ids = [token for token in media if token is not None]
        self.name = f"native ({self._context.isa}, {num_threads} threads)"

    @property
    def expert_use(self) -> ExpertUse | None:
        return self._store.use if self._store else None

    @property
    def layer_use(self) -> ExpertUse | None:
        """What the layers have cost that are not in memory; None where all of them are."""
        return self._stream.use if self._stream else None

    def device_room(self) -> int | None:
        return None

    def close(self) -> None:
        for reading in (self._store, self._stream):
            if reading:
                reading.close()
        self._weights.close()

    def save_hot(self) -> None:
        if self._store:
            self._store.save_hot()

    def new_state(self) -> ModelState:
        return ModelState(self.config.text, STATE_DTYPE)

    def encode_pictures(self, patches: np.ndarray, grids: Sequence[tuple[int, int, int]]) -> np.ndarray:
        """Features (M, D) float32 of patches (P, values)."""
        assert self.config.vision is not None
        return encode_pictures(self._context, self._layers, self.config.vision, self._frames, patches, grids)

    def prefill(
        self, state: ModelState, ids: np.ndarray, position_ids: np.ndarray, features: np.ndarray | None
    ) -> np.ndarray:
        x = self.embed(ids)
        if features is not None:
            x[np.isin(ids, self._media_ids)] = features
        lookahead = self._lookaheads.get(state)
        embeds = x.copy() if lookahead else x
        self._run(Rows.of_prompt(state, len(ids)), x, position_ids)
        if lookahead:
            lookahead.read(embeds, x, position_ids)
        return self._logits(x, np.array([len(ids) - 1], np.int32))[0]

    def decode(self, states: Sequence[ModelState], ids: np.ndarray) -> np.ndarray:
        x = self.embed(ids)
        positions = np.array([state.num_tokens + state.mrope_delta for state in states])
        self._run(Rows.of_several(states), x, np.broadcast_to(positions, (3, len(states))))
        return self._logits(x, np.arange(len(states), dtype=np.int32))

    def look_ahead(self, state: ModelState) -> NativeLookahead | None:
        """From here on the MTP module hears of all that goes through `state`; None where there is none."""
        mtp = self._layers.mtp
        if mtp is None:
            return None
        if state not in self._lookaheads:
            self._lookaheads[state] = NativeLookahead(self, self._context, self._layers, mtp)
        return self._lookaheads[state]

    def forget(self, state: ModelState) -> None:
        self._lookaheads.pop(state, None)

    def run_rows(self, rows: Rows, ids: np.ndarray, position_ids: np.ndarray) -> tuple[Floats, Floats]:
        """Outputs (M, D) of the last layer, and logits (M, vocab_size), of tokens `ids`."""
        x = self.embed(ids)
        self._run(rows, x, position_ids)
        return x, self._logits(x, np.arange(len(ids), dtype=np.int32))

    def embed(self, ids: np.ndarray) -> Floats:
        ids = np.ascontiguousarray(ids, np.int64)
        x = np.empty((len(ids), self.config.text.hidden_size), np.float32)
        self._context.call("qw_embed", self._layers.embedding, address(ids), len(ids), address(x))
        return x

    def _logits(self, x: Floats, rows: NDArray[np.int32]) -> Floats:
        layers, text = self._layers, self.config.text
        logits = self._logits_memory.take(len(rows), text.vocab_size)
        self._context.call(
            "qw_head",
            layers.norm,
            text.rms_norm_eps,
            layers.head,
            address(x),
            address(rows),
            len(rows),
            address(logits),
        )
        return logits

    def _run(self, rows: Rows, x: Floats, position_ids: np.ndarray) -> None:
        """Move `x` (M, D) through all layers, in place, and the states past it."""
        M, moe, call = len(x), self.config.text.moe, self._context.call
        if self._store:
            self._store.make_room()
        starts, lengths = rows.starts, rows.lengths
        cos, sin = self._rotary.tables(position_ids)
        batch = pointer(Batch(M, len(lengths), address(starts), address(lengths), address(cos), address(sin)))
        h = np.empty_like(x)
        chosen = np.empty((M, moe.num_experts_per_tok if moe else 0), np.int32)
        weights = np.empty(chosen.shape, np.float32)
        x_at, h_at, chosen_at, weights_at = map(address, (x, h, chosen, weights))
        for index in range(self.config.text.num_hidden_layers):
            if self._stream:
                self._stream.enter(index)
            layer = self._layers.layer(index)
            if layer.is_linear:
                past, left = rows.linear(index)
                places = linear_places(past, left)
                call("qw_linear", layer.mixer, batch, address(places), x_at, h_at, chosen_at, weights_at)
                rows.leave(index, left)
            else:
                places = rows.blocks(self._block_table, index)
                call("qw_attention", layer.mixer, batch, address(places), x_at, h_at, chosen_at, weights_at)
            if layer.records is None:
                call("qw_mlp", layer.mlp, M, h_at, x_at)
            elif self._store is None:
                call("qw_moe", layer.mlp, M, h_at, chosen_at, weights_at, layer.records, x_at)
            else:
                self._run_experts(self._store, index, layer, h, chosen, weights, x)
            if self._stream:
                self._stream.leave(index)
        rows.finish()

    def _run_experts(
        self,
        store: ExpertStore,
        index: int,
        layer: Layer,
        h: Floats,
        chosen: NDArray[np.int32],
        weights: Floats,
        x: Floats,
    ) -> None:
        """x += what the layer's experts make of h, batch by batch as the store brings them."""
        M, call = len(x), self._context.call
        h_at, chosen_at, weights_at, x_at = map(address, (h, chosen, weights, x))
        batches = store.fetch(index, chosen)
        if batches is None:
            self._guess(store, index + 1, x)
            call("qw_moe", layer.mlp, M, h_at, chosen_at, weights_at, layer.records, x_at)
            return
        size = M * (chosen.shape[1] + 1) * x.shape[1]
        if self._slot_outputs.size < size:
            self._slot_outputs = np.empty(size, np.float32)
        y_at = address(self._slot_outputs)
        shared_at = y_at + 4 * M * chosen.shape[1] * x.shape[1]
        with closing(batches):
            for number, wanted in enumerate(batches):
                if number == 0:
                    self._guess(store, index + 1, x)
                shared = None if number else shared_at
                places = (h_at, chosen_at, layer.records, address(wanted), y_at, shared)
                call("qw_experts", layer.mlp, M, *places)
        call("qw_sum_experts", layer.mlp, M, weights_at, y_at, shared_at, x_at)

    def _guess(self, store: ExpertStore, index: int, x: Floats) -> None:
        """Let the disk go on with the experts of layer `index`, as its router says of `x` (M, D) so early."""
        text = self.config.text
        if index == text.num_hidden_layers or len(x) > GUESSED_ROWS:
            return
        if self._stream or not store.wants_guess(index):  # its router may not be there yet
            return
        assert text.moe is not None
        guessed = np.empty((len(x), text.moe.num_experts_per_tok), np.int32)
        after = self._layers.layer(index).after
        self._context.call(
            "qw_guess", after, text.rms_norm_eps, x.shape[1], len(x), address(x), address(guessed)
        )
        store.guess(index, guessed)
