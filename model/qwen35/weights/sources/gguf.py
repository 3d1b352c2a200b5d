"""A GGUF file, split or not, with its mmproj file: names, order and values of the official checkpoint.

What the converter did is undone: norms have 1 added, A is -exp(A_log), the halves of the patch embedding
are two tensors, and the value heads of linear attention stand tiled: at j * num_key_heads + g the one that
belongs at g * ratio + j. Moving heads moves whole groups of 32 weights, so that quantised ones stay exact.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from qwen35.errors import CheckpointError
from qwen35.weights.header import TensorInfo
from qwen35.weights.numbers import to_float32
from qwen35.weights.reading import read_into
from qwen35.weights.source import Exact, Grouped, OfPieces, ReadInto, Rows, Source, SourceTensor
from qwen35.weights.sources.gguf_config import ModelFiles, model_files
from qwen35.weights.sources.gguf_file import GgufHeader, OpenFile, open_local, read_gguf, split_files
from qwen35.weights.sources.gguf_types import BLOCKS, EXACT, Octets, decode, row_bytes
from qwen35.weights.sources.versions import file_versions
from qwen35.weights.tiles import GROUP

ARCHITECTURES = ("qwen35", "qwen35moe")
PROJECTOR = "qwen3vl_merger"
MMPROJ = "mmproj"

Undo = Literal["nothing", "added 1", "-exp"]

# Of one layer; {nextn} stands in the last layer of a file that has one, the draft layer.
LAYER_NAMES = {
    "attn_norm.weight": "input_layernorm.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "attn_qkv.weight": "linear_attn.in_proj_qkv.weight",
    "attn_gate.weight": "linear_attn.in_proj_z.weight",
    "ssm_beta.weight": "linear_attn.in_proj_b.weight",
    "ssm_alpha.weight": "linear_attn.in_proj_a.weight",
    "ssm_conv1d.weight": "linear_attn.conv1d.weight",
    "ssm_a": "linear_attn.A_log",
    "ssm_dt.bias": "linear_attn.dt_bias",
    "ssm_norm.weight": "linear_attn.norm.weight",
    "ssm_out.weight": "linear_attn.out_proj.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
    "ffn_gate_inp.weight": "mlp.gate.weight",
    "ffn_gate_up_exps.weight": "mlp.experts.gate_up_proj",
    "ffn_gate_inp_shexp.weight": "mlp.shared_expert_gate.weight",
    "ffn_gate_shexp.weight": "mlp.shared_expert.gate_proj.weight",
    "ffn_up_shexp.weight": "mlp.shared_expert.up_proj.weight",
    "ffn_down_shexp.weight": "mlp.shared_expert.down_proj.weight",
}
EXPERT_NAMES = {f"ffn_{name}_exps.weight": f"{name}_proj.weight" for name in ("gate", "up", "down")}
TOP_NAMES = {
    "token_embd.weight": "model.language_model.embed_tokens.weight",
    "output.weight": "lm_head.weight",
    "output_norm.weight": "model.language_model.norm.weight",
}
DRAFT_NAMES = {
    "nextn.eh_proj.weight": "mtp.fc.weight",
    "nextn.enorm.weight": "mtp.pre_fc_norm_embedding.weight",
    "nextn.hnorm.weight": "mtp.pre_fc_norm_hidden.weight",
    "nextn.shared_head_norm.weight": "mtp.norm.weight",
}
# Copies of the model's own embedding and head that some files carry.
IGNORED = re.compile(r"rope_freqs\.weight|blk\.\d+\.nextn\.(embed_tokens|shared_head_head)\.weight")
VISION_NAMES = {
    "ln1": "norm1",
    "ln2": "norm2",
    "attn_qkv": "attn.qkv",
    "attn_out": "attn.proj",
    "ffn_up": "mlp.linear_fc1",
    "ffn_down": "mlp.linear_fc2",
}
VISION_TOP_NAMES = {
    "v.patch_embd.bias": "patch_embed.proj.bias",
    "v.position_embd.weight": "pos_embed.weight",
    "v.post_ln.weight": "merger.norm.weight",
    "v.post_ln.bias": "merger.norm.bias",
    "mm.0.weight": "merger.linear_fc1.weight",
    "mm.0.bias": "merger.linear_fc1.bias",
    "mm.2.weight": "merger.linear_fc2.weight",
    "mm.2.bias": "merger.linear_fc2.bias",
}
_LAYER = re.compile(r"blk\.(\d+)\.(.+)")
_VISION_LAYER = re.compile(r"v\.blk\.(\d+)\.(\w+)\.(weight|bias)")


def find_in_folder(folder: Path) -> Path:
    """The one model among the GGUF files of `folder`. Raises CheckpointError unless there is one."""
    models = sorted(
        {split_files(path)[0] for path in folder.glob("*.gguf") if MMPROJ not in path.name.lower()}
    )
    if len(models) == 1:
        return models[0]
    names = ", ".join(path.name for path in models)
    what = f"several models ({names}). Give one of these files." if models else "only an mmproj file."
    raise CheckpointError(f"{folder}: {what}", path=str(folder))


def find_mmproj(model: Path) -> Path | None:
    """The file beside `model` that holds what sees: of several that of the most bits."""
    order = ("bf16", "f16", "f32", "q8_0")

    def rank(path: Path) -> tuple[int, str]:
        name = path.name.lower()
        return next((n for n, bits in enumerate(order) if bits in name), len(order)), name

    return min(
        (path for path in model.parent.glob("*.gguf") if MMPROJ in path.name.lower()), key=rank, default=None
    )


def open_gguf(path: Path, mmproj: Path | None = None) -> Source:
    """The model of which `path` is the file, or one of the files, with what sees: `mmproj`, or the file that
    lies beside it. Raises CheckpointError."""
    return gguf_source(path, mmproj or find_mmproj(path))


def gguf_source(
    path: Path, mmproj: Path | None, open_file: OpenFile = open_local, read: ReadInto = read_into
) -> Source:
    """As `open_gguf`, with files that may lie elsewhere. Raises CheckpointError."""
    header = read_gguf(path, open_file)
    _check_architecture(header)
    vision = read_gguf(mmproj, open_file) if mmproj else None
    if vision:
        _check_projector(vision)
    files = model_files(header, vision)
    tensors = _text_tensors(header, files) | (_vision_tensors(vision) if vision else {})
    paths = {info.path for each in (header, vision) if each for info in each.tensors.values()}
    return Source(
        path=header.path,
        kind="GGUF",
        config=files.config,
        tensors=tensors,
        small_files=files.contents,
        version=lambda: file_versions(paths),
        read_into=read,
        notes=files.notes,
    )


def _check_architecture(header: GgufHeader) -> None:
    name = header.metadata.get("general.architecture")
    if name == "clip":
        _refuse(
            header.path,
            "is what sees of a model (mmproj). Give the model's own file; it is found there.",
        )
    if header.metadata.get("general.type", "model") != "model":
        _refuse(header.path, f"holds a {header.metadata['general.type']}, not a whole model.")
    if name not in ARCHITECTURES:
        _refuse(
            header.path, f"its architecture is {name!r}; supported: {', '.join(ARCHITECTURES)} (Qwen3.5)."
        )


def _check_projector(header: GgufHeader) -> None:
    metadata = header.metadata
    name = metadata.get("clip.projector_type") or metadata.get("clip.vision.projector_type")
    if metadata.get("general.architecture") != "clip" or name != PROJECTOR:
        _refuse(
            header.path,
            f"is no mmproj file of this family (its projector is {name!r}, not {PROJECTOR!r}). Put the "
            "model's own beside it, or move this one away to pack the text model alone.",
        )


@dataclass(frozen=True, slots=True)
class HeadOrder:
    """From `begin` on, units of so many rows (or columns): one for each value head, tiled."""

    begin: int
    unit: int
    num_key_heads: int
    ratio: int  # value heads for each key head

    def sources(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in the file what is wanted at `indices` lies."""
        head, rest = np.divmod(indices - self.begin, self.unit)
        group, own = np.divmod(head, self.ratio)
        there = self.begin + (own * self.num_key_heads + group) * self.unit + rest
        return np.where(indices < self.begin, indices, there)

    def untiled(self, values: NDArray, unit: int) -> NDArray:
        """All columns in order; `unit` of them are a head's. `begin` is 0 for columns."""
        tiled = values.reshape(len(values), self.ratio, self.num_key_heads, unit)
        return np.ascontiguousarray(tiled.swapaxes(1, 2)).reshape(values.shape)


