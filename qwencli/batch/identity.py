"""What an answer was made of, in its id: so that an output says which items are done, and of which run.

`item-` and four hashes: of the model, the question, the settings, and of the item's own content. Nothing
beside the output has to be kept for a batch to go on after whatever ended it.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any, Self

from qwencli.settings import Settings
from qwencli.values import PageRanges

_ID = re.compile(r"(?:item-|batch_req_)([0-9a-f]{8})-([0-9a-f]{8})-([0-9a-f]{8})-([0-9a-f]{16})")
# What of the settings does not change an answer (or one that is cut off alone), and what is hashed apart.
_OTHER = (
    *("model", "system", "device", "load", "ram", "threads", "cache_disk", "cache_ram"),
    *("max_tokens", "ctx", "speculate"),
)


@dataclass(frozen=True, slots=True)
class Run:
    """Hashes of what all items of a run have in common."""

    model: str
    question: str
    settings: str

    @classmethod
    def of(cls, weights: str, question: str | None, settings: Settings, pages: PageRanges | None) -> Self:
        """`weights`: their fingerprint; `question`: the template, None where each item has its own."""
        # What is as it would be unsaid is left out: a setting that a later version adds changes no hash.
        usual = asdict(Settings())
        values = {
            name: value
            for name, value in asdict(settings).items()
            if name not in _OTHER and value != usual[name]
        }
        return cls(
            _hash(weights), _hash([question, settings.system]), _hash([values, pages and pages.ranges])
        )

    def differences(self, other: "Run") -> str:
        """Where the two differ, for a person: "another question and other settings"."""
        names = {"model": "another model", "question": "another question", "settings": "other settings"}
        found = [words for name, words in names.items() if getattr(self, name) != getattr(other, name)]
        return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


@dataclass(frozen=True, slots=True)
class Identity:
    """One answer: its run, and a hash of its item's content."""

    run: Run
    content: str

    @classmethod
    def parse(cls, id: str) -> Self | None:
        """None for what is no id of a batch."""
        match = _ID.fullmatch(id)
        return cls(Run(*match.groups()[:3]), match[4]) if match else None

    def id(self, prefix: str = "item-") -> str:
        run = self.run
        return f"{prefix}{run.model}-{run.question}-{run.settings}-{self.content}"


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
