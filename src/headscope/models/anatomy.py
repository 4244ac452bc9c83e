"""Where things are in a model: its layers, attention modules, projections, and what feeds the residual stream.

In: the record of one probe pass (models.probe). Out: an `Anatomy` found from what the modules *did*, never
from their names: a layer's output is solved, by least squares, as its input plus a few submodule outputs.
That finds post-norms (the normed output is the term), parallel blocks (no state between attention and
MLP), scale factors, and projections of any kind. What cannot be found is absent, and asking for it is
refused; nothing is approximated.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from headscope.errors import UnservedModel
from headscope.models.probe import Attended, Event, Probe

# How closely sums must agree, by the precision in which the model computes.
_ROUGH = 1e-4  # what is farther off by inner products is not solved exactly
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 1.5e-2}


@dataclass(frozen=True)
class Term:
    """A submodule whose output, times `scale`, is added to the residual stream of its layer."""

    module: nn.Module
    scale: float


@dataclass(frozen=True)
class Layer:
    """One decoder layer: out = `carry` * in + attention term + MLP term.

    `heads` and `head_dim` are those of `z`; `projection` is the module that `z` enters. `inline` and
    `fused` say how attention is computed (models.inline). `gated` says that something stands between what
    attention returns and `z`. `has_mid` says whether the residual stream exists between attention and MLP (it does
    not in parallel blocks), `complete` that the attention and MLP terms are all that a layer adds;
    `streams` that what enters and leaves it is one vector per token of each example;
    `input_norm` is what stands between the residual stream and the attention module.
    """

    module: nn.Module
    carry: float | None
    attention: nn.Module | None
    projection: nn.Module | None
    heads: int
    head_dim: int
    attention_term: Term | None
    mlp_term: Term | None
    has_mid: bool
    projection_is_term: bool
    inline: bool = False
    fused: bool = True
    gated: bool = False
    complete: bool = False
    input_norm: nn.Module | None = None
    streams: bool = True

    @property
    def writes_heads(self) -> bool:
        """Whether heads, with the bias of the projection, sum to what attention adds to the residual stream."""
        return self.projection_is_term and self.attention_term is not None and self.attention_term.scale == 1.0


@dataclass(frozen=True)
class Anatomy:
    """All layers, and the way from the last one to the logits.

    `final_norm` is None where the unembedding reads the residual stream directly; `reads_stream` is False where
    something else stands between, so that direct effects are refused.
    """

    layers: tuple[Layer, ...]
    final_norm: nn.Module | None
    unembedding: nn.Module
    reads_stream: bool

    @cached_property
    def through_interface(self) -> dict[nn.Module, int]:
        """Attention modules that ask the interface for a kernel, and the layer each belongs to."""
        return {layer.attention: i for i, layer in enumerate(self.layers) if layer.attention and not layer.inline}

    @cached_property
    def inline(self) -> dict[nn.Module, int]:
        """Attention modules that compute attention themselves, and the layer each belongs to."""
        return {layer.attention: i for i, layer in enumerate(self.layers) if layer.attention and layer.inline}

    @cached_property
    def attending(self) -> tuple[int, ...]:
        """The layers that have attention."""
        return tuple(index for index, layer in enumerate(self.layers) if layer.attention is not None)


def dissect(hf: nn.Module, record: Probe) -> Anatomy:
    """The anatomy of a model from its probe.

    Raises:
        UnservedModel: if no attention or no list of layers that carry a residual stream is found.
    """
    if not record.attended:
        raise UnservedModel(
            f"cannot study heads in a {_type(hf)} model: it has no attention, or has it in a form that is not "
            "recognised (neither through transformers' interface, nor a softmax over keys times values)."
        )
    tolerance = TOLERANCE.get(record.logits.dtype, 1.5e-2)
    modules = _decoder_layers(hf, record)
    layers = _without_shared(_layer(module, record, tolerance) for module in modules)
    unembedding = hf.get_output_embeddings()  # type: ignore[operator]
    final_norm, reads_stream = _head_of(record, record.of(modules[-1]), unembedding, tolerance)
    return Anatomy(layers, final_norm, unembedding, reads_stream)


def _type(hf: nn.Module) -> str:
    return str(getattr(getattr(hf, "config", None), "model_type", type(hf).__name__))


def _decoder_layers(hf: nn.Module, record: Probe) -> list[nn.Module]:
    """The module list most of whose members hold attention, the outermost of several."""
    paths = {module: path for path, module in hf.named_modules()}
    candidates: list[tuple[int, int, nn.ModuleList]] = []
    for path, module in hf.named_modules():
        if not isinstance(module, nn.ModuleList) or not len(module):
            continue
        events = [record.of(member) for member in module]
        if not all(e and e.inputs and e.outputs and e.inputs[0].shape == e.outputs[0].shape for e in events):
            continue
        prefixes = [f"{path}.{index}." for index in range(len(module))]
        holding = sum(any(paths[called].startswith(prefix) for called in record.attended) for prefix in prefixes)
        if holding:
            candidates.append((holding, -path.count("."), module))
    if not candidates:
        raise UnservedModel(f"cannot find the decoder layers of a {_type(hf)} model.")
    return list(max(candidates, key=lambda item: item[:2])[2])


def _layer(module: nn.Module, record: Probe, tolerance: float) -> Layer:
    event = record.of(module)
    assert event is not None
    inside = record.within(event)
    stream_in, stream_out = event.inputs[0], event.outputs[0]
    # Several streams side by side (an axis before the examples) are no residual stream that positions could index.
    streams = stream_in.ndim == 3 and stream_in.shape[:2] == record.logits.shape[:2]
    candidates = _candidates(inside, stream_in, stream_out) if streams else []
    carry, terms = _solve(stream_in, stream_out, candidates, tolerance) or (None, [])
    attention = next((e for e in inside if e.module in record.attended), None)
    call = record.attended[attention.module] if attention else None
    projection = _projection(inside, attention, call) if attention and call else None
    attention_term, mlp_term = _assign(terms, attention, tolerance)
    has_mid = False
    if carry is not None and attention_term and mlp_term:
        middle = carry * stream_in + attention_term[1] * _as(attention_term[0].outputs[0], stream_in)
        has_mid = any(_same(e.inputs[0], middle, 10 * tolerance) for e in inside if e.inputs)
    return Layer(
        module=module,
        carry=carry,
        attention=attention.module if attention else None,
        projection=projection.module if projection else None,
        heads=call.by_head.shape[2] if call else 0,
        head_dim=call.by_head.shape[3] if call else 0,
        attention_term=attention_term and Term(attention_term[0].module, attention_term[1]),
        mlp_term=mlp_term and Term(mlp_term[0].module, mlp_term[1]),
        has_mid=has_mid,
        projection_is_term=projection is not None
        and attention_term is not None
        and _same(projection.outputs[0], attention_term[0].outputs[0], tolerance),
        inline=call is not None and call.inline,
        fused=call is None or call.fused,
        gated=projection is not None and call is not None and not _same(projection.inputs[0], call.by_head, 0.0),
        input_norm=_norm_before(inside, attention, stream_in),
        streams=streams,
        complete=len(terms) == (attention_term is not None) + (mlp_term is not None) and bool(terms),
    )


def _norm_before(inside: Sequence[Event], attention: Event | None, stream: Tensor) -> nn.Module | None:
    """The module that makes the attention's input of the residual stream; None where attention reads it as it is."""
    if attention is None or not attention.inputs or torch.equal(attention.inputs[0], stream):
        return None
    for event in inside:
        made = event.start < attention.start and event.inputs and event.outputs
        if made and torch.equal(event.inputs[0], stream) and torch.equal(event.outputs[0], attention.inputs[0]):
            return event.module
    return None