@dataclass(frozen=True, slots=True)
class GgufTensor(OfPieces):
    """One tensor of the file, or one expert's slice of it."""

    pieces: tuple[TensorInfo, ...]
    shape: tuple[int, ...]
    rows: HeadOrder | None = None
    columns: HeadOrder | None = None
    undo: Undo = "nothing"

    @property
    def encoding(self) -> str:
        return self.pieces[0].dtype

    @property
    def exact_in(self) -> Exact | None:
        if self.columns and self.columns.unit % GROUP:
            return None
        return EXACT.get(self.encoding)

    def read(self, files: ReadInto, k: int, begin: int, end: int) -> Rows:
        w: Rows
        if len(self.shape) == 1:
            w = decode(self.encoding, self._octets(files, k, 0, 1))
            if self.rows:
                assert not isinstance(w, Grouped)
                w = w[:, self.rows.sources(np.arange(k))]
        else:
            w = decode(self.encoding, self._wanted_rows(files, k, begin, end))
        if self.columns:
            w = _columns(w, self.columns)
        if self.undo == "nothing":
            return w
        values = w.to_float32() if isinstance(w, Grouped) else to_float32(w)
        return values - np.float32(1) if self.undo == "added 1" else np.log(-values)

    def _wanted_rows(self, files: ReadInto, k: int, begin: int, end: int) -> Octets:
        if self.rows is None:
            return self._octets(files, k, begin, end)
        sources = self.rows.sources(np.arange(begin, end))
        breaks = [0, *(np.flatnonzero(np.diff(sources) != 1) + 1), len(sources)]
        octets = np.empty((end - begin, row_bytes(self.encoding, k)), np.uint8)
        for first, last in pairwise(breaks):
            start = int(sources[first])
            octets[first:last] = self._octets(files, k, start, start + last - first)
        return octets

    def _octets(self, files: ReadInto, k: int, begin: int, end: int) -> Octets:
        info = self.pieces[0]
        octets = np.empty((end - begin, row_bytes(info.dtype, k)), np.uint8)
        files(info.path, info.begin + begin * octets.shape[1], octets.reshape(-1).data)
        return octets


