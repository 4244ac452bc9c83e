"""What a component writes to a token's logit by itself: its direct effect.

In: the residual stream that the final norm sees, and the tokens in question. Out: the *direction* in the residual
stream whose dot product with any component's output is that component's direct effect on the token's logit, with the
norm's scale frozen and the mean over the vocabulary subtracted (Elhage et al. 2021; McGrath et al. 2023). Total
effects come from ablation; the difference is what others make up for. The logits meant are those before a soft-cap,
where a model has one.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headscope.models.norms import FrozenNorm


def logit_direction(
    frozen: FrozenNorm, unembedding: Float[Tensor, "vocab model"], answers: Int[Tensor, "batch position"]
) -> Float[Tensor, "batch position model"]:
    """The direction that raises the answer's logit above the vocabulary's mean, at each position.

    `frozen` is the final norm at the residual streams [batch, position, model] of those positions.

    >>> identity = FrozenNorm.at(None, torch.ones(1, 1, 2))
    >>> logit_direction(identity, torch.eye(2), torch.tensor([[0]]))
    tensor([[[ 0.5000, -0.5000]]])
    """
    weights = unembedding.to(frozen.gain)
    centred = weights - weights.mean(0)
    return frozen.pull_back(centred[answers])


def effect_of_heads_logits(
    z: Float[Tensor, "batch position head head_dim"],
    output_matrix: Float[Tensor, "head head_dim model"],
    direction: Float[Tensor, "batch position model"],
) -> Float[Tensor, "batch position head"]:
    """Direct effect of every head of a layer, in logits, without ever forming [head, model] outputs.

    >>> effect_of_heads_logits(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 2), torch.tensor([[[0.5, 1.0]]]))
    tensor([[[1.5000]]])
    """
    read = torch.einsum("bpm,hdm->bphd", direction, output_matrix.to(direction))
    return (z.to(direction) * read).sum(-1)
