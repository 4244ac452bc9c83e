"""A small transformer as a Hugging Face model: embed, read and add layer by layer, unembed.

In: token ids [batch, position]. Out: logits [batch, position, vocab]. The parts have the names and the
calling conventions of the llama files of transformers (`model.layers`, `self_attn`, `o_proj`, layers that
take and return the residual stream), so that whatever opens a real model opens this one, `generate`,
caches and padding included. With `d_mlp=0` and `norm="none"` it is the attention-only transformer of
Elhage et al. 2021; the other choices stand in `config`.

Not here: how it is trained (`headscope.training`), and hidden states or patterns by hooks: a run that
wants more than `output_hidden_states` and `output_attentions` goes through `headscope.models`.
"""

import math
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import can_return_tuple

from headscope.architectures.activations import SOLU, SoLU
from headscope.architectures.attention import ToyAttention, mask_for
from headscope.architectures.checks import (
    check_cache,
    check_positions,
    require_all_logits,
    require_eager,
    require_one_input,
)
from headscope.architectures.config import ToyConfig
from headscope.architectures.positions import positions_from_mask, sinusoidal


def _norm(config: ToyConfig) -> nn.Module:
    match config.norm:
        case "layernorm":
            return nn.LayerNorm(config.d_model, eps=config.norm_eps)
        case "layernorm_no_weights":
            return nn.LayerNorm(config.d_model, eps=config.norm_eps, elementwise_affine=False)
        case "rmsnorm":
            return nn.RMSNorm(config.d_model, eps=config.norm_eps)
    return nn.Identity()


class PositionTable(nn.Embedding):
    """One trained vector per position; a type of its own because it starts smaller than token vectors."""


class ToyMLP(nn.Module):
    """up, activation, down; with a gate, the activation of the gate times up, down (Shazeer 2020)."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.d_model, config.d_mlp, bias=config.mlp_bias)
        self.gate_proj: nn.Linear | None = None
        if config.gated_mlp:
            self.gate_proj = nn.Linear(config.d_model, config.d_mlp, bias=config.mlp_bias)
        self.act_fn = SoLU(config) if config.activation in SOLU else ACT2FN[config.activation]
        self.down_proj = nn.Linear(config.d_mlp, config.d_model, bias=config.mlp_bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        up: Tensor = self.up_proj(hidden_states)
        inner = self.act_fn(up) if self.gate_proj is None else self.act_fn(self.gate_proj(hidden_states)) * up
        out: Tensor = self.down_proj(inner)
        return out


class ToyDecoderLayer(nn.Module):
    """Attention reads the residual stream and adds to it; then the MLP, if there is one, does the same."""

    def __init__(self, config: ToyConfig, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = _norm(config)
        self.self_attn = ToyAttention(config, layer_idx)
        self.has_mlp = config.d_mlp > 0
        if self.has_mlp:
            self.post_attention_layernorm = _norm(config)
            self.mlp = ToyMLP(config)

    def forward(
        self, hidden_states: Tensor, *, pattern_log: list[Tensor | None] | None = None, **kwargs: Any
    ) -> Tensor:
        """The residual stream after this layer, from the one before it; both [batch, position, model].

        The keywords are those of `ToyAttention.forward`. `pattern_log` collects the pattern, since a layer
        that returned it beside the residual stream would not look like other layers.
        """
        added, pattern = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + added
        if pattern_log is not None:
            pattern_log.append(pattern)
        if self.has_mlp:
            hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states


class ToyPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    """What `ToyModel` and `ToyForCausalLM` share: their config, what they support, how they start."""

    config_class = ToyConfig
    base_model_prefix = "model"
    _no_split_modules: ClassVar[list[str]] = ["ToyDecoderLayer"]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    _supports_sdpa = True
    _supports_attention_backend = True

    def _init_weights(self, module: nn.Module) -> None:
        # The recipes of headscope.training were tuned with these widths. Unlike those of torch, these
        # functions leave weights alone that were just loaded.
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, mean=0.0, std=0.5 / math.sqrt(module.in_features))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=0.3 if isinstance(module, PositionTable) else 0.5)
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and module.elementwise_affine:
            init.ones_(module.weight)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        elif isinstance(module, ToyAttention) and module.config.smeared_keys:
            init.zeros_(module.alpha)


class ToyModel(ToyPreTrainedModel):
    """Everything but the unembedding: token ids to the normed residual stream [batch, position, model]."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        if config.positions in ("learned", "shortformer"):
            self.embed_positions = PositionTable(config.n_ctx, config.d_model)
        self.layers = nn.ModuleList(ToyDecoderLayer(config, layer) for layer in range(config.n_layers))
        self.norm = _norm(config) if config.final_norm else nn.Identity()
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """The residual stream after the final norm; conventions are those of every decoder of transformers.

        `attention_mask` [batch, past + position] is 0 at padding, on either side. Without `position_ids`,
        real tokens are numbered from 0, so that padding changes nothing.

        Raises:
            ArchitectureError: for input that would be answered wrongly (see `checks`).
        """
        require_one_input(input_ids, inputs_embeds)
        require_eager(self.config, output_attentions)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        stream = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        n_past = 0 if past_key_values is None else past_key_values.get_seq_length()
        n_queries = stream.shape[1]
        if position_ids is None:
            position_ids = positions_from_mask(attention_mask, n_queries, n_past).to(stream.device)
        check_cache(self.config, past_key_values, attention_mask, n_past, n_queries)
        stream, position_embeddings = self._locate(stream, position_ids)
        mask = mask_for(self.config._attn_implementation, n_queries, n_past + n_queries, attention_mask, like=stream)
        pattern_log: list[Tensor | None] | None = [] if output_attentions else None
        streams = [stream]
        for layer in self.layers:
            stream = layer(
                stream,
                attention_mask=mask,
                position_ids=position_ids,
                position_embeddings=position_embeddings,
                past_key_values=past_key_values,
                pattern_log=pattern_log,
                **kwargs,
            )
            streams.append(stream)
        # By the convention of transformers, the last hidden state is the normed one.
        streams[-1] = self.norm(stream)
        return BaseModelOutputWithPast(
            last_hidden_state=streams[-1],
            past_key_values=past_key_values,
            hidden_states=tuple(streams) if output_hidden_states else None,
            attentions=None if pattern_log is None else tuple(pattern_log),
        )

    def _locate(self, stream: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """The residual stream with positions added where they belong in it, and what only q and k shall see."""
        if self.config.positions == "sinusoidal":
            return stream + sinusoidal(position_ids, self.config.d_model).to(stream), None
        if self.config.positions not in ("learned", "shortformer"):
            return stream, None
        check_positions(self.config, position_ids)
        embedded = self.embed_positions(position_ids)
        return (stream + embedded, None) if self.config.positions == "learned" else (stream, embedded)


class ToyForCausalLM(ToyPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """`ToyModel` and an unembedding: token ids to next-token logits [batch, position, vocab]."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.model = ToyModel(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=config.unembed_bias)
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [batch, kept position, vocab]; with `labels` also the mean next-token loss in nats.

        `logits_to_keep` is a number of last positions (0 for all) or a 1-D tensor of positions. `labels`
        [batch, position] are the token ids themselves, shifted in here; -100 is left out.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, keep])
        loss_nats = None
        if labels is not None:
            require_all_logits(logits, labels)
            predicted, wanted = logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
            loss_nats = nn.functional.cross_entropy(predicted, wanted.to(logits.device))
        return CausalLMOutputWithPast(
            loss=loss_nats,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
