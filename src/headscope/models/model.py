"""An opened model: run it, capture any site, edit any site, generate, hand its attention to readings.

In: a causal language model of transformers and its anatomy. Out: runs in the shapes of `vocabulary.SITES`.
The model itself is never converted or rewritten; without interventions and captures, `run` is its plain
forward pass. What this model does not have (a state between attention and MLP in a parallel block, say)
is refused by name.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from headscope.errors import BadArgument, OutOfRange, PromptError, UnservedModel, UnservedSite
from headscope.models.anatomy import Anatomy, Layer
from headscope.models.certificate import Certificate
from headscope.models.execution import edited, gradients
from headscope.models.generation import Generation, check_options, decode
from headscope.models.layout import Layout
from headscope.models.protocols import CallEdit, Edit, Reading, SiteEdit
from headscope.models.run import Run, blank_padding
from headscope.models.weights import HeadWeights, head_weights
from headscope.tasks.prompts import Prompts, PromptsLike
from headscope.vocabulary import Head, Positions, site_named

Capture = str | tuple[str, int] | tuple[str, Sequence[int]]
Edits = Edit | Sequence[Edit]

# Interventions of enclosing `editing` blocks of this thread, by model.
_editing: ContextVar[tuple[tuple["Model", tuple[Edit, ...]], ...]] = ContextVar(
    "headscope_editing", default=()
)


class Model:
    """A causal language model whose heads can be read, cut and patched; made by `headscope.load`.

    `name` is what it was loaded from; `hf` is the untouched transformers model, in evaluation mode;
    `language` names the synthetic language it was trained on, where its card says so.
    """

    def __init__(
        self,
        hf: nn.Module,
        anatomy: Anatomy,
        *,
        name: str,
        tokenizer: Any = None,
        language: Mapping[str, Any] | None = None,
    ) -> None:
        self.hf, self.anatomy, self.name, self.tokenizer = hf, anatomy, name, tokenizer
        self.language = language
        # How much one batch of intermediate results may take; what is streamed is cut to fit.
        self.memory_bytes = 2**30
        # What the certificate found; set when it has been made (models.loading).
        self.certificate: Certificate | None = None
        self.refusals: dict[tuple[str, int | None], str] = {}
        self._remembered: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<{self.name}: {self.n_layers} layers, {len(self.heads)} heads, {self.dtype}, {self.device}>"

    @property
    def config(self) -> Any:
        return self.hf.config

    @property
    def device(self) -> torch.device:
        device: torch.device = self.hf.get_input_embeddings().weight.device  # type: ignore[operator,union-attr]
        return device

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

    @cached_property
    def heads(self) -> tuple[Head, ...]:
        """Every head, in order of layer and index."""
        layers = enumerate(self.anatomy.layers)
        return tuple(Head(index, head) for index, layer in layers for head in range(layer.heads))

    def remember(self, key: str, make: Callable[[], Any]) -> Any:
        """`make()`, computed once per key: means and source runs that many cells share."""
        if key not in self._remembered:
            self._remembered[key] = make()
        return self._remembered[key]

    @cached_property
    def identity(self) -> str:
        """The commit on a hub where there is one, else a hash of configuration and weights."""
        commit = getattr(self.config, "_commit_hash", None)
        if commit:
            return str(commit)
        sha = hashlib.sha256(self.config.to_json_string().encode())
        for name, weights in sorted(self.hf.state_dict().items()):
            sha.update(name.encode())
            sha.update(weights.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return "sha256:" + sha.hexdigest()[:16]

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

    def require_site(self, site: str, layer: int) -> None:
        """Raise UnservedSite, with the reason, unless the model has this site in this layer."""
        site_named(site)
        anatomy = self.layer(layer, f"use {site!r}")
        reason = None
        if site in ("q", "k", "v", "pattern", "z", "head_out") and anatomy.attention is None:
            reason = "this layer has no attention"
        elif site in ("q", "k") and anatomy.inline and not anatomy.fused:
            reason = "its model file writes attention out, and which factor is which cannot be told safely"
        elif site in ("z", "head_out") and anatomy.projection is None:
            reason = "no module was found that takes all heads' outputs"
        elif site == "attn_out" and anatomy.attention_term is None:
            reason = "what attention adds to the stream was not found"
        elif site == "mlp_out" and anatomy.mlp_term is None:
            reason = "this layer has no MLP that adds to the stream"
        elif site == "resid_mid" and not anatomy.has_mid:
            reason = "there is no stream between attention and MLP in it"
        elif site == "logits":
            reason = "logits are not a site of a layer"
        reason = reason or self.refusals.get((site, layer)) or self.refusals.get((site, None))
        if reason:
            raise UnservedSite(f"cannot use {site!r} in layer {layer} of {self.name}: {reason}.")

    def require_service(self, service: str, layer: int | None = None) -> None:
        """Raise UnservedSite if the certificate refuses a service (models.certificate.SERVICES)."""
        reason = self.refusals.get((service, layer)) or self.refusals.get((service, None))
        if reason:
            where = "" if layer is None else f" in layer {layer}"
            raise UnservedSite(f"cannot serve {service}{where} on {self.name}: {reason}.")

    def has(self, site: str, layer: int) -> bool:
        """Whether the model has a site in a layer, and serves it."""
        try:
            self.require_site(site, layer)
        except UnservedSite:
            return False
        return True

    def require_direct_effects(self) -> None:
        """Raise UnservedModel unless components reach the logits through one norm and the unembedding."""
        if not self.anatomy.reads_stream:
            raise UnservedModel(
                f"cannot compute direct effects in {self.name}: more than a norm stands between its stream "
                "and its unembedding. Total effects (cutting heads) still work."
            )

    def prompts(self, given: PromptsLike) -> Prompts:
        """`given` as prompts, checked against the vocabulary and the context of this model.

        Raises:
            PromptError: for empty prompts, ids outside the vocabulary, or prompts beyond the context.
        """
        prompts = Prompts.of(given)
        low, high = min(map(min, prompts.tokens)), max(map(max, prompts.tokens))
        if low < 0 or high >= self.vocab_size:
            raise PromptError(
                f"cannot run {self.name} on token {low if low < 0 else high}: "
                f"its vocabulary has {self.vocab_size} tokens, numbered from 0."
            )
        if self.context is not None and prompts.longest > self.context:
            raise PromptError(
                f"cannot run {self.name} on prompts of {prompts.longest} tokens: its context holds "
                f"{self.context}. Use shorter prompts."
            )
        return prompts

    def run(
        self,
        prompts: PromptsLike,
        *,
        interventions: Edits = (),
        capture: Capture | Sequence[Capture] = (),
        grad: bool = False,
    ) -> Run:
        """One forward pass over all prompts.

        `capture` names sites ("pattern"), or sites in layers (("z", 3), ("z", [3, 4])); nothing else is
        kept. With `grad` the logits and captures carry gradients (but for `pattern`, which is computed
        beside the kernel); otherwise inference mode is on.

        >>> run = model.run([[0, 5, 6]], capture=["z"])     # doctest: +SKIP
        """
        checked = self.prompts(prompts)
        if checked.ragged:
            self.require_service("prompts of unequal length")
        edits, given = self._prepared(checked, interventions)
        wanted = list(self._wanted(capture))
        ids = checked.ids.to(self.device)
        with gradients(grad):
            if not edits and not wanted:
                logits, captured = self.hf(ids, use_cache=False).logits, {}
            else:
                layout = Layout.of(checked, self.device)
                with edited(self.hf, self.anatomy, layout, edits=edits, wanted=wanted) as captured:
                    logits = self.hf(ids, use_cache=False).logits
            if checked.ragged:
                logits = blank_padding("logits", logits, checked.real)
                captured = {
                    key: blank_padding(key[0], value, checked.real) for key, value in captured.items()
                }
        return Run(self, checked, given, logits, captured)

    def generate(
        self,
        prompts: PromptsLike,
        *,
        max_new_tokens: int = 20,
        interventions: Edits = (),
        seed: int = 0,
        **options: Any,
    ) -> Generation:
        """Generate under interventions, cached, greedily unless `do_sample=True`.

        Interventions at all positions hold for generated tokens too; negative positions count from the
        end of the prompt, positive ones may lie beyond it.

        Raises:
            BadArgument: for options under which positions lose their meaning (beams, assistants).
        """
        check_options(options)
        if max_new_tokens < 1:
            raise BadArgument(f"cannot generate {max_new_tokens} tokens: ask for at least 1.")
        checked = self.prompts(prompts)
        if checked.ragged:
            self.require_service("generation in batches of unequal length")
        edits, _ = self._prepared(checked, interventions, growing=True)
        if edits:
            self.require_service("generation")
        layout = Layout.growing_from(checked, self.device)
        with edited(self.hf, self.anatomy, layout, edits=edits):
            return decode(
                self.hf, self.tokenizer, checked, max_new_tokens=max_new_tokens, seed=seed, options=options
            )

    def read(
        self,
        prompts: PromptsLike,
        readings: Sequence[Reading],
        *,
        interventions: Edits = (),
        rows_at_once: int | None = None,
    ) -> None:
        """Let readings see every attention call on these prompts, a few rows at a time.

        The unembedding is not computed. `rows_at_once` defaults to what keeps one layer's patterns within
        `memory_bytes`.
        """
        checked = self.prompts(prompts)
        step = rows_at_once or self.rows_within(checked)
        body: nn.Module = self.hf.base_model  # type: ignore[assignment]
        given = _listed(interventions)
        for start in range(0, len(checked), step):
            rows = slice(start, min(start + step, len(checked)))
            some = checked.rows(rows)
            edits, _ = self._prepared(some, [edit.rows(rows) for edit in given])
            layout = Layout.of(some, self.device)

            def reader(call: Any, rows: slice = rows) -> None:
                for reading in readings:
                    reading.read(call, rows)

            with torch.inference_mode(), edited(body, self.anatomy, layout, edits=edits, reader=reader):
                body(some.ids.to(self.device), use_cache=False)

    def rows_within(self, prompts: Prompts) -> int:
        """How many examples have one layer's patterns (and their float32 softmax) within `memory_bytes`."""
        widest = max(layer.heads for layer in self.anatomy.layers)
        return max(1, min(len(prompts), self.memory_bytes // (16 * widest * prompts.longest**2)))

    @contextmanager
    def editing(self, interventions: Edits) -> Iterator["Model"]:
        """Apply these interventions to every run, generation and reading of this model in the block.

        Blocks nest: the outermost interventions are applied first, those of a call last.
        """
        token = _editing.set((*_editing.get(), (self, _listed(interventions))))
        try:
            yield self
        finally:
            _editing.reset(token)

    def output_matrix(self, layer: int) -> Tensor:
        """W_O of every head of a layer, [head, head_dim, model], from whatever module projects."""
        self.require_site("z", layer)
        anatomy = self.anatomy.layers[layer]
        assert anatomy.projection is not None
        width = anatomy.heads * anatomy.head_dim
        with torch.no_grad():
            basis = torch.eye(width, dtype=self.dtype, device=self.device)
            matrix = anatomy.projection(basis) - anatomy.projection(torch.zeros_like(basis[:1]))
        return matrix.reshape(anatomy.heads, anatomy.head_dim, -1)  # type: ignore[no-any-return]

    def head_weights(self, layer: int, *, fold_norm: bool = True) -> HeadWeights:
        """W_Q, W_K, W_V and W_O of every head of a layer; see `models.weights`."""
        self.layer(layer, "read weights")
        return head_weights(self, layer, fold_norm=fold_norm)

    def _prepared(
        self, prompts: Prompts, interventions: Edits, *, growing: bool = False
    ) -> tuple[list[SiteEdit | CallEdit], tuple[Edit, ...]]:
        outer = tuple(edit for model, edits in _editing.get() if model is self for edit in edits)
        given = (*outer, *_listed(interventions))
        for edit in given:
            positions = edit.footprint().positions
            if growing and positions.indices:  # positions beyond the prompt will exist
                positions = Positions(tuple(index for index in positions.indices if index < 0))
            prompts.check(positions)
        # Runs that an intervention needs of its own must not be edited by the blocks around this one.
        token = _editing.set(())
        try:
            return [change for edit in given for change in edit.prepare(self, prompts)], given
        finally:
            _editing.reset(token)

    def _wanted(self, capture: Capture | Sequence[Capture]) -> Iterator[tuple[str, int]]:
        for name, layers in _captures(capture):
            site = site_named(name)
            if name == "logits":
                continue
            every = range(self.n_layers) if site.per_layer else (0,)
            chosen = [index for index in every if self.has(name, index)] if layers is None else layers
            if not chosen:
                self.require_site(name, 0)  # says why no layer has it
            for layer in chosen:
                self.require_site(name, layer)
                yield ("z" if name == "head_out" else name), layer


def _listed(interventions: Edits) -> tuple[Edit, ...]:
    return tuple(interventions) if isinstance(interventions, Iterable) else (interventions,)


def _captures(capture: Capture | Sequence[Capture]) -> Iterator[tuple[str, Sequence[int] | None]]:
    """Each asked site with its layers; None for all layers."""
    items: Sequence[Any] = [capture] if isinstance(capture, str) else list(capture)
    if len(items) == 2 and isinstance(items[0], str) and not isinstance(items[1], str | tuple):
        items = [tuple(items)]  # one site and its layer or layers
    for item in items:
        match item:
            case str(name):
                yield name, None
            case (str(name), int(layer)):
                yield name, (layer,)
            case (str(name), [*layers]) if all(isinstance(layer, int) for layer in layers):
                yield name, tuple(layers)
            case _:
                raise BadArgument(
                    f"cannot capture {item!r}: name a site ('pattern'), a site in a layer (('z', 3)), or several."
                )
