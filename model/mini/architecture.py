"""mini's shape: the family's architecture in small, as the files of an official checkpoint say it."""

from functools import lru_cache
from typing import Any

from qwen35.config import ModelConfig
from qwen35.processing.video import VideoProcessor

PATCH_SIZE = 8  # 16 reads small print badly
MERGE_SIZE = 2
TOKEN_PIXELS = PATCH_SIZE * MERGE_SIZE  # a picture token's side
MIN_PIXELS = 96 * 96
MAX_PIXELS = 160 * 160  # 100 tokens: more would leave two cores too few pictures to learn from
MAX_PAIR_TOKENS = 36  # 96 x 96 pixels
MAX_FRAMES = 12  # what it has learnt; longer clips are shown at fewer frames a second
TOKENS_NAMED_IN_CONFIG = (
    "<|image_pad|>",
    "<|video_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|endoftext|>",
)


def config_json(token_ids: dict[str, int], vocab_size: int) -> dict[str, Any]:
    """config.json, with the ids of the special tokens by their text."""
    interval, num_layers = 4, 4
    kinds = ("linear_attention", "full_attention")
    hidden_size = 128
    return {
        "architectures": ["Qwen3_5MoeForConditionalGeneration"],
        "model_type": "qwen3_5_moe",
        "dtype": "bfloat16",
        "tie_word_embeddings": True,
        "image_token_id": token_ids["<|image_pad|>"],
        "video_token_id": token_ids["<|video_pad|>"],
        "vision_start_token_id": token_ids["<|vision_start|>"],
        "vision_end_token_id": token_ids["<|vision_end|>"],
        "text_config": {
            "model_type": "qwen3_5_moe_text",
            "vocab_size": vocab_size,
            "hidden_size": hidden_size,
            "num_hidden_layers": num_layers,
            "full_attention_interval": interval,
            "layer_types": [kinds[(i + 1) % interval == 0] for i in range(num_layers)],
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "attention_bias": False,
            "attn_output_gate": True,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
            "linear_conv_kernel_dim": 4,
            "mamba_ssm_dtype": "float32",
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 8192,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "shared_expert_intermediate_size": 96,
            "mtp_num_hidden_layers": 1,
            "mtp_use_dedicated_embeddings": False,
            "eos_token_id": token_ids["<|endoftext|>"],
            "rope_parameters": {
                "rope_type": "default",
                # A small base: pictures are 20 tokens wide, and few frequencies must tell them apart.
                "rope_theta": 1000.0,
                "partial_rotary_factor": 0.5,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
        },
        "vision_config": {
            "model_type": "qwen3_5_moe",
            "depth": 5,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_heads": 4,
            "in_channels": 3,
            "patch_size": PATCH_SIZE,
            "temporal_patch_size": 2,
            "spatial_merge_size": MERGE_SIZE,
            "num_position_embeddings": 400,
            "out_hidden_size": hidden_size,
            "hidden_act": "gelu_pytorch_tanh",
            "deepstack_visual_indexes": [],
        },
    }


def preprocessor_json() -> dict[str, Any]:
    return {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "size": {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
        "patch_size": PATCH_SIZE,
        "merge_size": MERGE_SIZE,
        "temporal_patch_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "rescale_factor": 1 / 255,
        "resample": 3,
    }


def video_preprocessor_json() -> dict[str, Any]:
    """The official sampling, two frames a second, but for fewer and smaller frames."""
    shared = {k: v for k, v in preprocessor_json().items() if k not in ("image_processor_type", "size")}
    return {
        "video_processor_type": "Qwen3VLVideoProcessor",
        "size": {"shortest_edge": 4096, "longest_edge": MAX_FRAMES * MAX_PAIR_TOKENS * TOKEN_PIXELS**2},
        "fps": 2,
        "min_frames": 4,
        "max_frames": MAX_FRAMES,
        "cap_pixels_per_frame": True,
        "max_video_tokens": MAX_PAIR_TOKENS,
        **shared,
    }


@lru_cache
def video_processor() -> VideoProcessor:
    """As the program makes it from the written checkpoint."""
    vision = model_config(dict.fromkeys(TOKENS_NAMED_IN_CONFIG, 0), 64).vision
    assert vision is not None
    return VideoProcessor(video_preprocessor_json(), vision, "mini")


def model_config(token_ids: dict[str, int], vocab_size: int) -> ModelConfig:
    return ModelConfig.from_dict(config_json(token_ids, vocab_size), "mini")
