"""What the target answers once the source's residual stream is patched into its final position, layer by layer.

In: an experiment and heads that are ablated in the source. Out: `Patched`: the source's own answer, and for every
kind of source (examples; label-shuffled examples; examples of another function) what the zero-shot target answers
when the residual stream before each layer, or after the last, is patched (Hendel et al. 2023). A layer *transfers*
an answer if its probability above both controls exceeds `MARGIN`, by lower bounds. Layers that are *named* stand out
on the selection half and then do so on the other by bounds that hold for all of these at once: where many are looked
at, some exceed bounds of their own by chance.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl
import torch
from torch import Tensor

from headscope.interventions.named_heads import set_name
from headscope.measures import joint_probability
from headscope.measures.intervals import Array
from headscope.measures.samples import LAYER, Coordinates, Samples, stacked
from headscope.models.run import Run
from headscope.studies.redundancy.experiment import Experiment, Heads
from headscope.studies.sites import final_token_run, residual_patches
from headscope.sweeps.cell_values import cell_values
from headscope.sweeps.grid import Cell
from headscope.sweeps.naive import evaluate
from headscope.sweeps.predicted_numbers import NEAR, exact, near, predicted_numbers
from headscope.tables import Column, Quantity
from headscope.tasks.source_and_target import ANSWERS, CONTROLS, COPIED, EXAMPLES, TASK, Source, TransferPrompts

# An answer is transferred if it is likelier than under both controls by more than this.
MARGIN = 0.1
ANY_NUMBER = "any number"
READINGS = {"exact": exact, "near": near}
PROBABILITY = Quantity("probability", "mean probability of the whole number", within=(0.0, 1.0))
ACCURACY = Quantity("accuracy", "share of prompts whose predicted number is this one", within=(0.0, 1.0))
PARITY = Quantity("parity", "share of prompts whose number is as odd as f(target x)", within=(0.0, 1.0))
EXCESS = Quantity("excess", "how far above the same under a control, paired by prompt", within=(-1.0, 1.0))
SOURCE = Column("source", pl.String, "what the source prompt shows: examples, or one of the controls")
CONTROL = Column("control", pl.String, "what the source prompt shows instead: see the notes")
ANSWER = Column("answer", pl.String, "which number; any number: how far the next token is one, see the notes")
READING = Column("reading", pl.String, f"exact: the very number; near: within {NEAR:.0%} of it, rounded up")
ABLATED = Column("ablated", pl.String, "what is ablated in the source prompt")


@dataclass(frozen=True, eq=False)
class Patched:
    """One ablation on one half of the problems; the layer after the last stands for the final residual stream.

    `own` is the probability of the source's own answer, `own_predicted` and `own_number` [prompt] the number that it
    predicts and how far its next token is one. `probability` has the axes source, answer, layer; `accuracy` source,
    answer, reading, layer; `parity` source, layer, over problems with even a (None without such).
    """

    name: str
    heads: Heads
    prompts: TransferPrompts
    own: Samples
    own_predicted: Tensor
    own_number: Tensor
    probability: Samples
    accuracy: Samples
    parity: Samples | None

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

    def share(self, reading: str) -> float:
        """Of prompts whose own predicted number is right, or near."""
        return float(READINGS[reading](self.own_predicted, self.prompts.problems.numbers[COPIED[0]]).mean())

    def either(self, answers: Sequence[str]) -> Samples:
        """Probability of one of two answers: axes source, layer."""
        one, other = (self.probability.at(answer=answer) for answer in answers)
        return one.changed(PROBABILITY, lambda values: values + other.values)


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


def patched(tried: Experiment, prompts: TransferPrompts, heads: Heads) -> Patched:
    """The source's own answer under an ablation, and what the target makes of each kind of source under it."""
    model, edits, right = tried.model, tried.edits(heads), prompts.problems.numbers
    runs = {kind: final_token_run(model, each.prompts, edits) for kind, each in prompts.sources.items()}
    answers = [_answers(tried, prompts, prompts.sources[kind], run) for kind, run in runs.items()]
    probability, predicted = (torch.stack(each) for each in zip(*answers, strict=True))
    accuracy = [torch.stack([read(predicted, right[name]) for read in READINGS.values()]) for name in ANSWERS]
    own, own_number = evaluate(model, prompts.answered, [joint_probability(), tried.number], edits)
    own_predicted = predicted_numbers(model, prompts.source, [Cell(tuple(edits))], prompts.longest_answer)[0]
    even = torch.from_numpy(prompts.problems.even_slope)
    as_odd = predicted[..., even] % 2 == torch.from_numpy(right[TASK[0]] % 2)[even]
    kinds, layers = list(runs), range(model.n_layers + 1)
    by_answer = {SOURCE: kinds, ANSWER: (*ANSWERS, ANY_NUMBER), LAYER: layers}
    by_reading = {SOURCE: kinds, ANSWER: ANSWERS, READING: list(READINGS), LAYER: layers}
    return Patched(
        set_name(model, heads),
        heads,
        prompts,
        Samples.one(PROBABILITY, own),
        own_predicted,
        own_number,
        Samples.grid(PROBABILITY, by_answer, probability.movedim(-1, 0)),
        Samples.grid(ACCURACY, by_reading, torch.stack(accuracy).permute(4, 2, 0, 1, 3)),
        Samples.grid(PARITY, {SOURCE: kinds, LAYER: layers}, as_odd.double().movedim(-1, 0)) if even.any() else None,
    )


def _answers(tried: Experiment, prompts: TransferPrompts, source: Source, run: Run) -> tuple[Tensor, Tensor]:
    """By patched layer: probabilities [answer, layer, prompt], any number last, and predicted numbers."""
    model, n = tried.model, len(prompts)
    of_all, of_target = (residual_patches(model, run.rows(list(source.of_answers[:count]))) for count in (None, n))
    probability = cell_values(model, prompts.target_answers, of_all, joint_probability())
    number = cell_values(model, prompts.target, of_target, tried.number)
    predicted = predicted_numbers(model, prompts.target, of_target, prompts.longest_answer)
    by_answer = probability.reshape(len(probability), len(ANSWERS), n).transpose(0, 1)
    return torch.cat([by_answer, number[None]]), predicted
