"""The trained network as a checkpoint folder in the official layout."""

import json
import struct
from pathlib import Path

import torch

from mini.architecture import config_json, preprocessor_json, video_preprocessor_json
from mini.tokenizer import MiniTokenizer
from qwen35.network.model import Qwen35

SAFETENSORS_NAMES = {torch.bfloat16: "BF16", torch.float32: "F32"}


def write_checkpoint(model: Qwen35, folder: Path) -> None:
    """Write weights, configuration, tokenizer and template; what is there under these names is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {official_name(name): stored(name, p.detach().cpu()) for name, p in model.named_parameters()}
    write_safetensors(tensors, folder / "model.safetensors")
    tokenizer = MiniTokenizer.load()
    tokenizer.write(folder)
    files = {
        "config.json": config_json(tokenizer.ids, model.config.text.vocab_size),
        "preprocessor_config.json": preprocessor_json(),
        "video_preprocessor_config.json": video_preprocessor_json(),
        "generation_config.json": {
            "do_sample": False,
            "eos_token_id": [tokenizer.id("<|im_end|>"), tokenizer.id("<|endoftext|>")],
            "pad_token_id": tokenizer.id("<|endoftext|>"),
        },
    }
    for name, values in files.items():
        (folder / name).write_text(json.dumps(values, indent=2) + "\n")


def official_name(name: str) -> str:
    return name if name.startswith(("mtp.", "lm_head.")) else f"model.{name}"


def stored(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """bfloat16, but for the decays and the linear attention's norm, as the official files do."""
    keeps_float32 = name.endswith((".A_log", "linear_attn.norm.weight"))
    return tensor.float() if keeps_float32 else tensor.to(torch.bfloat16)


def write_safetensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """The safetensors format by hand: the machines that train have torch, and perhaps nothing else."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    chunks, end = [], 0
    for name, tensor in tensors.items():
        data = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        header[name] = {
            "dtype": SAFETENSORS_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + len(data)],
        }
        chunks.append(data)
        end += len(data)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.writelines(chunks)
    partial.replace(path)
