"""The attention of a toy transformer: masks, smeared and rotary keys, and a cache that stays exact.

In: the normed residual stream [batch, position, model] and, for each token, its absolute position. Out:
what attention adds to the residual stream, and the pattern where the implementation computes it. The product of
query, key and value itself is done by whatever `AttentionInterface` holds under the config's name, exactly
as in the model files of transformers, so that tools which listen there see this model too.

Not here: where the residual stream comes from and goes to (`toy`), and how positions turn into vectors
(`positions`).
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from headscope.architectures.config import ToyConfig
from headscope.architectures.positions import key_positions, rotate, smear


def visible_keys(n_queries: int, n_keys: int, attention_mask: Tensor | None, device: torch.device) -> Tensor:
    """Which keys each query may attend to, bool [batch or 1, 1, query, key].

    The queries are the last of the keys, none sees a later key, and `attention_mask` [batch, key] hides
    padding. A query left with nothing (padding before the first real token) sees itself: its output is
    read by nobody, but a row that sums to nothing would be NaN, and NaN spreads.
    """
    queries = torch.arange(n_keys - n_queries, n_keys, device=device)[:, None]
    keys = torch.arange(n_keys, device=device)[None, :]
    visible = (keys <= queries)[None, None]
    if attention_mask is None:
        return visible
    visible = visible & attention_mask[:, None, None, :].to(device=device, dtype=torch.bool)
    return visible | ((keys == queries) & ~visible.any(-1, keepdim=True))


def mask_for(
    implementation: str | None, n_queries: int, n_keys: int, attention_mask: Tensor | None, like: Tensor
) -> Tensor | None:
    """The mask in the form that an attention implementation expects.

    `eager` adds a float mask [batch or 1, 1, query, key]. The others take booleans, or None where plain
    causal attention (as many queries as keys) or no mask at all (a single query) is meant, which lets
    them choose their fastest kernel.
    """
    if attention_mask is not None and bool((attention_mask != 0).all()):
        attention_mask = None
    plain = attention_mask is None and (n_queries == n_keys or n_queries == 1)
    if implementation != "eager" and plain:
        return None
    visible = visible_keys(n_queries, n_keys, attention_mask, like.device)
    if implementation != "eager":
        return visible
    hidden = torch.finfo(like.dtype).min
    return torch.zeros_like(visible, dtype=like.dtype).masked_fill(~visible, hidden)


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention written out, as the other implementations compute it without showing the pattern.

    `query`, `key`, `value` are [batch, head, position, head_dim] and the mask is added to the scores.
    Returns the output [batch, position, head, head_dim] and the pattern [batch, head, query, key].
    """
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    pattern = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    pattern = nn.functional.dropout(pattern, p=dropout, training=module.training)
    return (pattern @ value).transpose(1, 2).contiguous(), pattern


class ToyAttention(nn.Module):
    """Multi-head causal attention with optional smeared and rotary keys."""

    # Read by the attention implementations of transformers.
    is_causal = True
    num_key_value_groups = 1

    def __init__(self, config: ToyConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.d_head
        self.scaling = config.d_head**-0.5
        width = config.n_heads * config.d_head
        self.q_proj = nn.Linear(config.d_model, width, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.d_model, width, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.d_model, width, bias=config.attention_bias)
        self.o_proj = nn.Linear(width, config.d_model, bias=config.attention_bias)
        if config.smeared_keys:
            self.alpha = nn.Parameter(torch.zeros(config.n_heads))

    def forward(
        self,
        hidden_states: Tensor,
        *,
        position_ids: Tensor,
        position_embeddings: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """What attention adds to the residual stream [batch, position, model], and the pattern or None.

        `position_ids` [batch or 1, position] are absolute; `position_embeddings` [batch or 1, position,
        model] are added to the input of queries and keys (the shortformer scheme); `attention_mask` is
        what `mask_for` gives.
        """
        located = hidden_states if position_embeddings is None else hidden_states + position_embeddings
        query = self._split(self.q_proj(located))
        raw_key = self._split(self.k_proj(located))
        value = self._split(self.v_proj(hidden_states))
        if past_key_values is not None:
            # The cache holds keys as they leave the projection. A key smeared before it was stored could not
            # be made again, and the first key after a cached prefix needs the raw key before it: so all keys
            # are smeared and rotated here, each time, and any Cache class serves, cropped or copied as well.
            raw_key, value = past_key_values.update(raw_key, value, self.layer_idx)
        query, key = self._place(query, raw_key, position_ids)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        out, pattern = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.scaling,
            dropout=0.0,
            position_ids=position_ids,
            **kwargs,
        )
        out = out.reshape(*hidden_states.shape[:-1], -1).contiguous()
        return self.o_proj(out), pattern

    def _split(self, projected: Tensor) -> Tensor:
        """[batch, position, head * head_dim] -> [batch, head, position, head_dim]"""
        return projected.view(*projected.shape[:-1], -1, self.head_dim).transpose(1, 2)

    def _place(self, query: Tensor, key: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Smear all keys, then rotate queries and keys, as far as the config asks for it."""
        places = key_positions(position_ids, key.shape[2])
        if self.config.smeared_keys:
            key = smear(key, self.alpha, places)
        if self.config.positions == "rotary":
            theta = self.config.rope_theta
            query, key = rotate(query, position_ids, theta), rotate(key, places, theta)
        return query, key
