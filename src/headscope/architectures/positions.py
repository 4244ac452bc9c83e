"""Where every token stands, and how the model is told.

In: the position id of each query (absolute, padding not counted), or the mask that says which tokens are
real. Out: position ids, the positions of all keys, the sinusoidal table, and rotated or smeared vectors.
Pure functions on tensors; `attention` and `toy` call them.

Sources: Vaswani et al. 2017, section 3.5 (sinusoidal); Su et al. 2021, "RoFormer" (rotary, here with the
two halves of a head as the pairs, as the llama files of transformers do); Olsson et al. 2022, "In-context
Learning and Induction Heads", Argument 2 (smeared keys).
"""

import torch
from torch import Tensor


def positions_from_mask(attention_mask: Tensor | None, n_queries: int, n_past: int) -> Tensor:
    """Position ids of the last `n_queries` tokens, int64 [batch or 1, query].

    `attention_mask` is [batch, past + query], 1 where a token is real; padding gets position 0, which
    nobody reads. Without a mask all tokens are real.

    >>> positions_from_mask(torch.tensor([[0, 0, 1, 1, 1]]), n_queries=5, n_past=0).tolist()
    [[0, 0, 0, 1, 2]]
    """
    if attention_mask is None:
        return torch.arange(n_past, n_past + n_queries)[None]
    counted = attention_mask.long().cumsum(-1) - 1
    return counted.clamp(min=0)[:, -n_queries:]


def key_positions(query_positions: Tensor, n_keys: int) -> Tensor:
    """Positions of all `n_keys` keys, int64 [batch or 1, key], from those of the queries, the last keys.

    Keys of earlier calls stand without a gap before the first query. Left padding so gets negative
    positions, or position 0 where it shares the call with the queries; it is masked either way.

    >>> key_positions(torch.tensor([[3, 4]]), n_keys=5).tolist()
    [[0, 1, 2, 3, 4]]
    """
    n_past = n_keys - query_positions.shape[1]
    back = torch.arange(-n_past, 0, device=query_positions.device)
    return torch.cat((query_positions[:, :1] + back, query_positions), dim=1)


def sinusoidal(position_ids: Tensor, size: int) -> Tensor:
    """Fixed position vectors, float32 [batch, position, size]: even indices hold sines, odd ones cosines.

    Entry 2i turns with wavelength 2 pi 10000^(2i / size) (Vaswani et al. 2017, section 3.5).
    """
    exponents = torch.arange(0, size, 2, device=position_ids.device, dtype=torch.float32) / size
    angles = position_ids[..., None].float() * 10_000.0**-exponents
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


def rotate(vectors: Tensor, position_ids: Tensor, theta: float) -> Tensor:
    """Turn `vectors` [batch, head, position, head_dim] by their positions [batch or 1, position].

    Dimension i pairs with i + head_dim / 2; the pair turns by position * theta^(-2i / head_dim) radians,
    so that the product of a rotated query and key depends on the distance between them alone.
    """
    size = vectors.shape[-1]
    exponents = torch.arange(0, size, 2, device=vectors.device, dtype=torch.float32) / size
    angles = (position_ids[..., None].float() * theta**-exponents)[:, None]
    cos, sin = angles.cos().to(vectors.dtype), angles.sin().to(vectors.dtype)
    first, second = vectors.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def smear(keys: Tensor, alpha: Tensor, position_ids: Tensor) -> Tensor:
    """Mix each key with the one before it: k_j := s(alpha) k_j + (1 - s(alpha)) k_(j-1).

    `keys` [batch, head, key, head_dim] are unrotated; `alpha` [head] is one trained number per head and s
    the logistic function; `position_ids` [batch or 1, key]. The key at position 0 has nothing before it
    and stays as it is, wherever padding has put it.

    >>> keys = torch.tensor([[[[2.0], [4.0], [8.0]]]])
    >>> smear(keys, torch.zeros(1), torch.tensor([[0, 1, 2]])).flatten().tolist()
    [2.0, 3.0, 6.0]
    """
    share = torch.sigmoid(alpha)[:, None, None]
    before = torch.cat((keys[:, :, :1], keys[:, :, :-1]), dim=2)
    mixed = share * keys + (1 - share) * before
    is_first = (position_ids == 0)[:, None, :, None]
    return torch.where(is_first, keys, mixed)
