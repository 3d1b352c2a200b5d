"""`--where`: on which page each value of an answer was found, and in which box of it.

The model is asked for a schema in which each value stands beside its page and its box. What comes back is
parted again: into the data that the user's own schema describes, and places.

Boxes are asked for as the models of the family are trained to give them: from 0 to 1000 across a picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qwen35.messages import ImagePart, Message

Schema = dict[str, Any]

_ACROSS = 1000  # of a box, from one side of a picture to the other
_DEFINITIONS = ("#/$defs/", "#/definitions/")
_PLACED = "placed-"  # in front of a definition's name: the one with places
# Beside these, an object or a list is described by more than its parts: it counts as one value.
_COMPOSED = {"anyOf", "oneOf", "allOf", "not", "if", "enum", "const", "prefixItems", "patternProperties"}


@dataclass(frozen=True, slots=True)
class Place:
    """Of the value at `path` (as `$.items[0].price`). `page`: of a document; `box`: left, top, right and
    bottom in pixels of a picture of `page_size` (width, height), None where the model gave none."""

    path: str
    source: str
    page: int | None
    box: tuple[int, int, int, int] | None
    page_size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Where:
    """A schema, and the pictures in which its values are to be found."""

    schema: Schema
    pictures: tuple[ImagePart, ...]

    @classmethod
    def of(cls, schema: Any, messages: Sequence[Message]) -> "Where":
        """Raises ValueError where there is no picture, or the schema cannot be taken apart."""
        pictures = [part for message in messages for part in message.parts if isinstance(part, ImagePart)]
        if not pictures:
            raise ValueError("there is no page or picture in which a value could be found")
        if not isinstance(schema, dict):
            raise ValueError("a schema that names no values has no places")
        return cls(schema, tuple(pictures))

    @property
    def placed(self) -> Schema:
        """What the model is asked for."""
        root = self._placed(self.schema)
        for kind in ("$defs", "definitions"):
            if own := self.schema.get(kind):
                placed = {f"{_PLACED}{name}": self._placed(below) for name, below in own.items()}
                root[kind] = own | placed
        return root

    @property
    def instruction(self) -> str:
        which = "1: there is one picture" if len(self.pictures) == 1 else "counted from 1, in their order"
        return (
            f"With each value give its page ({which}) and its box there: [left, top, right, bottom] from 0 "
            f"to {_ACROSS} across the page, or null."
        )

    def part(self, answer: Any) -> tuple[Any, list[Place]]:
        """The data and the places of an answer by `placed`. Raises ValueError where it is none."""
        places: list[Place] = []
        try:
            data = self._part(self.schema, answer, "$", places)
        except (TypeError, LookupError, AttributeError) as error:
            raise ValueError(f"a value stands without its place ({error})") from None
        return data, places

    def _placed(self, schema: Any) -> Schema:
        if not isinstance(schema, dict):
            return self._beside_its_place(schema)
        reference = schema.get("$ref")
        target = self._resolved(schema)
        if _fields(target) is None and _items(target) is None:
            return self._beside_its_place(schema)
        if isinstance(reference, str):
            start, name = reference.rsplit("/", 1)
            return schema | {"$ref": f"{start}/{_PLACED}{name}"}
        placed = dict(schema)
        if fields := _fields(schema):
            placed["properties"] = {name: self._placed(below) for name, below in fields.items()}
        else:
            placed["items"] = self._placed(schema["items"])
        return placed

    def _beside_its_place(self, value: Any) -> Schema:
        value = {key: part for key, part in value.items() if key not in ("$defs", "definitions", "$schema")}
        number = {"type": "integer", "minimum": 0, "maximum": _ACROSS}
        box = {"type": "array", "items": number, "minItems": 4, "maxItems": 4}
        properties = {
            "value": value,
            "page": {"enum": list(range(1, len(self.pictures) + 1))},
            "box": {"anyOf": [box, {"type": "null"}]},
        }
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    def _resolved(self, schema: Any) -> Any:
        """What a schema's `$ref` leads to."""
        seen = set()
        while isinstance(schema, dict) and isinstance(reference := schema.get("$ref"), str):
            start, slash, name = reference.rpartition("/")
            known = self.schema.get(start.removeprefix("#/"), {}) if start + slash in _DEFINITIONS else {}
            if name not in known or reference in seen:
                raise ValueError(f"a $ref to {reference!r} cannot be followed; one to #/$defs/NAME can")
            seen.add(reference)
            schema = known[name]
        return schema

    def _part(self, schema: Any, answer: Any, path: str, places: list[Place]) -> Any:
        schema = self._resolved(schema)
        if (fields := _fields(schema)) is not None:
            return {
                name: self._part(fields[name], below, f"{path}{_step(name)}", places)
                for name, below in answer.items()
            }
        if (items := _items(schema)) is not None:
            return [
                self._part(items, below, f"{path}[{index}]", places) for index, below in enumerate(answer)
            ]
        picture = self.pictures[answer["page"] - 1]
        height, width = picture.pixels.shape[:2]
        box = _in_pixels(answer["box"], width, height)
        places.append(Place(path, picture.source, picture.page, box, (width, height)))
        return answer["value"]


def _step(name: str) -> str:
    """Of a path, as JSONPath has it."""
    return f".{name}" if name.isidentifier() else f"[{name!r}]"


def _fields(schema: Any) -> Schema | None:
    """Of an object that is no more than its listed fields."""
    if not isinstance(schema, dict) or _COMPOSED & set(schema):
        return None
    fields = schema.get("properties")
    return fields if fields and not isinstance(schema.get("additionalProperties"), dict) else None


def _items(schema: Any) -> Schema | None:
    """Of a list of such."""
    if not isinstance(schema, dict) or _COMPOSED & set(schema) or schema.get("properties"):
        return None
    items = schema.get("items")
    return items if isinstance(items, dict) else None


def _in_pixels(box: Sequence[int] | None, width: int, height: int) -> tuple[int, int, int, int] | None:
    """None for what is no box: without a width or a height, or outside of its page."""
    if box is None or not (0 <= box[0] < box[2] <= _ACROSS and 0 <= box[1] < box[3] <= _ACROSS):
        return None
    left, top, right, bottom = box
    return (
        left * width // _ACROSS,
        top * height // _ACROSS,
        -(-right * width // _ACROSS),
        -(-bottom * height // _ACROSS),
    )
