"""`qwen schema`: what programs read, as a JSON Schema."""

import json
from typing import Annotated, Literal

import typer

from qwencli.render.output import standard_output


def schema(
    command: Annotated[
        Literal["ask", "batch"],
        typer.Argument(
            metavar="ask|batch", help="The object of `ask --json`, or a line of `batch`'s output."
        ),
    ],
) -> None:
    """Print the JSON Schema of what --json prints.

    qwen schema ask > ask.schema.json
    """
    from qwencli.structured.record_schema import record_schema

    output = standard_output()
    output.write(json.dumps(record_schema(command), indent=2) + "\n")
    output.flush()
