"""Self-repair of the heads that matter most on repeated tokens: `python -m tools.real_models repair NAME`.

In: a model. Out: for three heads, each ablated by zero, the direct effect that is lost, how much the logit changes,
and what other heads, MLPs and norms make up for (studies.self_repair). The heads are chosen on prompts of their own,
among those that write to the logit themselves, for of a head that writes nothing there is nothing to make up for: the
twelve that matter most to first order are ablated, and the three whose ablation raises the loss most are followed.
"""

from typing import Any

from tools.real_models.kinds import READ, repeated_tokens

import headscope as hs
from headscope.models.model import Model
from headscope.studies.self_repair import NEAR_ZERO_LOGITS, self_repair_of
from headscope.sweeps import each_head
from headscope.sweeps.attribution import FIRST_ORDER
from headscope.sweeps.self_repair import direct_effects
from headscope.tasks.prompts import Prompts

HEADS, TRIED = 3, 12
LEAST = 2 * NEAR_ZERO_LOGITS  # surely more than nothing on other prompts too


def repaired(model: Model, *, read: int, n: int = 16) -> dict[str, Any]:
    """The heads with their quantities as mean and bounds, how many write, and how many of them were tried."""
    chosen, writing = costliest(model, repeated_tokens(model, read=read, n=n // 2, seed=3))
    judged = repeated_tokens(model, read=read, n=n, seed=4)
    followed = direct_effects(model, judged, READ, ablations=[hs.zero(head) for head in chosen])
    found: dict[str, dict[str, list[float]]] = {str(head): {} for head in chosen}
    for name, samples in self_repair_of(chosen, followed).items():
        bounds = samples.estimate()
        for cell, *numbers in zip(samples.cells, bounds.mean, bounds.low, bounds.high, strict=True):
            found[str(cell[0])][name] = list(map(float, numbers))
    return {"n": n, "read": read, "least": LEAST, "writing": writing, "tried": min(TRIED, writing), "heads": found}


def costliest(model: Model, prompts: Prompts) -> tuple[list[hs.Head], int]:
    """Of the heads that write, those whose zero ablation raises the loss most; and how many write."""
    clean = direct_effects(model, prompts, READ).clean
    writing = [head for head in model.heads if abs(float(clean.of(head).mean())) >= LEAST]
    cells, measure = each_head(hs.zero("z"), writing), hs.measures.loss(READ)
    table = hs.sweep(model, prompts, cells, measure, approximate=True, verify_top=TRIED)
    exact = sorted((row for row in table.rows() if row["path"] != FIRST_ORDER), key=lambda row: -row["value"])
    return [hs.Head.parse(row["head"]) for row in exact[:HEADS]], len(writing)
