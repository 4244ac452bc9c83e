"""Every intervention on a tiny model of any family: against a second way to the same numbers, and in generation.

In: an opened model. Out: for each kind of intervention the largest relative difference of its logits from
those of a pattern edited by hand (or of the same thing said otherwise), and how far cached generation under
it is from recomputation; or the sentence with which the model refuses it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import headscope as hs
from headscope.errors import UnservedModel, UnservedSite
from headscope.interventions import Intervention, freeze, pattern_preserving, value_preserving
from headscope.models.generation import end_tokens
from headscope.models.trial import relative_error

LENGTH, NEW = 8, 3


@dataclass(frozen=True)
class Finding:
    """What one intervention did on one model; NaN where there is nothing to compare with."""

    kind: str
    forward: float
    generation: float
    refused: str = ""


def examine(model: hs.Model) -> list[Finding]:
    """Every kind of intervention that this model serves, tried; the others with their refusal."""
    generator = torch.Generator().manual_seed(3)
    low, high = min(3, model.vocab_size - 1), model.vocab_size
    prompts, other = (hs.Prompts.of(torch.randint(low, high, (2, LENGTH), generator=generator)) for _ in range(2))
    longer = hs.Prompts.of(torch.randint(low, high, (3, LENGTH + NEW + 1), generator=generator))
    layer = next(i for i in model.anatomy.attending if model.has("z", i) or model.has("pattern", i))
    return [_tried(model, prompts, *case) for case in _cases(model, prompts, other, longer, layer)]


Case = tuple[str, Sequence[Intervention], Sequence[Intervention] | None]


def _cases(model: hs.Model, prompts: hs.Prompts, other: hs.Prompts, longer: hs.Prompts, layer: int) -> Iterator[Case]:
    """(kind, interventions, the same by hand)."""
    head = hs.Head(layer, 1 % model.layer(layer).heads)
    plain = _patterns(model, prompts, layer)

    def written(change: Tensor | None) -> Sequence[Intervention] | None:
        return None if change is None else [hs.set_pattern(head, change)]

    own = None if plain is None else plain[:, head.index : head.index + 1]
    yield "fixed_offset", [hs.fixed_offset(head, 2, positions=[4, 5])], written(_offset(own, 2, [4, 5]))
    yield "to_bos by half", [hs.to_bos(head, strength=0.5)], written(_half_bos(own))
    yield "knock_out", [hs.knock_out(head, "all", [1, 2])], written(_without(own, [1, 2]))
    yield "knock_out edges", [hs.knock_out(head, "all", "all", edges=1)], None
    yield "set_pattern", [hs.set_pattern(head, torch.eye(LENGTH + NEW + 1))], [hs.fixed_offset(head, 0)]
    source = None
    if plain is not None:
        source = model.run(prompts, capture=("pattern", model.anatomy.attending))
    by_patch = source and [hs.patch(("pattern", model.anatomy.attending), source=source), hs.zero(head)]
    yield "pattern_preserving", pattern_preserving(hs.zero(head)), by_patch
    yield "value_preserving", value_preserving(hs.zero(head)), None
    yield "freeze v", [freeze(("v", "all")), hs.zero(head)], None
    if model.has("z", layer):
        one, inside = other.rows([0]), range(LENGTH)
        same = [hs.patch(head, source=one)]
        yield "resample", [hs.resample(head, over=one, positions=inside)], same
        yield "resample longer", [hs.resample(head, over=longer)], None
    yield "path_patch", [hs.path_patch(hs.zero(head), ("resid_post", model.n_layers - 1))], None
    last = model.anatomy.attending[-1]
    yield "path_patch to a head", [hs.path_patch(hs.zero(head), hs.Head(last, 0), mlps="frozen")], None


def _tried(
    model: hs.Model,
    prompts: hs.Prompts,
    kind: str,
    edits: Sequence[Intervention],
    by_hand: Sequence[Intervention] | None,
) -> Finding:
    try:
        logits = model.run(prompts, interventions=edits).logits
        forward = float("nan")
        if by_hand is not None:
            forward = relative_error(logits, model.run(prompts, interventions=by_hand).logits)
    except (UnservedSite, UnservedModel) as error:
        return Finding(kind, float("nan"), float("nan"), str(error))
    try:
        return Finding(kind, forward, _generated(model, prompts, edits))
    except (UnservedSite, UnservedModel) as error:
        return Finding(kind, forward, float("nan"), str(error))


def _generated(model: hs.Model, prompts: hs.Prompts, edits: Sequence[Intervention]) -> float:
    """How far below the best logit of a recomputation the generated tokens are, relative to the largest logit."""
    new = model.generate(prompts, max_new_tokens=NEW, min_new_tokens=NEW, interventions=edits).tokens
    grown = prompts.grown(new)
    logits = model.run(grown, interventions=edits).logits[:, LENGTH - 1 : -1].float().clone()
    logits[..., end_tokens(model.hf)] = logits.min()  # forbidden before min_new_tokens
    chosen = logits.gather(-1, torch.tensor(new)[..., None])[..., 0]
    return float(((logits.max(-1).values - chosen) / logits.abs().max()).max())


def _patterns(model: hs.Model, prompts: hs.Prompts, layer: int) -> Tensor | None:
    if not model.has("pattern", layer):
        return None
    return model.run(prompts, capture=("pattern", layer))["pattern", layer]


def _offset(own: Tensor | None, back: int, queries: Sequence[int]) -> Tensor | None:
    if own is None:
        return None
    own = own.clone()
    for query in queries:
        own[:, :, query] = 0
        own[:, :, query, query - back] = 1
    return own


def _half_bos(own: Tensor | None) -> Tensor | None:
    if own is None:
        return None
    own = own * 0.5
    own[..., 0] += 0.5
    return own


def _without(own: Tensor | None, keys: Sequence[int]) -> Tensor | None:
    """Rows without some keys, scaled up as a softmax without them; what a sink has stays its share."""
    if own is None:
        return None
    kept = own.clone()
    kept[..., list(keys)] = 0
    cut = (own - kept).sum(-1, keepdim=True)
    return torch.where(kept.sum(-1, keepdim=True) > 0, kept / (1 - cut), 0)
