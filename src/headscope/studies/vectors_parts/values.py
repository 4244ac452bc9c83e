"""What vectors are made of, and how their effect is read: streams and head outputs at the read-out, answers judged.

In: prompts and a model. Out: activations at the last position of each prompt, their means by function, the sum of
heads through W_O; and for cells of a sweep the two outcomes of every problem. The read-out position is the last
token of the prompt (the comma after the query, or, in text, whatever the prompt ends with): the separator at which
Hendel et al. 2023 take their task vector and the last token at which Todd et al. 2024 take head outputs.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from headscope.measures import Measure, ReadOut
from headscope.measures.readouts import ANSWERING
from headscope.models.model import Model
from headscope.studies.sites import at_readout
from headscope.sweeps import Cell, evaluate
from headscope.sweeps.cell_values import cell_values
from headscope.tasks.functions import Ints
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Head, Positions, Progress, silent

# Outcomes come in this order.
ACCURACY, PROBABILITY = 0, 1
_FIRST = 4.0


def whole_answer() -> Measure:
    """Both outcomes in one number, so that one sweep reads both: probability + 4 where the answer comes first.

    Probability is that of all tokens of the answer together; it comes first if each of them is the single most
    likely one. For prompts made by `Prompts.answered`; `unpacked` takes it apart.
    """
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


def unpacked(values: Tensor) -> Tensor:
    """Accuracy and probability, [measure, ...], from values of `whole_answer`, or differences of both from theirs.

    >>> unpacked(torch.tensor([0.25, 4.75, 0.25 - 4.75])).tolist()
    [[0.0, 1.0, -1.0], [0.25, 0.75, -0.5]]
    """
    first = (
        values / _FIRST
    ).round()  # a probability, or a difference of two, is at most 1 and never a half of this
    return torch.stack([first, values - _FIRST * first])


def outcomes(
    model: Model,
    prompts: Prompts,
    cells: Sequence[Cell],
    progress: Progress = silent,
) -> Tensor:
    """Accuracy and probability of each whole answer under every cell, float64 [measure, cell, problem]."""
    return unpacked(cell_values(model, prompts.answered(), cells, whole_answer(), progress=progress))


def plain_outcomes(model: Model, prompts: Prompts) -> Tensor:
    """The same with nothing changed, float64 [measure, problem]."""
    return unpacked(evaluate(model, prompts.answered(), [whole_answer()])[0])


def streams(model: Model, prompts: Prompts) -> Tensor:
    """The stream before every layer at the read-out, float32 [layer, prompt, model]."""
    sites = [("resid_pre", layer) for layer in range(model.n_layers)]
    found = at_readout(model, prompts, sites)
    return torch.stack([found[site] for site in sites])


def head_outputs(model: Model, prompts: Prompts) -> dict[int, Tensor]:
    """z of every layer with attention at the read-out, float32 [prompt, head, head_dim] by layer."""
    layers = sorted({head.layer for head in model.heads})
    found = at_readout(model, prompts, [("z", layer) for layer in layers])
    return {layer: found["z", layer] for layer in layers}


def means_by(values: Tensor, function: Ints) -> Tensor:
    """Means over the examples of each function, [function, ...] from [example, ...].

    >>> import numpy as np
    >>> means_by(torch.tensor([[1.0], [3.0], [5.0]]), np.array([0, 0, 1])).tolist()
    [[2.0], [5.0]]
    """
    index = torch.from_numpy(function).to(values.device)
    total = values.new_zeros(int(index.max()) + 1, *values.shape[1:]).index_add_(0, index, values)
    count = torch.bincount(index).reshape(-1, *[1] * (values.ndim - 1))
    return total / count


def through_output(model: Model, z: Mapping[int, Tensor], heads: Sequence[Head]) -> Tensor:
    """What these heads write together: their z through their slices of W_O, summed, float32 [row, model]."""
    rows = len(next(iter(z.values())))
    total = torch.zeros(rows, model.d_model, device=model.device)
    for head in heads:
        total += z[head.layer][:, head.index] @ model.output_matrix(head.layer)[head.index].float()
    return total


def random_like(vectors: Tensor, seed: int) -> Tensor:
    """Random directions of the same norms, [row, model]."""
    drawn = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(seed)).to(vectors)
    found: Tensor = torch.nn.functional.normalize(drawn, dim=1)
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return found * norms
