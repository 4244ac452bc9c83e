"""A penalty on heads, so that few of them do a job that all could share, as in models with heads to spare.

In: a model. Out: the Frobenius norm of each head's weights, whose sum is to be added to a loss: a group
lasso (Yuan & Lin 2006) whose groups are heads, which pulls to nothing those that a model can do without (Voita et al.
2019 prune heads by a penalty as well). A small model without it puts every head of a layer to the same use, and none
is left to compare with.
"""

import torch
from torch import Tensor

from headscope.architectures import ToyForCausalLM
from headscope.architectures.attention import ToyAttention


def head_norms(model: ToyForCausalLM) -> Tensor:
    """Frobenius norm of every head's slices of W_Q, W_K, W_V and W_O together, layer by layer, [head]."""
    heads, norms = model.config.n_heads, []
    for module in model.modules():
        if isinstance(module, ToyAttention):
            read = [each.weight.reshape(heads, -1) for each in (module.q_proj, module.k_proj, module.v_proj)]
            written = module.o_proj.weight.T.reshape(heads, -1)
            norms.append(torch.cat([*read, written], dim=1).norm(dim=1))
    return torch.cat(norms)
