"""What a model predicts after every number of examples: the probability of the function's value at each input.

In: a model and few-shot problems (`Shots`). Out: log-probabilities [example, shot], shot n being after n shown
pairs. The value that is judged is always the *function's*, also where the shown one is corrupted or moved.

A model of number tokens predicts everything in one pass over the prompts with all pairs, and gives every number a
probability. In text one pass does where all shown numbers are the function's own; otherwise there is one pass for
each number of pairs. Either way, shots of one example share its pairs: whole examples are independent, shots are
not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headscope.measures import joint_log_probability
from headscope.models.model import Model
from headscope.models.protocols import Edit
from headscope.sweeps import evaluate
from headscope.tasks.linear import functions_of, linear
from headscope.tasks.pairs import PairLanguage
from headscope.tasks.prompts import Prompts, Role
from headscope.tasks.shots import Shots

_AFTER = "answering after "


@dataclass(frozen=True, eq=False)
class Predictions:
    """Log-probabilities in nats, float64: of the function's value, and of every number where tokens are numbers."""

    right: Float[Tensor, "example shot"]
    numbers: Float[Tensor, "example shot number"] | None

    @property
    def probability(self) -> Float[Tensor, "example shot"]:
        """Of the function's value."""
        return self.right.exp()


def function_values(shots: Shots) -> Tensor:
    """The function's value after 0, 1, 2, ... pairs, int64 [example, shot]: at each shown input, then the query."""
    return torch.from_numpy(np.concatenate((shots.true_y, shots.answer[:, None]), axis=1))


def predictions(model: Model, shots: Shots, interventions: Sequence[Edit] = ()) -> Predictions:
    """What the model gives the function's value after every number of pairs."""
    language = functions_of(model)
    if language is not None:
        numbers = _number_tokens(model, language, shots, interventions)
        return Predictions(numbers.gather(-1, function_values(shots)[..., None]).squeeze(-1), numbers)
    if not shots.wrong.any():
        return Predictions(_text_at_once(model, linear(model, shots), interventions), None)
    every = range(shots.x.shape[1] + 1)
    columns = [answer_log_probability(model, shots.first(n), interventions) for n in every]
    return Predictions(torch.stack(columns, dim=1), None)


def answer_log_probability(
    model: Model, shots: Shots, interventions: Sequence[Edit] = ()
) -> Float[Tensor, " example"]:
    """Log-probability of the function's value at the query alone, after all pairs, in nats."""
    prompts = linear(model, shots).answered()
    return evaluate(model, prompts, [joint_log_probability()], interventions)[0]


def _number_tokens(
    model: Model, language: PairLanguage, shots: Shots, interventions: Sequence[Edit]
) -> Float[Tensor, "example shot number"]:
    """Log-probabilities of all numbers of the shots' own functions, after every number of pairs."""
    prompts = linear(model, shots)
    at = torch.tensor(prompts.roles["before_y"][0] + prompts.roles["readout"][0])
    tokens = torch.from_numpy(language.number_tokens(np.arange(shots.functions.n_numbers)))
    step = max(1, model.memory_bytes // (32 * model.vocab_size * prompts.longest))
    parts = []
    for start in range(0, len(prompts), step):
        rows = slice(start, min(start + step, len(prompts)))
        edits = [edit.rows(rows) for edit in interventions]
        with model.batch_rows(rows):
            logits = model.run(prompts.rows(rows), interventions=edits).logits
        parts.append(logits[:, at].double().log_softmax(-1)[..., tokens].cpu())
    return torch.cat(parts)


def _text_at_once(model: Model, prompts: Prompts, interventions: Sequence[Edit]) -> Tensor:
    """Joint log-probabilities of the shown numbers where they stand, and of the answer after them."""
    answered = prompts.answered()
    roles = {**answered.roles, **_answering_each(prompts)}
    names = [name for name in roles if name.startswith(_AFTER)]
    measures = [joint_log_probability(name) for name in [*names, "answering"]]
    values = evaluate(model, replace(answered, roles=roles), measures, interventions)
    return torch.stack(values, dim=1)


def _answering_each(prompts: Prompts) -> dict[str, Role]:
    """For every shown y the positions whose next tokens are its own, as a role."""
    answering: list[list[tuple[int, ...]]] = []
    for before, own in zip(prompts.roles["before_y"], prompts.roles["y"], strict=True):
        spans, known = [], set(own)
        for first in before:
            last = first
            while last + 1 in known:
                last += 1
            spans.append(tuple(range(first, last)))
        answering.append(spans)
    n = len(answering[0])
    return {f"{_AFTER}{shot}": tuple(example[shot] for example in answering) for shot in range(n)}
