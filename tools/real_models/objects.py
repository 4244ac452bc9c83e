"""Who is given something? Where the answer is on its way: `python -m tools.real_models objects NAME`.

In: a model with a tokenizer. Out: of the clean run's residual stream, patched before each layer at one place into the
corrupted run, the share of the logit difference that comes back (Wang et al. 2023; Meng et al. 2022). Clean: "When
Mary and John went to the store, John gave a ring to" (" Mary"). Corrupted: the other one gives, so that only that
word differs and the answer is the other name: what stands before it is the same in both runs, and patching it changes
nothing (the first name is there to show that). Names, places and things are words of one token (bench.ioi).
"""

import json
import random
from pathlib import Path
from typing import Any

from bench.ioi import NAMES, PLACES, THINGS

import headscope as hs
from headscope.measures import interval
from headscope.models.model import Model
from headscope.sweeps import evaluate
from headscope.sweeps.residual_patching import patched_residual
from headscope.tasks.prompts import Prompts

# By role, the word of the prompt, counted from its end: all prompts have one length.
ROLES = {"first name": -13, "second subject": -5, "gave": -4, "thing": -2, "end": -1}
_TEMPLATE = "When {0} and {1} went to the {place}, {giver} gave a {thing} to"


def recovered(model: Model, *, keep_prompts: Path | None = None, n: int = 24, kept: int = 64) -> dict[str, Any]:
    """Shares recovered by layer and role with bounds, and both logit differences.

    The first `n` of `kept` prompts are patched; all are written to `keep_prompts`, for `headscope top`.
    """
    clean, corrupted = pairs(model, n=kept)
    if keep_prompts is not None:
        rows = zip(clean.tokens, clean.answers, clean.foils, strict=True)
        listed = [{"tokens": list(tokens), "answer": answer, "foil": foil} for tokens, answer, foil in rows]
        keep_prompts.write_text(json.dumps(listed), encoding="utf-8")
    clean, corrupted = clean.rows(slice(n)), corrupted.rows(slice(n))
    places = {role: clean.longest + place for role, place in ROLES.items()}
    differences = {
        name: _bounded(evaluate(model, shown, [hs.measures.logit_difference()])[0].double().numpy())
        for name, shown in (("clean", clean), ("corrupted", corrupted))
    }
    shares, gap = patched_residual(model, clean, corrupted, places.values())
    bounds = shares.estimate()
    found: dict[str, list[list[float]]] = {role: [] for role in places}
    for (_, _, role), *numbers in zip(shares.cells, bounds.mean, bounds.low, bounds.high, strict=True):
        found[str(role)].append(list(map(float, numbers)))
    example = model.tokenizer.decode(list(clean.tokens[0]))
    return {"n": n, "example": example, **differences, "gap": _bounded(gap.values[:, 0]), "recovered": found}


def pairs(model: Model, *, n: int, seed: int = 0) -> tuple[Prompts, Prompts]:
    """Clean and corrupted prompts, half of each order of the names.

    Raises:
        ValueError: if the words are not of one token each, so that prompts differ in length.
    """
    rng = random.Random(seed)
    names, places, things = (_single(model, words.split()) for words in (NAMES, PLACES, THINGS))
    told: dict[str, tuple[str, str, str]] = {}
    while len(told) < n:
        receiver, giver = rng.sample(names, 2)
        pair = (receiver, giver) if len(told) % 2 == 0 else (giver, receiver)
        said = {"place": rng.choice(places), "thing": rng.choice(things)}
        told[_TEMPLATE.format(*pair, giver=giver, **said)] = (
            _TEMPLATE.format(*pair, giver=receiver, **said),
            receiver,
            giver,
        )
    shown = [hs.tasks.text(model, texts) for texts in (list(told), [other for other, _, _ in told.values()])]
    if any(prompts.ragged for prompts in shown):
        raise ValueError("prompts differ in length: a word of theirs is not one token here")
    answers = tuple(_ids(model, receiver)[0] for _, receiver, _ in told.values())
    foils = tuple(_ids(model, giver)[0] for _, _, giver in told.values())
    roles = {role: ((shown[0].longest + place,),) * n for role, place in ROLES.items()}
    made_by = {"task": "indirect object identification", "n": n, "seed": seed}
    clean, corrupted = (Prompts(each.tokens, roles, answers, foils, made_by) for each in shown)
    return clean, corrupted


def _single(model: Model, words: list[str]) -> list[str]:
    return [word for word in words if len(_ids(model, word)) == 1]


def _ids(model: Model, word: str) -> list[int]:
    """The tokens of a word within a sentence."""
    return [int(token) for token in model.tokenizer.encode(f" {word}", add_special_tokens=False)]


def _bounded(values: Any) -> list[float]:
    found = interval(values)
    return [float(found.mean), float(found.low), float(found.high)]
