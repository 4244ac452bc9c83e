"""Layers removed, attention to the first token, and one head ablated: `python -m tools.real_models measure NAME`.

In: a model and how many prompts. Out: plain numbers for the page: how much the perplexity grows without each layer,
which heads give over half of their attention to the first token, and what the induction head that raises most costs.
Not done here: what whole kinds of heads cost (kinds).
"""

import math
from typing import Any

import headscope as hs
from headscope.detectors import default_prompts, detect, pairs
from headscope.detectors.copying import INDUCTION
from headscope.detectors.reading import MassReading
from headscope.models.model import Model
from headscope.sweeps import Cell, evaluate

HALF = 0.5


def measured(model: Model, n: int = 16) -> dict[str, Any]:
    """Layers removed, attention to the first token, and the head that writes most ablated."""
    return {"n": n, "removed": removed(model, n), "first_token": first_token(model, n), "ablated": ablated(model, n)}


def removed(model: Model, n: int) -> list[float]:
    """How many times as large the perplexity on prose is without each layer (its attention and its MLP)."""
    prose = hs.tasks.natural(model, n=n)
    cells = [Cell((hs.zero(("attn_out", layer)), hs.zero(("mlp_out", layer)))) for layer in range(model.n_layers)]
    table = hs.sweep(model, prose, cells, hs.measures.loss())
    clean = float(evaluate(model, prose, [hs.measures.loss()])[0].mean())
    return [math.exp(row["value"] - clean) for row in table.rows()]


def first_token(model: Model, n: int) -> dict[str, dict[str, float]]:
    """Mean attention to the first token of every head that gives it over half, by kind of prompts."""
    shown = {
        "prose": hs.tasks.natural(model, n=n),
        "random tokens, twice": hs.tasks.repeated_tokens(model, length=25, repeats=2, n=n),
        "random tokens, four times": hs.tasks.repeated_tokens(model, length=25, repeats=4, n=n),
    }
    found: dict[str, dict[str, float]] = {}
    for kind, prompts in shown.items():
        reading = MassReading([pairs.first_token(prompts)])
        model.read(prompts, [reading])
        every = {head: float(reading.mass[head.layer][0][:, head.index].mean()) for head in model.heads}
        found[kind] = {str(head): mass for head, mass in every.items() if mass > HALF}
    return found


def ablated(model: Model, n: int) -> dict[str, Any]:
    """The induction head that raises most what it attends to, mean-ablated: the losses, and what others then write.

    The mean is that over prompts in which nothing repeats.
    """
    prompts = default_prompts(model, n=n)
    before = {row["head"]: row for row in detect(model, [INDUCTION], prompts=prompts).rows()}
    head = max((row for row in before.values() if row["kind"] == INDUCTION), key=lambda row: row["copying"])["head"]
    edit = hs.mean(head, over=prompts.unrepeated)
    after = {row["head"]: row for row in detect(model, [INDUCTION], prompts=prompts, interventions=[edit]).rows()}
    others = [name for name, row in before.items() if row["named"] and name != head]
    asked = {
        "repeated": (prompts.repeated, hs.measures.loss("predictable")),
        "prose": (prompts.natural, hs.measures.loss()),
    }
    raised = {}
    for kind, (shown, loss) in asked.items():
        clean, cut = (evaluate(model, shown, [loss], edits)[0] for edits in ((), (edit,)))
        change = hs.measures.interval((cut - clean).double().numpy())
        raised[kind] = [float(each) for each in (change.mean, change.low, change.high)]
    wrote = {name: [before[name]["copying"], after[name]["copying"]] for name in others}
    return {"head": head, "raised": raised, "wrote": wrote}
