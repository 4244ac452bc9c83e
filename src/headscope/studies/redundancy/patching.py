"""What the target answers once the source's residual stream is patched into its final position, layer by layer.

In: an experiment and heads that are ablated in the source. Out: `Patched`: the source's own answer, and for every
kind of source (examples; label-shuffled examples; examples of another function) what the zero-shot target answers
when the residual stream before each layer, or after the last, is patched (Hendel et al. 2023). A layer *transfers*
an answer if its probability above both controls exceeds `MARGIN`, by lower bounds. Layers that are *named* stand out
on the selection half and then do so on the other by bounds that hold for all of these at once: where many are looked
at, some exceed bounds of their own by chance.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl
import torch
from torch import Tensor

from headscope.interventions.named_heads import set_name
from headscope.measures import joint_probability
from headscope.measures.candidates import probability_of
from headscope.measures.intervals import Array
from headscope.measures.samples import LAYER, Coordinates, Samples, stacked
from headscope.models.model import Model
from headscope.models.run import Run
from headscope.studies.redundancy.experiment import Experiment, Heads
from headscope.studies.sites import residual_patches
from headscope.sweeps.cell_values import cell_values, values_of
from headscope.sweeps.final_token import final_token_run
from headscope.sweeps.naive import evaluate
from headscope.sweeps.predicted_numbers import NEAR, near, numbers_of, predicted_token
from headscope.tables import Column, Quantity
from headscope.tasks.source_and_target import CONTROLS, COPIED, EXAMPLES, TASK, TransferPrompts

# An answer is transferred if it is likelier than under both controls by more than this.
MARGIN = 0.1
PROBABILITY = Quantity("probability", "mean probability of the answer's telling token", within=(0.0, 1.0))
WHOLE = Quantity("whole", "the same of all tokens of the answer together", within=(0.0, 1.0))
ACCURACY = Quantity("accuracy", "share of prompts whose predicted answer is this one", within=(0.0, 1.0))
PARITY = Quantity("parity", "share of prompts whose number is as odd as f(target x)", within=(0.0, 1.0))
EXCESS = Quantity("excess", "how far above the same under a control, paired by prompt", within=(-1.0, 1.0))
SOURCE = Column("source", pl.String, "what the source prompt shows: examples, or one of the controls")
CONTROL = Column("control", pl.String, "what the source prompt shows instead: see the notes")
ANSWER = Column("answer", pl.String, "which; any number, unpatched: see the notes")
READING = Column("reading", pl.String, f"exact: this very answer; near: within {NEAR:.0%} of it, rounded up")
ABLATED = Column("ablated", pl.String, "what is ablated in the source prompt")


@dataclass(frozen=True, eq=False)
class Ablated:
    """One ablation in the sources of one half of the problems.

    `own` is the probability of the source's own answer, `own_right` [prompt] by reading whether it predicts that, and
    `own_number` [prompt] how far its next token is a number (None for words).
    """

    name: str
    heads: Heads
    prompts: TransferPrompts
    own: Samples
    own_right: Mapping[str, Tensor]
    own_number: Tensor | None

    def share(self, reading: str) -> float:
        """Of prompts whose own predicted answer is right, or near."""
        return float(self.own_right[reading].mean())


@dataclass(frozen=True, eq=False)
class Patched(Ablated):
    """The same, patched into targets; the layer after the last stands for the final residual stream.

    `probability` has the axes source, answer, layer; `accuracy` source, answer, reading, layer; `parity` source,
    layer, over problems with even a (None without such). `whole` is the joint probability of all tokens of an answer,
    after sources with examples and with nothing ablated: axes answer, layer; None elsewhere, and for single tokens.
    """

    probability: Samples
    accuracy: Samples
    parity: Samples | None
    whole: Samples | None = None

    @cached_property
    def excess(self) -> Samples:
        """Probability above both controls: axes control, answer, layer."""
        return excess(self.probability)

    def layers(self, *answers: str, among: Collection[int] | None = None) -> list[int]:
        """The layers that transfer one of these answers; `among` a few, by bounds that hold for all of these."""
        above = self.excess.only(answer=answers)
        above = above if among is None else above.only(layer=list(among))
        return sorted({layer for _, layer in clear(above, jointly=among is not None)})

    def first(self, *answers: str, among: Collection[int] | None = None) -> int | None:
        return min(self.layers(*answers, among=among), default=None)

    def first_near_copied(self) -> int | None:
        """The first layer whose patch clearly makes the target give a number near the source's own answer."""
        near = clear(excess(self.accuracy.at(answer=COPIED[0], reading="near")), jointly=True)
        return min((layer for (layer,) in near), default=None)

    def either(self, answers: Sequence[str]) -> Samples:
        """Probability of any of these answers, where they are asked: axes source, layer."""
        known = [self.probability.at(answer=each) for each in answers if each in self.prompts.problems.answers]
        return known[0].changed(PROBABILITY, lambda values: values + sum(each.values for each in known[1:]))


def excess(values: Samples, controls: Sequence[str] = CONTROLS) -> Samples:
    """Values from sources with examples minus those from each control, paired by prompt; axis control in front."""
    own = values.at(source=EXAMPLES)
    parts = [(own - values.at(source=each)).measured_as(EXCESS).labelled(CONTROL, each) for each in controls]
    return stacked(parts)


