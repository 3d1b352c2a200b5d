"""What receipts are about: shops and the things that they sell."""

import random

from mini.words import WORDS, read_list

OWNERS = read_list("owners")
TRADES = read_list("trades")
GOODS = read_list("goods")
TWO_WORD_GOODS = read_list("two_word_goods")


def merchant(rng: random.Random) -> str:
    """Like `Miller's Bakery`, `CAFE LUNA` or `River Books`."""
    owner, trade = rng.choice(OWNERS), rng.choice(TRADES)
    form = rng.random()
    if form < 0.15:
        name = f"{owner}'s"
    elif form < 0.3:
        name = rng.choice([owner, trade, rng.choice(WORDS).capitalize()])
    elif form < 0.45:
        name = f"{trade} {owner}"
    elif form < 0.6:
        name = f"{owner}'s {trade}"
    else:
        name = f"{owner} {trade}"
    return name.upper() if rng.random() < 0.4 else name


def goods(rng: random.Random) -> str:
    """Something on sale, in lower case: most are real goods, some are any word."""
    chance = rng.random()
    if chance < 0.2:
        return rng.choice(WORDS)
    return rng.choice(TWO_WORD_GOODS if chance < 0.35 else GOODS)
