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
    """`sample`: some of the items that can be asked, the first of them and others at random.

    `num_bad`, that cannot be asked, and `num_to_do` are of those that are not done.
    """

    num_items: int
    sample: tuple[Item, ...]
    num_done: int
    num_bad: int
    num_to_do: int
    notes: tuple[str, ...]


def survey(
    listing: Listing, on_progress: Callable[[int], None], is_done: Callable[[Item], bool] = lambda item: False
) -> Survey:
    """Go through all items once. Raises UsageError for a question that none of them can fill, InputError
    where there is none."""
    num_items = num_bad = num_good = num_done = num_bad_done = 0
    bad: list[str] = []
    sample: list[Item] = []
    models: set[str] = set()
    chance = random.Random(0)  # the same sample of the same items
    for item in listing:
        num_items += 1
        if num_items % _STEP == 0:
            on_progress(num_items)
        done = is_done(item)
        num_done += done
        if item.error is not None:
            num_bad += 1
            num_bad_done += done
            if len(bad) < _SHOWN_BAD:
                bad.append(str(item.error))
            continue
        model = item.request.body.get("model") if item.request else None
        if isinstance(model, str) and len(models) < _SHOWN_BAD:
            models.add(model)
        num_good += 1
        if num_good <= SAMPLE:
            sample.append(item)
        elif 0 < (place := chance.randrange(num_good)) < SAMPLE:
            sample[place] = item
    for name in listing.missing:
        if name not in listing.known:
            raise UsageError(unknown_name(name, listing.known))
    if num_items == 0:
        raise InputError(f"There are no items: {'; '.join([*listing.empty, *listing.left_out_notes()])}.")
    num_bad_left = num_bad - num_bad_done
    return Survey(
        num_items,
        tuple(sample),
        num_done,
        num_bad_left,
        num_items - num_done - num_bad_left,
        tuple(_notes(listing, bad, num_bad, models)),
    )


def _notes(listing: Listing, bad: list[str], num_bad: int, models: set[str]) -> list[str]:
    notes = listing.left_out_notes()
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
