"""The official JSON Schema test suite against schemas as `--schema` takes them:
`python benchmarks/schema_suite.py FOLDER` (a draft's folder of the suite, such as tests/draft2020-12).

Each schema is refused, with the place, or enforced. Of those enforced, each instance of the suite is given to
the grammar: a valid one should be accepted, an invalid one not. One that slips through is caught by the
validation that follows every answer. Instances are written as the grammar writes them, keys in the schema's
order.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from qwen35.engine.grammar import Grammars
from qwen35.engine.request import Grammar
from qwen35.processing.tokenizer import Tokenizer
from qwencli.structured.check import check_schema

ODD = ("schemas refused", "valid, not accepted", "slipped through, caught by validation")
MINI = Path(__file__).parents[1] / "model/qwen35/builtin/mini"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--show", action="store_true", help="name each case that is not as it should be")
    options = parser.parse_args()
    tokenizer = Tokenizer.from_folder(MINI)
    stop_id = tokenizer.id_of("<|im_end|>")
    assert stop_id is not None
    grammars = Grammars(tokenizer, {stop_id})
    counts: Counter[str] = Counter()
    for path in sorted(options.folder.glob("*.json")):
        for group in json.loads(path.read_text(encoding="utf-8")):
            for kind, name in outcomes(group, grammars, tokenizer):
                counts[kind] += 1
                if options.show and kind in ODD:
                    print(f"{kind:24} {path.stem}: {group['description']}: {name}")
    for kind, count in sorted(counts.items()):
        print(f"{count:6,} {kind}")


def outcomes(group: dict[str, Any], grammars: Grammars, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    schema = group["schema"]
    try:
        check_schema(schema)
    except ValueError as error:
        return [("schemas refused", str(error))]
    found = [("schemas enforced", "")]
    for case in group["tests"]:
        constraint = grammars.constraint(Grammar("json_schema", json.dumps(schema)))
        for token in tokenizer.encode(json.dumps(ordered(case["data"], schema), ensure_ascii=False)):
            constraint.push(token)
        accepted = constraint.is_complete
        kind = {
            (True, True): "valid, accepted",
            (True, False): "valid, not accepted",
            (False, True): "slipped through, caught by validation",
            (False, False): "invalid, not accepted",
        }[case["valid"], accepted]
        found.append((kind, case["description"]))
    return found


def ordered(data: Any, schema: Any) -> Any:
    """Objects with keys as the schema lists them, where it lists them at the top."""
    if not isinstance(data, dict) or not isinstance(schema, dict):
        return data
    listed = schema.get("properties", {})
    return {
        key: data[key] for key in [*(k for k in listed if k in data), *(k for k in data if k not in listed)]
    }


if __name__ == "__main__":
    main()
