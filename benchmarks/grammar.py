"""What a schema costs and saves, on a packed model: `python benchmarks/grammar.py FOLDER`.

(`benchmarks/decode.py 0.8b` leaves such a folder with random weights and the true vocabulary's size.)
Requests take turns in one process: free, by a schema whose forced tokens are drawn one by one as all others
are (what masks cost), and by the same schema as it is (what forced tokens save). The schema is a list without
end, so that all answers have as many tokens.
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

from qwen35.cores import num_cores
from qwen35.engine.engine import Engine
from qwen35.engine.grammar import Constraint, Grammars
from qwen35.engine.load import load_engine
from qwen35.engine.request import Grammar, Request
from qwen35.events import Finished
from qwencli.bandwidth import read_bandwidth
from qwencli.speed import endless, prompt_of_words

RECORD = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "kind": {"enum": ["fruit", "bread", "drink"]},
        "price": {"type": "number", "minimum": 0, "maximum": 999},
        "bought": {"type": "string", "format": "date"},
        "note": {"type": ["string", "null"], "maxLength": 40},
    },
    "required": ["name", "kind", "price", "bought", "note"],
    "additionalProperties": False,
}
SCHEMA = Grammar("json_schema", json.dumps({"type": "array", "items": RECORD, "minItems": 10_000}))


class Unforced(Grammars):
    """Forced tokens are left to the sampler, which has no choice either."""

    def constraint(self, grammar: Grammar) -> Constraint:
        constraint = super().constraint(grammar)
        constraint.forced = list  # type: ignore[method-assign]
        return constraint


@dataclass(frozen=True, slots=True)
class Way:
    """How to answer, and what came of it: tokens per second, seconds from the prompt to the first token."""

    name: str
    engine: Engine
    grammar: Grammar | None
    rates: list[float]
    firsts: list[float]

    def run(self, num_prompt: int, num_tokens: int, seed: int) -> None:
        prompt = prompt_of_words(self.engine.processor, num_prompt, seed)
        request = Request((), max_tokens=num_tokens, seed=seed, grammar=self.grammar)
        *_, finished = self.engine.generate(request, prompt)
        assert isinstance(finished, Finished)
        assert finished.usage.completion_tokens == num_tokens, finished
        self.rates.append((num_tokens - 1) / finished.timings.decode_s)
        self.firsts.append(finished.timings.first_token_s - finished.timings.prefill_s)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=128, metavar="N", help="tokens before; default 128")
    parser.add_argument("--tokens", type=int, default=96, metavar="N", help="of each answer; default 96")
    options = parser.parse_args()
    engine = load_engine(options.folder, device="cpu", load="read")
    stop_ids = engine.defaults.stop_ids
    start = time.perf_counter()
    engine.grammars.constraint(SCHEMA)
    print(
        f"the vocabulary of {engine.processor.tokenizer.size:,} tokens: {time.perf_counter() - start:.2f} s"
    )
    unforced = replace(engine, grammars=Unforced(engine.processor.tokenizer, stop_ids))
    unforced.grammars.constraint(SCHEMA)
    ways = [
        Way("free", endless(engine), None, [], []),
        Way("schema, tokens drawn one by one", endless(unforced), SCHEMA, [], []),
        Way("schema", endless(engine), SCHEMA, [], []),
    ]
    for way in ways:
        way.run(16, 8, 0)  # warm up
        way.rates.clear()
        way.firsts.clear()
    for number in range(options.rounds):
        for way in ways:
            way.run(options.prompt, options.tokens, number)
    free = ways[0]
    memory = read_bandwidth(num_cores(), 3 * 10**8) / 1e9
    print(f"{options.tokens} tokens after {options.prompt}, medians of {options.rounds}; {memory:.1f} GB/s")
    for way in ways:
        rate, first = statistics.median(way.rates), statistics.median(way.firsts)
        ratio = statistics.median(own / other for own, other in zip(way.rates, free.rates, strict=True))
        print(
            f"{way.name:32} {rate:7.1f} tokens/s ({min(way.rates):.1f} to {max(way.rates):.1f}), "
            f"{ratio:5.2f} of free; first token {1000 * first:.1f} ms after the prompt"
        )


if __name__ == "__main__":
    main()
