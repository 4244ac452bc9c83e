"""Measures: a pure function together with its read-out, so that engines compute no more than it reads.

A measure turns a run's logits into one number per example. Its read-out says at which positions it looks,
so that an engine may leave every other position out of the unembedding.

>>> loss("repeated").read_out.positions.role
'repeated'
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headscope.errors import PromptError
from headscope.measures import tokens
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import ALL, Positions, PositionsLike


@dataclass(frozen=True)
class ReadOut:
    """Where a measure looks: the predicting positions whose logits it needs."""

    positions: Positions


@dataclass(frozen=True)
class Measure:
    """One number per example from a run's logits.

    `better` is +1 if larger is better, -1 if smaller is. `compute(logits, prompts)` takes
    [batch, position, vocab] and returns float [batch]; NaN where an example has no such position.
    """

    name: str
    unit: str
    better: int
    read_out: ReadOut
    compute: Callable[[Tensor, Prompts], Tensor]
    split: "Callable[[slice], Measure] | None" = None

    def rows(self, chosen: slice) -> "Measure":
        """The measure for some of the examples; itself unless it holds something per example."""
        return self if self.split is None else self.split(chosen)

    def __call__(self, logits: Tensor, prompts: Prompts) -> Tensor:
        return self.compute(logits, prompts)

    def recipe(self) -> dict[str, Any]:
        """What identifies a measure: its name and where it looks."""
        return {"kind": "Measure", "name": self.name, "positions": self.read_out.positions}

    def damage(self, clean: Tensor, edited: Tensor) -> Tensor:
        """How much worse `edited` is than `clean`, in the measure's unit; positive is worse."""
        return (clean - edited) * self.better


def loss(positions: PositionsLike = ALL) -> Measure:
    """Mean loss in nats over predicting positions (those whose *next* token is judged)."""
    where = Positions.of(positions)

    def compute(logits: Tensor, prompts: Prompts) -> Tensor:
        ids = prompts.ids.to(logits.device)
        return _mean_of_predicting(tokens.loss_nats(logits.float(), ids), prompts, where)

    return Measure("loss", "nats", -1, ReadOut(where), compute)


def next_logit(positions: PositionsLike = ALL) -> Measure:
    """Mean logit of the token that really follows, minus the vocabulary's mean, over predicting positions.

    Unlike the loss it does not level off when the model is sure, so damages can be added.
    """
    where = Positions.of(positions)

    def compute(logits: Tensor, prompts: Prompts) -> Tensor:
        scores = logits[:, :-1].float()
        following = prompts.ids[:, 1:, None].to(logits.device)
        own = scores.gather(-1, following).squeeze(-1) - scores.mean(-1)
        return _mean_of_predicting(own, prompts, where)

    return Measure("next_logit", "logits", 1, ReadOut(where), compute)


def probability(position: PositionsLike = -1) -> Measure:
    """Probability of the answer at one position per example (by default the last)."""
    return _at_answer("probability", "", 1, position, tokens.probability)


def log_probability(position: PositionsLike = -1) -> Measure:
    """Log-probability of the answer in nats."""
    return _at_answer("log_probability", "nats", 1, position, tokens.log_probability_nats)


def joint_probability(positions: PositionsLike = "answering") -> Measure:
    """Probability of a whole answer, all its tokens together: for prompts made by `Prompts.answered`."""
    return _joint("joint_probability", "", positions, torch.exp)


def joint_log_probability(positions: PositionsLike = "answering") -> Measure:
    """Log-probability of a whole answer in nats: the sum over its tokens, each given those before it."""
    return _joint("joint_log_probability", "nats", positions, lambda total: total)


def rank(position: PositionsLike = -1) -> Measure:
    """How many tokens score higher than the answer."""
    return _at_answer("rank", "tokens", -1, position, tokens.rank)


