"""What the checks of a model share: its trial prompts, one run with everything captured, small edits.

The edits are written here: `interventions` rely on what is proven here.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from headscope.models.attention import AttentionCall
from headscope.models.certificate import Check
from headscope.models.execution import edited
from headscope.models.layout import Layout
from headscope.models.protocols import CallEdit, Edit, Footprint, SiteChange, SiteEdit
from headscope.models.run import Run
from headscope.tasks.prompts import Prompts, PromptsLike
from headscope.vocabulary import ALL, Rows

if TYPE_CHECKING:
    from headscope.models.model import Model

# How closely two ways to one number must agree, relative to the largest value.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 5e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}
HEAD_SITES = ("q", "k", "v", "pattern", "z")
SITES = (*HEAD_SITES, "resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
_FIRST_REDIRECTED = 5
_MOST_LAYERS = 6


class _Enough(Exception):
    """Stops a forward pass once what enters the next layer is known."""


@dataclass(frozen=True)
class Single:
    """One site's edit (or a call's) as an Edit."""

    change: SiteEdit | CallEdit

    def footprint(self) -> Footprint:
        return Footprint(self.change.layer, ALL)

    def prepare(self, model: "Model", prompts: Prompts) -> Sequence[SiteEdit | CallEdit]:
        return [self.change]

    def rows(self, chosen: Rows) -> "Single":
        return self


class Trial:
    """A model on trial: two prompts of twelve random tokens, and what they give."""

    def __init__(self, model: "Model") -> None:
        self.model = model
        length = min(12, model.context or 12)
        generator = torch.Generator().manual_seed(1)
        # The first few ids are special in many vocabularies, and may be treated as padding.
        low = min(3, model.vocab_size - 1)
        drawn = torch.randint(low, model.vocab_size, (2, length), generator=generator)
        self.prompts = Prompts.of(drawn)
        self.ids = drawn.to(model.device)
        self._body: nn.Module = model.hf.base_model  # type: ignore[assignment]
        self.tolerance = TOLERANCE.get(model.dtype, 6e-2)

    @cached_property
    def base(self) -> Run:
        """One un-edited run with every site that the model has."""
        wanted = [(site, layer) for site in (*SITES, "head_out") for layer in self.layers(site)]
        return self.model.run(self.prompts, capture=wanted)

    def layers(self, site: str) -> list[int]:
        """The layers that have a site."""
        return [layer for layer in range(self.model.n_layers) if self.model.has(site, layer)]

    def sampled(self, site: str) -> list[int]:
        """The same; of a deep model the first and last of each kind of layer, and up to six spread over the depth."""
        kinds: dict[object, list[int]] = defaultdict(list)
        for layer in self.layers(site):
            kinds[self._kind(layer)].append(layer)
        each = max(2, _MOST_LAYERS // max(1, len(kinds)))
        return sorted(layer for layers in kinds.values() for layer in _spread(layers, each))

    def _kind(self, layer: int) -> object:
        """What tells a layer from one that is built in another way: its modules, its heads, its window."""
        found, types = self.model.anatomy.layers[layer], getattr(self.model.text_config, "layer_types", None)
        modules = tuple(type(part) for part in (found.module, found.attention, found.projection, found.input_norm))
        told = (found.heads, found.head_dim, found.inline, found.fused, found.gated, found.carry, found.has_mid)
        return modules, told, types[layer] if types and layer < len(types) else None

    def head(self, layer: int) -> int:
        """The head on trial in a layer: the second, where there is one."""
        return 1 % max(1, self.model.anatomy.layers[layer].heads)

    @cached_property
    def ending(self) -> Tensor:
        """What the unembedding is given in a run without edits."""
        return self.edited(())

    def edited(self, edits: Edit | Sequence[Edit]) -> Tensor:
        """The same with edits; the unembedding, half of a pass in models with many tokens, is not computed."""
        model = self.model
        changes, _ = model.prepare(self.prompts, edits)
        layout = Layout.of(self.prompts, model.device)
        with torch.no_grad(), edited(self._body, model.anatomy, layout, edits=changes):
            return self.run_body()

    def run_body(self) -> Tensor:
        """A plain pass over the prompts up to the unembedding (or the logits, where its model shows nothing else)."""
        result = self._body(self.ids, use_cache=False)
        ending: Tensor = result.last_hidden_state if hasattr(result, "last_hidden_state") else result.logits
        return ending

    def is_moved(self, site: str, layer: int) -> bool:
        """Whether another value of a site changes what enters the next layer, or else what leaves the last."""
        edit = Single(SiteEdit(site, layer, lambda value, _: value * 0.5 + self.noise_like(value).to(value)))
        following = layer + 1
        if following < self.model.n_layers and self.model.has("resid_pre", following):

            def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                raise _Enough(args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values()))))

            try:
                with self.model.anatomy.layers[following].module.register_forward_pre_hook(stop, with_kwargs=True):
                    self.edited(edit)
            except _Enough as enough:
                # An effect that comes by another way (keys that later layers share) is looked for at the end.
                if relative_error(enough.args[0], self.base["resid_pre", following]) > 0:
                    return True
        return relative_error(self.edited(edit), self.ending) > 0

    def zero_head(self, layer: int) -> SiteChange:
        def change(value: Tensor, _: Layout) -> Tensor:
            chosen = torch.arange(value.shape[2], device=value.device) == self.head(layer)
            return torch.where(chosen[:, None], torch.zeros_like(value), value)

        return change

    def silenced(self, layer: int) -> Tensor:
        """The ending with the kernel returning zeros for the head on trial."""
        zero = self.zero_head(layer)

        def change(call: AttentionCall, layout: Layout) -> None:
            call.out = zero(call.out, layout)

        return self.edited(Single(CallEdit(layer, change)))

    def redirected(self, layer: int) -> Tensor:
        """The ending with the head on trial redirected to the first token, from query 5 on."""

        def change(call: AttentionCall, layout: Layout) -> None:
            rows = layout.positions(call.queries) >= _FIRST_REDIRECTED
            first = layout.key_cells(torch.zeros_like(rows, dtype=torch.long), call.keys, rows)
            call.redirect(self.head(layer), rows, first)

        return self.edited(Single(CallEdit(layer, change)))

    def rewritten(self, layer: int) -> Tensor:
        """The ending with the same head's pattern rows rewritten."""

        def change(value: Tensor, layout: Layout) -> Tensor:
            value = value.clone()
            value[:, _FIRST_REDIRECTED:, self.head(layer)] = 0
            value[:, _FIRST_REDIRECTED:, self.head(layer), 0] = 1
            return value

        return self.edited(Single(SiteEdit("pattern", layer, change)))

    def noise_like(self, value: Tensor) -> Tensor:
        """Fixed noise of a value's own size."""
        generator = torch.Generator().manual_seed(2)
        noise = torch.randn(value.shape, generator=generator).to(value.device)
        return noise * value.float().abs().mean()

    def generated(self, prompts: PromptsLike, edits: Sequence[Edit] = ()) -> tuple[tuple[int, ...], ...]:
        """Four greedy tokens; an end token does not end them."""
        options = {"max_new_tokens": 4, "min_new_tokens": 4}
        return self.model.generate(prompts, interventions=edits, **options).tokens

    def first_logits(self, prompts: PromptsLike) -> Tensor:
        """Logits [batch, vocab] from which the first generated token of each example is taken."""
        seen: list[Tensor] = []
        with self.model.hf.register_forward_hook(lambda _, __, result: seen.append(result.logits[:, -1].float())):
            self.model.generate(prompts, max_new_tokens=1)
        return seen[0]

    def verdict(self, errors: Mapping[int, float], *, refuses: tuple[str, ...] = (), detail: str = "") -> Check:
        """A check, still without its name, from one error per layer; NaN fails."""
        if not errors:
            return Check("", None, detail=detail or "no layer has it")
        failing = tuple(layer for layer, error in errors.items() if not error <= self.tolerance)
        worst = max(errors.values(), key=lambda error: float("inf") if error != error else error)
        return Check("", not failing, float(worst), self.tolerance, failing, refuses, detail)


def _spread(layers: Sequence[int], most: int) -> list[int]:
    """At most so many of the layers, evenly spread, the first and last among them."""
    count = min(most, len(layers))
    return [layers[round(step * (len(layers) - 1) / max(1, count - 1))] for step in range(count)]


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest expected value."""
    if got.shape != expected.shape:
        return float("inf")
    scale = float(expected.float().abs().max()) + 1e-12
    return float((got.float() - expected.float()).abs().max()) / scale
