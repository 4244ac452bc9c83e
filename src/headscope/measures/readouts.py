"""Measures: a pure function together with its read-out, so that engines compute no more than it reads.

A measure turns logits into one number per example. Its read-out says at which positions it looks, so that
an engine may leave every other position out of the unembedding: `compute` gets the logits of the read
positions alone, and where they are.

>>> loss("repeated").read_out.positions.role
'repeated'
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from headscope.errors import PromptError
from headscope.measures import tokens
from headscope.measures.identity import identity_of
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import ALL, Positions, PositionsLike, Rows

# The role of the positions whose next token belongs to an answer; see `Prompts.answered`.
ANSWERING = "answering"


@dataclass(frozen=True)
class ReadOut:
    """Where a measure looks: the predicting positions whose logits it needs."""

    positions: Positions

    def cells(self, prompts: Prompts) -> Tensor:
        """The read positions of each example in order, int64 [batch, read]; -1 where it has fewer."""
        if self.positions.role == ANSWERING and ANSWERING not in prompts.roles:
            raise PromptError(
                "cannot score whole answers: these prompts end before them. Pass prompts.answered() instead."
            )
        mask = prompts.where(self.positions)
        most = int(mask.sum(1).max())
        order = torch.where(mask, torch.arange(mask.shape[1]), mask.shape[1]).sort(dim=1).values[:, :most]
        return torch.where(order < mask.shape[1], order, -1)


@dataclass(frozen=True)
class Measure:
    """One number per example from logits.

    `better` is +1 if larger is better, -1 if smaller is. `compute(logits, prompts, at)` takes the logits
    [batch, read, vocab] of the positions `at` [batch, read] (-1: no position, any logits) and returns float
    [batch]; NaN where an example has no such position.

    Values on disk are found again by name, positions, `parameters` (whatever else decides a value) and `version`,
    which the author raises when what is computed changes. Without a version the source of `compute`, and what that
    refers to, stands in its place (measures.identity). `next_token` says that it judges tokens of the prompts by the
    logits before them, which means nothing on a model that looks ahead.
    """

    name: str
    unit: str
    better: int
    read_out: ReadOut
    compute: Callable[[Tensor, Prompts, Tensor], Tensor]
    split: "Callable[[Rows], Measure] | None" = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    version: int | None = None
    next_token: bool = False

    def rows(self, chosen: Rows) -> "Measure":
        """The measure for some of the examples; itself unless it holds something per example."""
        return self if self.split is None else self.split(chosen)

    def __call__(self, logits: Tensor, prompts: Prompts) -> Tensor:
        """The measure from the logits of all positions, [batch, position, vocab]."""
        at = self.read_out.cells(prompts)
        return self.compute(at_cells(logits, at), prompts, at)

    def recipe(self) -> dict[str, Any]:
        """What identifies a measure; see `Measure`.

        Raises:
            BadArgument: if it has no version, and a function that cannot be told from another.
        """
        # Two packages may use one name for different things.
        package = str(getattr(self.compute, "__module__", "")).partition(".")[0]
        declared = None if self.version is None else {"package": package, "version": self.version}
        return {
            "kind": "Measure",
            "name": self.name,
            "positions": self.read_out.positions,
            "parameters": self.parameters,
            "compute": declared or identity_of(self.compute, self.name),
        }

    def damage(self, clean: Tensor, edited: Tensor) -> Tensor:
        """How much worse `edited` is than `clean`, in the measure's unit; positive is worse."""
        return (clean - edited) * self.better


def at_cells(values: Tensor, at: Tensor) -> Tensor:
    """`values` [batch, position, ...] at the positions `at` [batch, read]; any value where `at` is -1."""
    every = torch.arange(values.shape[1])
    if at.shape[1] == len(every) and bool((at[:, :] == torch.where(at < 0, at, every)).all()):
        return values  # all of them, in order
    rows = torch.arange(len(at), device=values.device)[:, None]
    return values[rows, at.clamp(min=0).to(values.device)]


def loss(positions: PositionsLike = ALL) -> Measure:
    """Mean loss in nats over predicting positions (those whose *next* token is judged)."""
    where = Positions.of(positions)

    def compute(logits: Tensor, prompts: Prompts, at: Tensor) -> Tensor:
        return _mean_of_predicting(-_log_probability_of_following(logits, prompts, at), prompts, at, where)

    return Measure("loss", "nats", -1, ReadOut(where), compute, version=1, next_token=True)


def next_logit(positions: PositionsLike = ALL) -> Measure:
    """Mean logit of the token that really follows, minus the vocabulary's mean, over predicting positions.

    Unlike the loss it does not level off when the model is sure, so damages can be added.
    """
    where = Positions.of(positions)

    def compute(logits: Tensor, prompts: Prompts, at: Tensor) -> Tensor:
        scores = logits.float()
        following = _following(prompts, at).to(logits.device)
        own = scores.gather(-1, following[..., None]).squeeze(-1) - scores.mean(-1)
        return _mean_of_predicting(own, prompts, at, where)

    return Measure("next_logit", "logits", 1, ReadOut(where), compute, version=1, next_token=True)


