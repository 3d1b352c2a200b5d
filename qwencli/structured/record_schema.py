"""The JSON Schema of one record: the object of `qwen ask --json`, and of a line of `qwen batch`."""

from typing import Any

Schema = dict[str, Any]

_COUNT: Schema = {"type": "integer", "minimum": 0}
_SECONDS: Schema = {"type": "number", "minimum": 0}
_RATE: Schema = {"type": "number", "minimum": 0, "description": "per second; 0 where nothing was measured"}


def _text(description: str, *, or_null: bool = False) -> Schema:
    return {"type": ["string", "null"] if or_null else "string", "description": description}


def _object(properties: Schema, description: str = "", *, or_null: bool = False) -> Schema:
    kind = {"type": ["object", "null"] if or_null else "object"}
    told = {"description": description} if description else {}
    return kind | told | {"properties": properties, "required": list(properties)}


_ON_DISK = {
    "hits": _COUNT,
    "misses": _COUNT,
    "bytes_read": _COUNT,
    "stall_s": _SECONDS,
    "arena_bytes": _COUNT,
    "bytes_wasted": _COUNT,
    "hit_rate": {"type": "number", "minimum": 0, "maximum": 1},
}


def record_schema(command: str) -> Schema:
    """Of `ask`, or of `batch`. Keys may be added within a schema_version, never taken away."""
    item = _text("the item's name", or_null=command == "ask")
    properties = {
        "schema_version": {"const": 1},
        "id": _text("of this answer; a batch gives the same item, question and model the same one"),
        "item": item,
        "model": _text("its name", or_null=True),
        "backend": _text(
            "what it ran on: kernels and threads, or the device; null before it was loaded", or_null=True
        ),
        "answer": _text(
            "the answer alone, partial where it is incomplete; null where there is none", or_null=True
        ),
        "answers": {
            "type": "array",
            "items": {"type": "string"},
            "description": "all there are; of a clip's windows, each one's",
        },
        "data": {
            "description": "what an answer by a --schema holds, once it was checked; else null. With --n "
            "a list of what each answer holds"
        },
        "where": {
            "type": ["array", "null"],
            "items": _object(
                {
                    "path": _text("of a value in data: $.items[0].price"),
                    "source": _text("the picture or page in which it was found"),
                    "page": {"type": ["integer", "null"], "minimum": 1, "description": "of a document"},
                    "box": {
                        "type": ["array", "null"],
                        "items": _COUNT,
                        "minItems": 4,
                        "maxItems": 4,
                        "description": "left, top, right, bottom in pixels; null where the model gave none",
                    },
                    "page_size": {
                        "type": "array",
                        "items": _COUNT,
                        "minItems": 2,
                        "maxItems": 2,
                        "description": "width and height in pixels of the picture as it was read",
                    },
                }
            ),
            "description": "with --where: where the data's values were found",
        },
        "reasoning": _text("what was thought before the answer", or_null=True),
        "logprobs": {
            "type": ["array", "null"],
            "items": _object(
                {
                    "token": _text("its text; a part of a character shows as U+FFFD"),
                    "logprob": {
                        "type": ["number", "null"],
                        "maximum": 0,
                        "description": "by the model alone; null where there was no choice",
                    },
                }
            ),
            "description": "of the (first) answer's tokens, with --logprobs",
        },
        "finish_reason": {
            "enum": ["stop", "length", "loop", "schema", "interrupted", "error", None],
            "description": "stop: whole. length: cut. loop: it repeated itself. schema: not what --schema, "
            "--regex, --choice or --grammar asks for. null: no model was asked (--dry-run)",
        },
        "usage": _object(
            {
                "prompt_tokens": _COUNT,
                "cached_tokens": _COUNT,
                "image_tokens": _COUNT,
                "video_tokens": _COUNT,
                "completion_tokens": _COUNT,
                "reasoning_tokens": _COUNT,
            }
        ),
        "timings": _object(
            {
                "load_s": _SECONDS,
                "media_s": _SECONDS,
                "prefill_s": _SECONDS,
                "first_token_s": _SECONDS,
                "decode_s": _SECONDS,
                "prefill_tokens_per_s": _RATE,
                "decode_tokens_per_s": _RATE,
            }
        ),
        "attachments": {
            "type": "array",
            "items": _object(
                {
                    "source": _text("as it was named"),
                    "type": _text("image, video, pdf or text"),
                    "sha256": _text("of its bytes"),
                    "size_bytes": _COUNT,
                    "tokens": _COUNT,
                }
            ),
        },
        "chat_id": _text("of the conversation it is a part of", or_null=True),
        "cache": _object(
            {"reused_tokens": _COUNT, "reason": _text("why not more were reused", or_null=True)}
        ),
        "experts": _object(_ON_DISK, "of a model whose experts are not all in memory", or_null=True),
        "layers": _object(_ON_DISK, "of a model whose layers are not all in memory", or_null=True),
        "speculated": _object(
            {
                "drafted": _COUNT,
                "accepted": _COUNT,
                "passes": _COUNT,
                "acceptance": {"type": "number", "minimum": 0, "maximum": 1},
            },
            "tokens that were drafted ahead, and what came of them",
            or_null=True,
        ),
        "windows": {
            "type": ["array", "null"],
            "items": _object(
                {
                    "start_s": _SECONDS,
                    "end_s": _SECONDS,
                    "answer": _text("of these seconds of a clip"),
                    "finish_reason": _text("as that of the whole"),
                }
            ),
            "description": "of a clip that is walked through in windows",
        },
        "notes": {"type": "array", "items": {"type": "string"}, "description": "what a person is told"},
        "error": _object(
            {
                "code": {"type": "integer", "description": "the exit code"},
                "kind": _text("a stable word for it"),
                "message": _text("what was wrong, and what to do"),
                "path": _text("the file, folder or URL at fault", or_null=True),
            },
            or_null=True,
        ),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The answer of qwen ask --json"
        if command == "ask"
        else "A line of the output of qwen batch",
        "type": "object",
        "properties": properties,
        "required": list(properties),
    }
