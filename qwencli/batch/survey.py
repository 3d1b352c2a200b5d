"""A first look through the items: how many there are, and what can be wrong with them before any is asked."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from qwen35.errors import InputError
from qwencli.batch.items import Item
from qwencli.batch.listing import Listing
from qwencli.errors import UsageError
from qwencli.templates.places import unknown_name

SAMPLE = 24
_SHOWN_BAD = 3
_STEP = 1000  # items between two words on how far it is


@dataclass(frozen=True, slots=True)
class Survey:
    """`sample`: some of the items that can be asked, the first of them and others at random."""

    num_items: int
    sample: tuple[Item, ...]
    num_bad: int
    notes: tuple[str, ...]


def survey(listing: Listing, on_progress: Callable[[int], None]) -> Survey:
    """Go through all items once. Raises UsageError for a question that none of them can fill, InputError
    where there is none."""
    num_items = num_bad = num_good = 0
    bad: list[str] = []
    sample: list[Item] = []
    models: set[str] = set()
    chance = random.Random(0)  # the same sample of the same items
    for item in listing:
        num_items += 1
        if num_items % _STEP == 0:
            on_progress(num_items)
        if item.error is not None:
            num_bad += 1
            if len(bad) < _SHOWN_BAD:
                bad.append(str(item.error))
            continue
        if item.request and len(models) < _SHOWN_BAD:
            models.add(str(item.request.body.get("model")))
        num_good += 1
        if num_good <= SAMPLE:
            sample.append(item)
        elif 0 < (place := chance.randrange(num_good)) < SAMPLE:
            sample[place] = item
    for name in listing.missing:
        if name not in listing.known:
            raise UsageError(unknown_name(name, listing.known))
    if num_items == 0:
        left_out = listing.left_out_note()
        raise InputError(f"There are no items{f': {left_out}' if left_out else ''}.")
    return Survey(num_items, tuple(sample), num_bad, tuple(_notes(listing, bad, num_bad, models)))


def _notes(listing: Listing, bad: list[str], num_bad: int, models: set[str]) -> list[str]:
    notes = []
    if note := listing.left_out_note():
        notes.append(note)
    if number := listing.num_repeated:
        notes.append(
            f"{number:,} input{'s were' if number > 1 else ' was'} named twice, and asked about once"
        )
    if num_bad:
        more = f"; and {num_bad - len(bad):,} more" if num_bad > len(bad) else ""
        what = "1 item that cannot be asked" if num_bad == 1 else f"{num_bad:,} items that cannot be asked"
        notes.append(f"{what}, and will fail: {'; '.join(text.rstrip('.') for text in bad)}{more}")
    if models:
        notes.append(f"the requests name {', '.join(sorted(models))}; -m says which model answers")
    return notes