@dataclass(frozen=True, slots=True)
class PatchTensor(OfPieces):
    """The patch embedding (D, C, 2, side, side); the file has each frame's half (D, C, side, side)."""

    pieces: tuple[TensorInfo, ...]
    exact_in: Exact | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        D, C, *sides = self.pieces[0].shape
        return D, C, 2, *sides

    @property
    def encoding(self) -> str:
        return self.pieces[0].dtype

    def read(self, files: ReadInto, k: int, begin: int, end: int) -> Rows:
        _, C, _, *sides = self.shape
        whole = np.empty((end - begin, C, 2, prod(sides)), np.float32)
        for frame, info in enumerate(self.pieces):
            half = GgufTensor((info,), info.shape).read(files, k // 2, begin, end)
            assert not isinstance(half, Grouped)
            whole[:, :, frame] = to_float32(half).reshape(end - begin, C, -1)
        return whole.reshape(end - begin, k)


def _columns(w: Rows, order: HeadOrder) -> Rows:
    if isinstance(w, Grouped) and order.unit % GROUP == 0:
        return Grouped(order.untiled(w.q, order.unit), order.untiled(w.scales, order.unit // GROUP))
    return order.untiled(w.to_float32() if isinstance(w, Grouped) else to_float32(w), order.unit)


def _text_tensors(header: GgufHeader, files: ModelFiles) -> dict[str, SourceTensor]:
    found: dict[str, SourceTensor] = {}
    for name, info in header.tensors.items():
        if IGNORED.fullmatch(name):
            continue
        _check_type(name, info)
        match = _LAYER.fullmatch(name)
        layer, rest = (int(match[1]), match[2]) if match else (-1, name)
        is_draft = match is not None and layer >= files.num_layers
        prefix = "mtp.layers.0." if is_draft else f"model.language_model.layers.{layer}."
        if rest in EXPERT_NAMES:
            for e, piece in enumerate(info.slices()):
                place = f"{prefix}mlp.experts.{e}.{EXPERT_NAMES[rest]}"
                found[place] = GgufTensor((piece,), piece.shape)
        elif match is None:
            found[TOP_NAMES.get(name, name)] = _text_tensor(rest, info, files)
        elif is_draft and rest in DRAFT_NAMES:
            found[DRAFT_NAMES[rest]] = _text_tensor(rest, info, files)
        else:  # a name that nobody knows stays as it is, and is told
            found[prefix + LAYER_NAMES[rest] if rest in LAYER_NAMES else name] = _text_tensor(
                rest, info, files
            )
    return found


def _text_tensor(rest: str, info: TensorInfo, files: ModelFiles) -> GgufTensor:
    text = files.config.text
    ratio = text.linear_num_value_heads // text.linear_num_key_heads
    keys, unit = text.linear_num_key_heads * text.linear_key_head_dim, text.linear_value_head_dim

    def heads(begin: int, unit: int) -> HeadOrder | None:
        return HeadOrder(begin, unit, text.linear_num_key_heads, ratio) if ratio > 1 else None

    shape = info.shape
    match rest:
        case "attn_qkv.weight":
            return GgufTensor((info,), shape, rows=heads(2 * keys, unit))
        case "ssm_conv1d.weight":
            return GgufTensor((info,), (shape[0], 1, *shape[1:]), rows=heads(2 * keys, unit))
        case "attn_gate.weight":
            return GgufTensor((info,), shape, rows=heads(0, unit))
        case "ssm_alpha.weight" | "ssm_beta.weight" | "ssm_dt.bias":
            return GgufTensor((info,), shape, rows=heads(0, 1))
        case "ssm_a":
            return GgufTensor((info,), (prod(shape),), rows=heads(0, 1), undo="-exp")
        case "ssm_out.weight":
            return GgufTensor((info,), shape, columns=heads(0, unit))
        case "ffn_gate_inp_shexp.weight":
            return GgufTensor((info,), (1, prod(shape)))
    is_shifted = rest.endswith("norm.weight") and rest != "ssm_norm.weight"
    return GgufTensor((info,), shape, undo="added 1" if is_shifted else "nothing")


def _vision_tensors(header: GgufHeader) -> dict[str, SourceTensor]:
    found: dict[str, SourceTensor] = {}
    for name, info in header.tensors.items():
        _check_type(name, info)
        if name == "v.patch_embd.weight":
            halves = [header.tensors.get(each) for each in (name, f"{name}.1")]
            found["model.visual.patch_embed.proj.weight"] = PatchTensor(
                tuple(each for each in halves if each)
            )
        elif match := _VISION_LAYER.fullmatch(name):
            layer, part, kind = match.groups()
            place = (
                f"model.visual.blocks.{layer}.{VISION_NAMES[part]}.{kind}" if part in VISION_NAMES else name
            )
            found[place] = GgufTensor((info,), info.shape)
        elif name != "v.patch_embd.weight.1":
            known = name in VISION_TOP_NAMES
            found[f"model.visual.{VISION_TOP_NAMES[name]}" if known else name] = GgufTensor(
                (info,), info.shape
            )
    return found


def _check_type(name: str, info: TensorInfo) -> None:
    if info.dtype not in BLOCKS:
        _refuse(
            info.path,
            f"'{name}' is in {info.dtype}, which cannot be read (supported: {', '.join(BLOCKS)}). Use a file "
            "of the same model in Q4_K_M, Q4_0, Q6_K or Q8_0.",
        )


def _refuse(path: Path, what: str) -> NoReturn:
    raise CheckpointError(f"{path}: {what}", path=str(path))