def nearer(above: Samples, values: Array) -> dict[Coordinates, float]:
    """Of `values` [cell] the less favourable of the controls (the first axis), by the other coordinates."""
    by_control = values.reshape(len(above.coordinates("control")), -1)
    cells = [cell[1:] for cell in above.cells[: by_control.shape[1]]]
    return dict(zip(cells, by_control.min(0).tolist(), strict=True))


def clear(above: Samples, *, jointly: bool = False) -> list[Coordinates]:
    """The cells that exceed every control by more than the margin, by bounds of each cell, or of all at once."""
    if not len(above):
        return []
    low = above.together(above=MARGIN).at_least if jointly else above.estimate().low
    return [cell for cell, at_least in nearer(above, low).items() if at_least > MARGIN]


def best_cell(above: Samples) -> tuple[str, int]:
    """The answer and layer that lie farthest above the nearer of their controls; for selection."""
    mean = nearer(above, above.mean)
    answer, layer = max(mean, key=lambda cell: mean[cell])
    return answer, layer


def ablated(tried: Experiment, prompts: TransferPrompts, heads: Heads) -> Ablated:
    """The source's own answer under an ablation."""
    model, edits = tried.model, tried.edits(heads)
    own, token, *number = evaluate(
        model, prompts.answered, [joint_probability(), predicted_token(model), *tried.numbers], edits
    )
    right = dict(zip(tried.readings, predicted_as(tried, prompts, token, COPIED[0]), strict=True))
    how_far = number[0] if number else None
    return Ablated(set_name(model, heads), heads, prompts, Samples.one(PROBABILITY, own), right, how_far)


def patched(tried: Experiment, prompts: TransferPrompts, heads: Heads) -> Patched:
    """The source's own answer under an ablation, and what the target makes of each kind of source under it."""
    model, edits, own = tried.model, tried.edits(heads), ablated(tried, prompts, heads)
    runs = {kind: final_token_run(model, each, edits) for kind, each in prompts.sources.items()}
    beside = tried.beside(prompts)
    measures = [*map(probability_of, prompts.tokens.values()), *beside.values(), predicted_token(model)]
    cells = [residual_patches(model, run) for run in runs.values()]
    values = torch.stack([values_of(model, prompts.target, each, measures) for each in cells])
    *_, predicted = values.unbind(1)  # [source, layer, prompt]
    accuracy = torch.stack([predicted_as(tried, prompts, predicted, name) for name in prompts.problems.answers])
    kinds, layers = list(runs), range(model.n_layers + 1)
    names = (*prompts.problems.answers, *beside)
    by_answer = {SOURCE: kinds, ANSWER: names, LAYER: layers}
    by_reading = {SOURCE: kinds, ANSWER: prompts.problems.answers, READING: tried.readings, LAYER: layers}
    return Patched(
        own.name,
        heads,
        prompts,
        own.own,
        own.own_right,
        own.own_number,
        Samples.grid(PROBABILITY, by_answer, values[:, : len(names)].permute(3, 0, 1, 2)),
        Samples.grid(ACCURACY, by_reading, accuracy.permute(4, 2, 0, 1, 3)),
        _parity(tried, prompts, predicted, {SOURCE: kinds, LAYER: layers}),
        None if heads or prompts.longest_answer == 1 else whole_answers(model, prompts, runs[EXAMPLES]),
    )


def whole_answers(model: Model, prompts: TransferPrompts, source: Run) -> Samples:
    """The joint probability of f of either x in the patched target, from its telling token to its end."""
    names, n = (TASK[0], COPIED[0]), len(prompts)
    cells = residual_patches(model, source.rows(list(range(n)) * len(names)))
    values = cell_values(model, prompts.whole(names), cells, joint_probability())
    by_answer = values.reshape(len(cells), len(names), n).permute(2, 1, 0)
    return Samples.grid(WHOLE, {ANSWER: names, LAYER: range(len(cells))}, by_answer)


def predicted_as(tried: Experiment, prompts: TransferPrompts, tokens: Tensor, answer: str) -> Tensor:
    """By reading: whether the predicted tokens [..., prompt] are this answer's telling one, or a number near it."""
    values = {"exact": (tokens == torch.tensor(prompts.tokens[answer])).double()}
    if "near" in tried.readings:
        values["near"] = near(numbers_of(tried.model, tokens, prompts.forced), prompts.problems.numbers[answer])
    return torch.stack([values[name] for name in tried.readings])


def _parity(
    tried: Experiment, prompts: TransferPrompts, tokens: Tensor, axes: Mapping[Column, Sequence[Any]]
) -> Samples | None:
    """How often the number is as odd as f(target x), where a is even; None without whole numbers, or even a."""
    even = torch.from_numpy(prompts.problems.even_slope)
    if "near" not in tried.readings or not even.any():
        return None
    numbers = numbers_of(tried.model, tokens, prompts.forced)
    as_odd = numbers[..., even] % 2 == torch.from_numpy(prompts.problems.numbers[TASK[0]] % 2)[even]
    return Samples.grid(PARITY, axes, as_odd.double().movedim(-1, 0))