def logit_difference(position: PositionsLike = -1) -> Measure:
    """Logit of the answer minus logit of the foil, at one position per example."""
    where = Positions.of(position)

    def compute(logits: Tensor, prompts: Prompts) -> Tensor:
        answers, foils = _needed(prompts, "answers"), _needed(prompts, "foils")
        at = _single(logits, prompts, where)
        return tokens.logit_difference(at, answers.to(at.device), foils.to(at.device))

    return Measure("logit_difference", "logits", 1, ReadOut(where), compute)


def kl(reference: Tensor, positions: PositionsLike = ALL) -> Measure:
    """Mean KL divergence in nats from the reference logits [batch, position, vocab] of the same prompts."""
    where = Positions.of(positions)

    def compute(logits: Tensor, prompts: Prompts) -> Tensor:
        known = reference[:, : logits.shape[1]].to(logits)
        divergence = tokens.kl_nats(logits.float(), known.float())
        wanted = prompts.where(where).to(logits.device)
        total = torch.where(wanted, divergence, 0.0).sum(1)
        return torch.where(wanted.any(1), total / wanted.sum(1), float("nan"))

    return Measure("kl", "nats", -1, ReadOut(where), compute, lambda rows: kl(reference[rows], where))


def _at_answer(
    name: str, unit: str, better: int, position: PositionsLike, function: Callable[[Tensor, Tensor], Tensor]
) -> Measure:
    where = Positions.of(position)

    def compute(logits: Tensor, prompts: Prompts) -> Tensor:
        at = _single(logits, prompts, where)
        return function(at, _needed(prompts, "answers").to(at.device))

    return Measure(name, unit, better, ReadOut(where), compute)


def _joint(name: str, unit: str, positions: PositionsLike, function: Callable[[Tensor], Tensor]) -> Measure:
    where = Positions.of(positions)

    def compute(logits: Tensor, prompts: Prompts) -> Tensor:
        if where.role == "answering" and "answering" not in prompts.roles:
            raise PromptError(
                "cannot score whole answers: these prompts end before them. Pass prompts.answered() instead."
            )
        scores = -tokens.loss_nats(logits.float(), prompts.ids.to(logits.device))
        wanted = (prompts.where(where)[:, :-1] & prompts.real[:, 1:]).to(scores.device)
        total = function(torch.where(wanted, scores, 0.0).sum(1))
        return torch.where(wanted.any(1), total, float("nan"))

    return Measure(name, unit, 1, ReadOut(where), compute)


def _mean_of_predicting(values: Tensor, prompts: Prompts, where: Positions) -> Tensor:
    """Mean of [batch, position - 1] over the wanted positions that predict a token we know."""
    wanted = (prompts.where(where)[:, :-1] & prompts.real[:, 1:]).to(values.device)
    if not bool(wanted.any()):
        raise PromptError(
            f"cannot measure at {where}: the last token of a prompt predicts nothing that is known, and no other "
            "position was asked for. Name predicting positions."
        )
    total = torch.where(wanted, values, 0.0).sum(1)
    return torch.where(wanted.any(1), total / wanted.sum(1).clamp(min=1), float("nan"))


def _needed(prompts: Prompts, what: str) -> Tensor:
    given: tuple[int, ...] = getattr(prompts, what)
    if not given:
        raise PromptError(
            f"cannot measure the answer: these prompts have no {what}. Build them with {what}=, one token id "
            "per example."
        )
    return torch.tensor(given)


def _single(logits: Tensor, prompts: Prompts, where: Positions) -> Tensor:
    """Logits [batch, vocab] in float32 at the one position of each example."""
    mask = prompts.where(where)
    if not bool((mask.sum(1) == 1).all()):
        raise PromptError(
            f"cannot measure the answer at {where}: it needs exactly one position per example, "
            f"got {mask.sum(1).tolist()[:5]}."
        )
    rows = torch.arange(len(prompts), device=logits.device)
    return logits[rows, mask.int().argmax(1).to(logits.device)].float()
