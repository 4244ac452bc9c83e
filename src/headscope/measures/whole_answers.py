"""Two measures of a whole answer in one sweep: whether all its tokens come first, and how probable it is.

In: logits of prompts made by `Prompts.answered`, whose answer may have several tokens. Out: one number per example
that holds both, so that a sweep that reads one of them reads the other for nothing; `unpacked` takes values and
differences of values apart. `answer_token` asks the same of one token of each prompt, whatever its answer is. Not
done here: probability alone (measures.readouts.joint_probability).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from headscope.measures.readouts import ANSWERING, Measure, ReadOut
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Positions, Rows

_FIRST = 4.0


def whole_answer() -> Measure:
    """Probability of the whole answer + 4 where each of its tokens is the single most likely one."""
    where = Positions.of(ANSWERING)

    def compute(logits: Tensor, prompts: Prompts, at: Tensor) -> Tensor:
        following = prompts.ids.gather(1, (at + 1).clamp(0, prompts.longest - 1)).to(logits.device)[..., None]
        scores, none = logits.float(), (at < 0).to(logits.device)
        own = scores.gather(-1, following)
        # The answer is one that reaches its own logit: where another does too, neither is first.
        first = ((scores >= own).sum(-1) == 1) | none
        log_probability = scores.log_softmax(-1).gather(-1, following)[..., 0].masked_fill(none, 0.0)
        return log_probability.double().sum(1).exp() + _FIRST * first.all(1)

    return Measure("whole_answer", "", 1, ReadOut(where), compute)


def answer_token(tokens: Sequence[int]) -> Measure:
    """Probability of this token of each prompt + 4 where it is the single most likely one, at the last position."""
    wanted = torch.tensor(list(tokens))

    def compute(logits: Tensor, prompts: Prompts, at: Tensor) -> Tensor:
        scores = logits[:, 0].float()
        following = wanted.to(logits.device)[:, None]
        first = (scores >= scores.gather(-1, following)).sum(-1) == 1
        return scores.log_softmax(-1).gather(-1, following)[:, 0].double().exp() + _FIRST * first

    def split(rows: Rows) -> Measure:
        return answer_token(wanted[rows].tolist())

    return Measure("answer_token", "", 1, ReadOut(Positions.of("readout")), compute, split, {"tokens": wanted})


def unpacked(values: Tensor) -> Tensor:
    """Accuracy and probability, [measure, ...], from values of `whole_answer`, or differences of both from theirs.

    >>> unpacked(torch.tensor([0.25, 4.75, 0.25 - 4.75])).tolist()
    [[0.0, 1.0, -1.0], [0.25, 0.75, -0.5]]
    """
    # A probability, or a difference of two, is at most 1 and never a half of what marks the first place.
    first = (values / _FIRST).round()
    return torch.stack([first, values - _FIRST * first])