def probability(position: PositionsLike = -1) -> Measure:
    """Probability of the answer at one position per example (by default the last)."""
    return _at_answer("probability", "", 1, position, tokens.probability)


def log_probability(position: PositionsLike = -1) -> Measure:
    """Log-probability of the answer in nats."""
    return _at_answer("log_probability", "nats", 1, position, tokens.log_probability_nats)


def joint_probability(positions: PositionsLike = ANSWERING) -> Measure:
    """Probability of a whole answer, all its tokens together: for prompts made by `Prompts.answered`."""
    return _joint("joint_probability", "", positions, torch.exp)


def joint_log_probability(positions: PositionsLike = ANSWERING) -> Measure:
    """Log-probability of a whole answer in nats: the sum over its tokens, each given those before it."""
    return _joint("joint_log_probability", "nats", positions, lambda total: total)


def rank(position: PositionsLike = -1) -> Measure:
    """How many tokens score higher than the answer."""
    return _at_answer("rank", "tokens", -1, position, tokens.rank)


def logit_difference(position: PositionsLike = -1) -> Measure:
    """Logit of the answer minus logit of the foil, at one position per example."""
    return _at_answer("logit_difference", "logits", 1, position, tokens.logit_difference, ("answers", "foils"))


def kl(reference: Tensor, positions: PositionsLike = ALL) -> Measure:
    """Mean KL divergence in nats from the reference logits [batch, position, vocab] of the same prompts."""
    where = Positions.of(positions)

    def compute(logits: Tensor, prompts: Prompts, at: Tensor) -> Tensor:
        known = at_cells(reference[:, : prompts.longest], at).to(logits)
        divergence = tokens.kl_nats(logits.float(), known.float())
        return _mean(divergence, at >= 0)

    def split(rows: Rows) -> Measure:
        return kl(reference[rows], where)

    return Measure("kl", "nats", -1, ReadOut(where), compute, split, {"reference": reference}, version=1)


def _at_answer(
    name: str,
    unit: str,
    better: int,
    position: PositionsLike,
    function: Callable[..., Tensor],
    reads: tuple[str, ...] = ("answers",),
) -> Measure:
    where = Positions.of(position)

    def compute(logits: Tensor, prompts: Prompts, at: Tensor) -> Tensor:
        own = _single(logits, at, where)
        return function(own, *(_needed(prompts, what).to(own.device) for what in reads))

    return Measure(name, unit, better, ReadOut(where), compute, version=1)


def _joint(name: str, unit: str, positions: PositionsLike, function: Callable[[Tensor], Tensor]) -> Measure:
    where = Positions.of(positions)

    def compute(logits: Tensor, prompts: Prompts, at: Tensor) -> Tensor:
        judged, wanted = (
            _log_probability_of_following(logits, prompts, at),
            _predicting(prompts, at).to(logits.device),
        )
        total = function(torch.where(wanted, judged, 0.0).sum(1))
        return torch.where(wanted.any(1), total, float("nan"))

    return Measure(name, unit, 1, ReadOut(where), compute, version=1, next_token=True)


def _following(prompts: Prompts, at: Tensor) -> Tensor:
    """The token after each read position, int64 [batch, read]; any token where none follows."""
    return prompts.ids.gather(1, (at + 1).clamp(0, prompts.longest - 1))


def _log_probability_of_following(logits: Tensor, prompts: Prompts, at: Tensor) -> Tensor:
    """In nats, [batch, read]."""
    following = _following(prompts, at).to(logits.device)
    judged = tokens.log_probability_nats(logits.float().flatten(0, 1), following.flatten())
    return judged.reshape(following.shape)


def _predicting(prompts: Prompts, at: Tensor) -> Tensor:
    """Which read positions predict a token we know, [batch, read]."""
    return (at >= 0) & (at + 1 < torch.tensor(prompts.lengths)[:, None])


def _mean_of_predicting(values: Tensor, prompts: Prompts, at: Tensor, where: Positions) -> Tensor:
    """Mean of [batch, read] over the read positions that predict a token we know."""
    predicting = _predicting(prompts, at)
    if not bool(predicting.any()):
        raise PromptError(
            f"cannot measure at {where}: the last token of a prompt predicts nothing that is known, and no other "
            "position was asked for. Name predicting positions."
        )
    return _mean(values, predicting)


def _mean(values: Tensor, wanted: Tensor) -> Tensor:
    """Mean of [batch, read] over the `wanted` ones; NaN where there is none."""
    wanted = wanted.to(values.device)
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


def _single(logits: Tensor, at: Tensor, where: Positions) -> Tensor:
    """Logits [batch, vocab] in float32 at the one position of each example."""
    counts = (at >= 0).sum(1)
    if not bool((counts == 1).all()):
        raise PromptError(
            f"cannot measure the answer at {where}: it needs exactly one position per example, "
            f"got {counts.tolist()[:5]}."
        )
    return logits[:, 0].float()
