"""Prompts of indirect object identification (Wang et al. 2022), for benchmarks: who is given something?

In: a model with a tokenizer, how many, a seed. Out: prompts of one length, half of each order of the names (ABB and
BAB), with the indirect object as the answer and the subject as the foil. Names, places and things are words of one
token; those that are not in a model's tokenizer are left out.
"""

import random

import headscope as hs
from headscope.models.model import Model

NAMES = """
    Mary John Tom James Dan Sarah Kate Anna Paul Mark Jack Emma Alice Bob David Laura Peter Lucy Adam Jane Max Simon
    Rachel Michael
"""
PLACES = "store park school station garden hospital restaurant library market office"
THINGS = "drink book ring key letter ball bone computer kiss necklace ticket flower"


def ioi(model: Model, *, n: int = 96, seed: int = 0) -> hs.Prompts:
    """`n` different prompts such as "When Mary and John went to the store, John gave a drink to" (" Mary")."""
    rng = random.Random(seed)
    names, places, things = (
        [word for word in words.split() if _single(model, word)] for words in (NAMES, PLACES, THINGS)
    )
    texts: dict[str, tuple[int, int]] = {}
    while len(texts) < n:
        receiver, giver = rng.sample(names, 2)
        pair = (receiver, giver) if len(texts) % 2 == 0 else (giver, receiver)
        place, thing = rng.choice(places), rng.choice(things)
        text = f"When {pair[0]} and {pair[1]} went to the {place}, {giver} gave a {thing} to"
        texts[text] = (_token(model, receiver), _token(model, giver))
    shown = hs.tasks.text(model, list(texts))
    answers, foils = zip(*texts.values(), strict=True)
    made_by = {"task": "indirect object identification", "n": n, "seed": seed, "texts": shown.made_by}
    return hs.Prompts(shown.tokens, answers=answers, foils=foils, made_by=made_by)


def _token(model: Model, word: str) -> int:
    return int(model.tokenizer.encode(f" {word}", add_special_tokens=False)[0])


def _single(model: Model, word: str) -> bool:
    return len(model.tokenizer.encode(f" {word}", add_special_tokens=False)) == 1
