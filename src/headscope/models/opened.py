"""What an opened model *is*: its sizes, its heads, its identity, and what of it is served.

In: a causal language model of transformers and its anatomy. What is not served is refused by name, for a reason that
lies in the architecture (no residual stream between attention and MLP in a parallel block) or in the certificate.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from headscope.errors import BadArgument, OutOfRange, PromptError, UnservedModel, UnservedSite
from headscope.models.anatomy import Anatomy, Layer
from headscope.models.certificate import Certificate, writing
from headscope.models.devices import default_memory_bytes, device_of
from headscope.models.generation import end_tokens
from headscope.models.identity import built, content_hash, state_of
from headscope.tasks.prompts import Prompts, PromptsLike, padded_rows
from headscope.vocabulary import Head, site_named

if TYPE_CHECKING:
    from headscope.models.proofs import Proofs


class OpenedModel:
    """Sizes, heads, identity and what is served; `headscope.Model` adds running.

    `name` is what it was loaded from; `hf` is the untouched transformers model, in evaluation mode;
    `language` names the synthetic language it was trained on, where its card says so; `commit` is the one on
    the hub that it was loaded from.
    """

    def __init__(
        self,
        hf: nn.Module,
        anatomy: Anatomy,
        *,
        name: str,
        tokenizer: Any = None,
        language: Mapping[str, Any] | None = None,
        commit: str | None = None,
    ) -> None:
        self.hf, self.anatomy, self.name, self.tokenizer = hf, anatomy, name, tokenizer
        self.language, self.commit = language, commit
        # How much intermediate results may take together; what is too large is done in batches.
        self.memory_bytes = default_memory_bytes(device_of(hf))
        # What was proved on it; set when it is opened (models.loading).
        self.proofs: Proofs | None = None
        self._cache: dict[str, Any] = {}
        self.weights_state = 0
        # Proves the model anew once its modules are not those that were proved; set when opened (models.loading).
        self.prove: Callable[[Any], None] | None = None
        self._modules = built(hf)
        self.follow_changes()
        self._loaded_state = self.weights_state

    def __repr__(self) -> str:
        return f"<{self.name}: {self.n_layers} layers, {len(self.heads)} heads, {self.dtype}, {self.device}>"

    @property
    def config(self) -> Any:
        return self.hf.config

    @property
    def device(self) -> torch.device:
        return device_of(self.hf)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.hf.parameters()).dtype

    @property
    def n_layers(self) -> int:
        return len(self.anatomy.layers)

    @property
    def text_config(self) -> Any:
        """The configuration of the language model, also where it is part of a larger one."""
        return self.config.get_text_config() if hasattr(self.config, "get_text_config") else self.config

    @property
    def d_model(self) -> int:
        """The width of the residual stream."""
        width = getattr(self.text_config, "hidden_size", None)
        return int(width or self.hf.get_input_embeddings().weight.shape[1])  # type: ignore[operator,union-attr]

    @property
    def vocab_size(self) -> int:
        return int(self.text_config.vocab_size)

    @property
    def context(self) -> int | None:
        """The longest prompt that the model was built for, in tokens; None where it does not say."""
        return getattr(self.text_config, "max_position_embeddings", None)

    @property
    def bos_token_id(self) -> int | None:
        """The token that starts every prompt; None where neither tokenizer nor configuration names one."""
        told = getattr(self.tokenizer, "bos_token_id", None)
        return told if told is not None else getattr(self.text_config, "bos_token_id", None)

    @property
    def heads(self) -> tuple[Head, ...]:
        """Every head, in order of layer and index."""
        layers = enumerate(self.anatomy.layers)
        return tuple(Head(index, head) for index, layer in layers for head in range(layer.heads))

    def at_once(self, bytes_each: int, *, share: int = 1) -> int:
        """How many things of so many bytes fit into one of `share` equal parts of `memory_bytes`; at least one."""
        return max(1, self.memory_bytes // max(1, share * bytes_each))

    def batches(self, count: int, *, bytes_each: int, share: int = 1) -> Iterator[slice]:
        """`count` things (examples, cells) in slices of as many as fit; `bytes_each` and `share` as in `at_once`."""
        size = self.at_once(bytes_each, share=share)
        for start in range(0, count, size):
            yield slice(start, min(start + size, count))

    def cached(self, key: str, make: Callable[[], Any]) -> Any:
        """`make()`, computed once per key: means and source runs that many cells share.

        What was used longest ago is dropped once all of it together exceeds an eighth of `memory_bytes`.
        Forgotten when weights are seen to change (an in-place operation or an assignment under
        `torch.no_grad`); changes through `.data` leave no trace: call `clear_cache` after them.
        """
        if self.is_cached(key):
            self._cache[key] = self._cache.pop(key)  # the newest is the last
            return self._cache[key]
        made = self._cache[key] = make()
        total = sum(map(_bytes_of, self._cache.values()))
        while total > self.memory_bytes // 8 and len(self._cache) > 1:
            total -= _bytes_of(self._cache.pop(next(iter(self._cache))))
        return made

    def is_cached(self, key: str) -> bool:
        """Whether `cached` has something under this key."""
        self.follow_changes()
        return key in self._cache

    def clear_cache(self) -> None:
        """Drop everything that was computed from the weights: means, source runs, the identity."""
        self._cache.clear()

    def follow_changes(self) -> None:
        """Forget what was computed from other weights; where modules were exchanged, prove the model anew.

        An adapter put around a projection, two layers swapped, or a forward that is assigned on a module or its class
        leave an anatomy whose hooks nobody comes by.

        Raises:
            UnservedModel: if the model, as it is now, is not served.
        """
        modules = built(self.hf)
        state = state_of(modules)
        if state != self.weights_state:
            self.weights_state = state
            self.clear_cache()
        if modules != self._modules and self.prove is not None:
            proved, self._modules = self._modules, modules
            try:
                self.prove(self)
            except BaseException:
                self._modules = proved  # what is not proved is refused the next time too
                raise

    @property
    def identity(self) -> str:
        """The commit on the hub that it was loaded from, else a hash of configuration, weights and modules.

        A commit stands for the weights only as long as they are those that were loaded.
        """
        self.follow_changes()
        if self.commit is not None and self.weights_state == self._loaded_state:
            return self.commit
        return str(self.cached("identity", lambda: content_hash(self.hf)))

    @property
    def certificate(self) -> Certificate:
        """Every property of it, those that nothing rested on so far proved now.

        Raises:
            UnservedModel: for a model that was not opened by `headscope.load`.
        """
        self.follow_changes()
        if self.proofs is None:
            raise UnservedModel(f"cannot certify {self.name}: open it with headscope.load, which begins to prove.")
        return self.proofs.whole()

    def layer(self, index: int, doing: str = "use a layer") -> Layer:
        """The anatomy of one layer.

        Raises:
            OutOfRange: if the model has no such layer.
        """
        if not 0 <= index < self.n_layers:
            raise OutOfRange.index(doing, "layer", index, self.n_layers, self.name)
        return self.anatomy.layers[index]

    def require_head(self, head: Head, doing: str = "use a head") -> None:
        """Raise OutOfRange unless the model has this head."""
        count = self.layer(head.layer, f"{doing} {head}").heads
        if not 0 <= head.index < count:
            raise OutOfRange.index(doing, "head", head, count, f"layer {head.layer} of {self.name}")

    def require_site(self, site: str, layer: int, *, edited: bool = False) -> None:
        """Raise UnservedSite, with the reason, unless the model has this site in this layer (and edits of it)."""
        reason = self.why_not(site, layer, edited=edited)
        if reason:
            raise UnservedSite(f"cannot use {site!r} in layer {layer} of {self.name}: {reason}.")

    def why_not(self, site: str, layer: int, *, edited: bool = False) -> str | None:
        """Why a site in a layer (or edits of it) is not served; None where it is."""
        site_named(site)
        anatomy = self.layer(layer, f"use {site!r}")
        reason = None
        if site == "embed" and layer != 0:
            reason = "it exists once, as ('embed', 0)"
        elif site in ("q", "k", "v", "pattern", "z", "head_out") and anatomy.attention is None:
            reason = "this layer has no attention"
        elif site in ("q", "k") and anatomy.inline and not anatomy.fused:
            reason = "its model file writes attention out, and which factor is which cannot be told safely"
        elif site in ("z", "head_out") and anatomy.projection is None:
            reason = "no module was found that takes all heads' outputs"
        elif site in ("embed", "resid_pre", "resid_post") and not anatomy.streams:
            reason = "what passes between its layers is not one vector per token"
        elif site == "attn_out" and anatomy.attention_term is None:
            reason = "what attention adds to the residual stream was not found"
        elif site == "mlp_out" and anatomy.mlp_term is None:
            reason = "this layer has no MLP that adds to the residual stream"
        elif site == "resid_mid" and not anatomy.has_mid:
            reason = "there is no residual stream between attention and MLP in it"
        elif site == "logits":
            reason = "logits are not a site of a layer"
        for what in (site, writing(site)) if edited else (site,):
            reason = reason or self._refusal(what, layer)
        return reason

    def _refusal(self, what: str, layer: int | None) -> str | None:
        return None if self.proofs is None else self.proofs.refusal(what, layer)

    def require_service(self, service: str, layer: int | None = None) -> None:
        """Raise UnservedSite if the certificate refuses a service (models.certificate.SERVICES)."""
        reason = self._refusal(service, layer)
        if reason:
            where = "" if layer is None else f" in layer {layer}"
            raise UnservedSite(f"cannot serve {service}{where} on {self.name}: {reason}.")

    def has(self, site: str, layer: int) -> bool:
        """Whether the model has a site in a layer, and serves it."""
        return self.why_not(site, layer) is None

    def require_direct_effects(self) -> None:
        """Raise UnservedModel unless components reach the logits through one norm and the unembedding."""
        stands = "more than a norm stands between its residual stream and its unembedding"
        self.follow_changes()
        reason = None if self.anatomy.reads_stream else stands
        for index, layer in enumerate(self.anatomy.layers):
            if layer.carry is None or not layer.complete or (layer.heads and layer.projection is None):
                reason = reason or f"layer {index} is no plain sum of the residual stream, its heads and its MLP"
        if reason:
            raise UnservedModel(
                f"cannot compute direct effects in {self.name}: {reason}. Total effects (ablating heads) still work."
            )

    def prompts(self, given: PromptsLike, attention_mask: Any = None) -> Prompts:
        """`given` as prompts, checked against the vocabulary and the context of this model.

        Bare token ids that look padded, and come without a mask, are run as they are, with a warning.

        Raises:
            PromptError: for empty prompts, ids outside the vocabulary, or prompts beyond the context.
        """
        prompts = Prompts.of(given, attention_mask)
        bare = not isinstance(given, Prompts) and attention_mask is None
        if bare and not (isinstance(given, Mapping) and given.get("attention_mask") is not None):
            self._warn_of_padding(prompts)
        low, high = min(map(min, prompts.tokens)), max(map(max, prompts.tokens))
        answers, foils = f"ask {self.name} for the answer", f"ask {self.name} for the foil"
        asked = ((f"run {self.name} on token", (low, high)), (answers, prompts.answers), (foils, prompts.foils))
        for doing, tokens in asked:
            outside = [token for token in tokens if not 0 <= token < self.vocab_size]
            if outside:
                raise PromptError(
                    f"cannot {doing} {outside[0]}: its vocabulary has {self.vocab_size} tokens, numbered from 0."
                )
        if any(module.training for module in self.hf.modules()):  # what is put into a model later is in training mode
            raise BadArgument(
                f"cannot run {self.name} in training mode: dropout would make every run another, and gradient "
                "checkpointing would recompute without interventions. Call model.hf.eval() first."
            )
        self.follow_changes()
        if self.context is not None and prompts.longest > self.context:
            raise PromptError(
                f"cannot run {self.name} on prompts of {prompts.longest} tokens: its context holds "
                f"{self.context}. Use shorter prompts."
            )
        return prompts

    def _warn_of_padding(self, prompts: Prompts) -> None:
        own = getattr(self.tokenizer, "pad_token_id", None)
        pad = getattr(self.text_config, "pad_token_id", None) if own is None else own
        # One such token is padding where a tokenizer has it for nothing else: texts begin and end with marks.
        single = own is not None and own not in (self.bos_token_id, *end_tokens(self.hf))
        padded = padded_rows(prompts.tokens, pad, single=single)
        if padded:
            warnings.warn(
                f"example {padded[0]}{' and others' if padded[1:] else ''} of {len(prompts)} begins or ends with the "
                f"padding token {pad} of {self.name}, which is run as text: pass attention_mask=, or what the "
                "tokenizer returns as a whole.",
                stacklevel=4,
            )

    def unembedding_matrix(self) -> Tensor:
        """The weights from which logits are read, [vocab, model], wherever they are kept."""
        self.follow_changes()
        weight = getattr(self.anatomy.unembedding, "weight", None)
        # Layers with adapters, and quantised ones, have weights that are not what they multiply by.
        plain = type(self.anatomy.unembedding).forward is nn.Linear.forward and type(weight) is nn.Parameter
        if isinstance(weight, Tensor) and plain and not weight.is_meta and weight.is_floating_point():
            return weight.detach()
        return self._affine(self.anatomy.unembedding, self.d_model)[0].T

    def head_bias(self, layer: int) -> Tensor:
        """What the output projection adds whatever the heads do, [model]; zeros where it has no bias."""
        return self._projection(layer)[1]

    def output_matrix(self, layer: int) -> Tensor:
        """W_O of every head of a layer, [head, head_dim, model], from whatever module projects."""
        anatomy = self.layer(layer)
        return self._projection(layer)[0].reshape(anatomy.heads, anatomy.head_dim, -1)

    def _projection(self, layer: int) -> tuple[Tensor, Tensor]:
        self.follow_changes()
        self.require_site("z", layer)
        anatomy = self.anatomy.layers[layer]
        return self._affine(anatomy.projection, anatomy.heads * anatomy.head_dim)

    def _affine(self, module: Any, width: int) -> tuple[Tensor, Tensor]:
        """W [width, out] and b [out] of a module that computes x @ W + b, from what it makes of basis vectors."""
        with torch.no_grad():
            basis = torch.eye(width, dtype=self.dtype, device=self.device)
            # Hooks of others belong to what enters the module and what leaves it, not to its weights.
            bias = module.forward(torch.zeros_like(basis[:1]))
            return module.forward(basis) - bias, bias[0]


def _bytes_of(value: Any) -> int:
    """What a remembered tensor, or mapping to tensors, takes in memory."""
    if isinstance(value, Mapping):
        return sum(map(_bytes_of, value.values()))
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0
