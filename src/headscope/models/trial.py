"""What the checks of a model share: its trial prompts, one run with everything captured, small edits.

The edits are written here: `interventions` rely on what is proven here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from headscope.models.attention import AttentionCall
from headscope.models.certificate import Check
from headscope.models.layout import Layout
from headscope.models.protocols import CallEdit, Edit, Footprint, SiteChange, SiteEdit
from headscope.models.run import Run
from headscope.tasks.prompts import Prompts, PromptsLike
from headscope.vocabulary import ALL

if TYPE_CHECKING:
    from headscope.models.model import Model

# How closely two ways to one number must agree, relative to the largest value.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 5e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}
HEAD_SITES = ("q", "k", "v", "pattern", "z")
SITES = (*HEAD_SITES, "resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
_FIRST_REDIRECTED = 5
_MOST_LAYERS = 8


@dataclass(frozen=True)
class Single:
    """One site's edit (or a call's) as an Edit."""

    change: SiteEdit | CallEdit

    def footprint(self) -> Footprint:
        return Footprint(self.change.layer, ALL)

    def prepare(self, model: "Model", prompts: Prompts) -> Sequence[SiteEdit | CallEdit]:
        return [self.change]

    def rows(self, chosen: slice) -> "Single":
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
        """The same, at most eight of them spread over the depth of a deep model."""
        layers = self.layers(site)
        return layers[:: max(1, -(-len(layers) // _MOST_LAYERS))]

    def head(self, layer: int) -> int:
        """The head on trial in a layer: the second, where there is one."""
        return 1 % max(1, self.model.anatomy.layers[layer].heads)

    def edited(self, site: str, layer: int, change: SiteChange) -> Run:
        """A run with one site edited, and the sites around it captured."""
        around = ("resid_mid", "mlp_out", "resid_post")
        capture = [(name, layer) for name in around if self.model.has(name, layer)]
        return self.model.run(self.prompts, interventions=Single(SiteEdit(site, layer, change)), capture=capture)

    def zero_head(self, layer: int) -> SiteChange:
        def change(value: Tensor, _: Layout) -> Tensor:
            chosen = torch.arange(value.shape[2], device=value.device) == self.head(layer)
            return torch.where(chosen[:, None], torch.zeros_like(value), value)

        return change

    def silenced(self, layer: int) -> Tensor:
        """Logits with the kernel returning zeros for the head on trial."""
        zero = self.zero_head(layer)

        def change(call: AttentionCall, layout: Layout) -> None:
            call.out = zero(call.out, layout)

        return self.model.run(self.prompts, interventions=Single(CallEdit(layer, change))).logits

    def redirected(self, layer: int) -> Tensor:
        """Logits with the head on trial redirected to the first token, from query 5 on."""

        def change(call: AttentionCall, layout: Layout) -> None:
            rows = layout.positions(call.queries) >= _FIRST_REDIRECTED
            first = layout.key_cells(torch.zeros_like(rows, dtype=torch.long), call.keys, rows)
            call.redirect(self.head(layer), rows, first)

        return self.model.run(self.prompts, interventions=Single(CallEdit(layer, change))).logits

    def rewritten(self, layer: int) -> Tensor:
        """Logits with the same head's pattern rows rewritten."""

        def change(value: Tensor, layout: Layout) -> Tensor:
            value = value.clone()
            value[:, _FIRST_REDIRECTED:, self.head(layer)] = 0
            value[:, _FIRST_REDIRECTED:, self.head(layer), 0] = 1
            return value

        return self.model.run(self.prompts, interventions=Single(SiteEdit("pattern", layer, change))).logits

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


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest expected value."""
    if got.shape != expected.shape:
        return float("inf")
    scale = float(expected.float().abs().max()) + 1e-12
    return float((got.float() - expected.float()).abs().max()) / scale