def _without_shared(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """Layers whose attention module serves several layers lose it: their calls cannot be told apart."""
    separate = list(layers)
    uses = Counter(layer.attention for layer in separate)
    uses[None] = 0
    blank = {"attention": None, "projection": None, "heads": 0, "head_dim": 0, "attention_term": None}
    return tuple(
        replace(layer, **blank, has_mid=False) if uses[layer.attention] > 1 else layer  # type: ignore[arg-type]
        for layer in separate
    )


def _candidates(inside: Sequence[Event], stream_in: Tensor, stream_out: Tensor) -> list[Event]:
    """Calls whose output could be a term; of several with one output, the outermost."""
    kept: list[Event] = []
    for event in sorted(inside, key=lambda event: event.depth):
        if not event.outputs or event.outputs[0].numel() != stream_in.numel():
            continue
        output = _as(event.outputs[0], stream_in)
        trivial = torch.equal(output, stream_out) or torch.equal(output, stream_in) or not output.any()
        if not trivial and not any(torch.equal(output, _as(other.outputs[0], output)) for other in kept):
            kept.append(event)
    return kept


def _solve(
    stream_in: Tensor, stream_out: Tensor, candidates: Sequence[Event], tolerance: float
) -> tuple[float, list[tuple[Event, float]]] | None:
    """out = carry * in + sum of scale_i * output_i with as few terms as close the sum, or None."""
    target = stream_out.double().flatten()
    columns = [column.double().flatten() for column in (stream_in, *(event.outputs[0] for event in candidates))]
    rough = _rough_errors(torch.stack([*columns, target]))
    for count in (1, 2, 3):
        closing = []
        for indices in itertools.combinations(range(len(candidates)), count):
            used = (0, *(1 + index for index in indices))
            if rough(used) > max(_ROUGH, 2 * tolerance):
                continue
            chosen = [candidates[index] for index in indices]
            matrix = torch.stack([columns[index] for index in used], dim=1)
            scales = torch.linalg.lstsq(matrix, target[:, None]).solution[:, 0]
            error = float((matrix @ scales - target).norm() / target.norm())
            # A module that adds the residual stream inside itself would close the sum with a carry of 0: its parts,
            # which leave the residual stream its carry, are the terms.
            if error < tolerance and all(abs(scale) > max(tolerance, 1e-6) for scale in scales.tolist()):
                # Several sets may close (a module and its only child): prefer whole terms, then outer ones.
                scaled = sum(abs(scale - 1) > 1e-3 for scale in scales.tolist()[1:])
                closing.append((scaled, sum(event.depth for event in chosen), scales.tolist(), chosen))
        if closing:
            _, _, scales_found, events = min(closing, key=lambda item: item[:2])
            # 1.0 where least squares leaves 0.9999999: a plain sum must stay bit-exact.
            rounded = [1.0 if abs(scale - 1.0) < 1e-4 else scale for scale in scales_found]
            ordered = sorted(zip(events, rounded[1:], strict=True), key=lambda term: term[0].start)
            return rounded[0], ordered
    return None


def _rough_errors(rows: Tensor) -> Callable[[Sequence[int]], float]:
    """How far the last of these rows [row, value] is, relatively, from what some of the others span.

    From their inner products alone, in which an error below 1e-7 or so is lost: a few numbers per set of rows, where
    least squares on all values took the longest of everything that opening a model does.
    """
    products = (rows @ rows.T).cpu().numpy()

    def error(used: Sequence[int]) -> float:
        among, target = products[np.ix_(used, used)], products[list(used), -1]
        explained = target @ np.linalg.lstsq(among, target, rcond=None)[0]
        return float(np.sqrt(max(0.0, 1 - explained / products[-1, -1])))

    return error


def _assign(
    terms: Sequence[tuple[Event, float]], attention: Event | None, tolerance: float
) -> tuple[tuple[Event, float] | None, tuple[Event, float] | None]:
    """Which term is the attention's: the module itself, one around it, or a norm of its output."""
    if attention is None:
        return None, None

    def of_attention(event: Event) -> bool:
        nested = event.start <= attention.start <= event.end or attention.start <= event.start <= attention.end
        normed = any(_same(given, made, tolerance) for given in event.inputs[:1] for made in attention.outputs[:1])
        return nested or normed

    attentive, rest = ([term for term in terms if of_attention(term[0]) == own] for own in (True, False))
    if len(attentive) != 1:
        return None, None
    # With two other terms (a third branch beside the MLP) neither is *the* MLP.
    return attentive[0], (rest[0] if len(rest) == 1 else None)


def _projection(inside: Sequence[Event], attention: Event, call: Attended) -> Event | None:
    """The module with a weight that a tensor of all heads' width enters once attention has run.

    That which takes exactly what attention returned, else (gates, norms in between) the last one inside the
    attention module; in encoder-like blocks the first one after it.
    """
    width = call.by_head.shape[2] * call.by_head.shape[3]
    later = [
        event
        for event in inside
        if event.start > call.time
        and event.inputs
        and event.inputs[0].shape[-1] == width
        and event.inputs[0].numel() == call.by_head.numel()
        and getattr(event.module, "weight", None) is not None
        and event.module.weight.ndim == 2
    ]
    exact = [event for event in later if _same(event.inputs[0], call.by_head, 0.0)]
    own = [event for event in later if event.end <= attention.end]
    if exact:
        return _around(exact[0], inside, call)
    return own[-1] if own else None


def _around(projection: Event, inside: Sequence[Event], call: Attended) -> Event:
    """The module around the projection with more weights that `z` enters, as an adapter puts one; else itself."""
    own = set(projection.module.parameters())
    for event in inside:
        outer = call.time < event.start < projection.start and projection.end < event.end
        # Given the heads alone: what also takes the residual stream adds it inside.
        alone = outer and len(event.inputs) == 1 and _same(event.inputs[0], call.by_head, 0.0)
        if alone and any(weight.ndim == 2 for weight in set(event.module.parameters()) - own):
            return event
    return projection


def _head_of(
    record: Probe, last: Event | None, unembedding: nn.Module, tolerance: float
) -> tuple[nn.Module | None, bool]:
    scores = record.of(unembedding)
    if last is None or scores is None:
        return None, False
    stream, read = last.outputs[0], scores.inputs[0]
    if _same(stream, read, 0.0):
        return None, True
    for event in record.events:
        between = last.end < event.start and event.end < scores.start and event.inputs and event.outputs
        if between and _same(event.inputs[0], stream, 0.0) and _same(event.outputs[0], read, tolerance):
            return event.module, True
    return None, False


def _as(tensor: Tensor, like: Tensor) -> Tensor:
    return tensor.reshape(like.shape).to(like.dtype)


def _same(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Whether two tensors hold the same numbers in the same order, whatever their shapes."""
    if one.numel() != other.numel():
        return False
    scale = float(other.abs().max()) or 1.0
    return bool((one.reshape(-1).double() - other.reshape(-1).double()).abs().max() <= tolerance * scale)
