"""The properties that a model is held to, each by a few small forward passes.

In: a model on trial (models.trial). Out: checks (models.certificate), which models.proofs names and keeps. Every
property compares two independent ways to the same number: kernel against pattern times values, hook against zeroed
weights, cached against recomputed. What the model itself raises passes through (a property that fails); an error
raised by what the model is only compared with (weights that cannot be copied or written to) says nothing of it: that
check is not made.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from headscope.models.attention import AttentionCall
from headscope.models.certificate import NEXT_TOKEN_LOSS, Check, writing
from headscope.models.devices import is_offloaded
from headscope.models.generation import end_tokens
from headscope.models.protocols import SiteEdit
from headscope.models.replay import replaced
from headscope.models.trial import HEAD_SITES, SITES, Single, Trial, relative_error
from headscope.tasks.prompts import Prompts


@dataclass(frozen=True)
class Property:
    """What a model is held to.

    `refuses` are the sites and services that rest on it, refused where it fails unless its check says which;
    `leans_on` are sites that its check uses, whose own properties are proved first.
    """

    name: str
    check: Callable[[Trial], Check]
    refuses: tuple[str, ...]
    leans_on: tuple[str, ...] = ()


def said(error: Exception) -> str:
    """The first line of an error, with its type."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]


def _skipped(why: str) -> Check:
    """The outcome of a check that does not apply."""
    return Check("", None, detail=why)


def _not_made(why: str) -> Check:
    """The outcome of a check for want of something to compare the model with."""
    return Check("", None, detail=why, made=False)


def _logits_identical(trial: Trial) -> Check:
    """Plain forward, forward beside an inert wrapper, forward with everything captured: the same bits."""
    model = trial.model
    with torch.no_grad():
        plain = model.hf(trial.ids, use_cache=False).logits
    same = torch.equal(plain, trial.base.logits) and torch.equal(plain, model.run(trial.prompts).logits)
    return Check("", same, relative_error(trial.base.logits, plain), 0.0)


def _is_causal(trial: Trial) -> Check:
    """Other tokens in the second half change nothing in the first."""
    before = trial.prompts.longest // 2
    other = trial.ids.clone()
    other[:, before:] = other[:, before:].flip(0)
    with torch.no_grad():
        logits = trial.model.hf(other, use_cache=False).logits
    error = relative_error(logits[:, :before], trial.base.logits[:, :before])
    detail = "" if error <= trial.tolerance else "what it says of earlier tokens depends on later ones"
    return Check("", not detail, error, trial.tolerance, detail=detail)


def _pattern_rows(trial: Trial) -> Check:
    """Rows of the pattern are probabilities; what is missing from 1 goes to a sink."""
    sums = {layer: trial.base["pattern", layer].float().sum(-1) for layer in trial.layers("pattern")}
    excess = {layer: float((total - 1).max()) for layer, total in sums.items()}
    lowest = min((float(total.min()) for total in sums.values()), default=1.0)
    detail = "" if lowest > 1 - trial.tolerance else f"rows sum to {lowest:.2f} at least: the rest goes to a sink"
    return trial.verdict(excess, refuses=("pattern",), detail=detail)


def _pattern_eager(trial: Trial) -> Check:
    """The pattern is that of the model's own eager attention, on a copy with a configuration of its own."""
    model = trial.model
    if is_offloaded(model.hf):
        return _not_made("the model is offloaded and cannot be copied")
    try:
        # Its modules and its configuration are copied, its weights are the same tensors.
        shared = {id(weight): weight for weight in (*model.hf.parameters(), *model.hf.buffers())}
        eager: Any = copy.deepcopy(model.hf, shared)
        if hasattr(eager, "set_attn_implementation"):
            eager.set_attn_implementation("eager")
        with torch.no_grad():
            result = eager(trial.ids, use_cache=False, output_attentions=True)
    except Exception as error:  # the copy's, not the model's
        return _not_made(f"a copy with eager attention does not run: {said(error)}")
    if not relative_error(result.logits, trial.base.logits) <= 10 * trial.tolerance:
        return _not_made("its own eager attention gives other logits")
    shown = [seen for seen in result.attentions or () if isinstance(seen, Tensor) and seen.ndim == 4]
    layers = trial.layers("pattern")
    if len(shown) != len(layers):
        return _not_made(f"eager shows {len(shown)} patterns for {len(layers)} layers")
    errors = {
        layer: float((trial.base["pattern", layer].float() - pattern.float()).abs().max())
        for layer, pattern in zip(layers, shown, strict=True)
        if pattern.shape == trial.base["pattern", layer].shape
    }
    return trial.verdict(errors, refuses=("pattern",))


def _z_is_pattern_times_v(trial: Trial) -> Check:
    """The kernel's output is the pattern that we read, times the values."""
    errors: dict[int, float] = {}

    class Compare:
        def read(self, call: AttentionCall, rows: slice) -> None:
            values = call.v.repeat_interleave(call.pattern().shape[1] // call.v.shape[1], dim=1)
            mixed = (call.pattern().to(values.dtype) @ values).transpose(1, 2)
            errors[call.layer] = relative_error(mixed, call.out)

    trial.model.read(trial.prompts, [Compare()])
    return trial.verdict(errors)


def _z_enters_projection(trial: Trial) -> Check:
    """A module was found that takes all heads' outputs."""
    layers = trial.model.anatomy.layers
    missing = tuple(i for i in trial.model.anatomy.attending if layers[i].projection is None)
    gated = sum(layer.gated for layer in layers)
    detail = f"a gate or norm stands before it in {gated} layers" if gated else ""
    if missing:
        detail = "no module was found that takes all heads' outputs"
    return Check("", not missing, layers=missing, detail=detail)


def _heads_sum(trial: Trial) -> Check:
    """Every head through its slice of W_O, plus the bias, is the projection's output."""
    errors = {}
    for layer in trial.layers("z"):
        projection = trial.model.anatomy.layers[layer].projection
        assert projection is not None
        z = trial.base["z", layer]
        with torch.no_grad():
            whole = projection(z.flatten(2))
            bias = projection(torch.zeros_like(z[:1, :1].flatten(2)))
        errors[layer] = relative_error(trial.base["head_out", layer].sum(2) + bias, whole)
    apart = sum(not layer.writes_heads for layer in trial.model.anatomy.layers if layer.attention_term)
    what = f"a norm or scale stands between that and attn_out in {apart} layers: heads do not sum to attn_out there"
    return trial.verdict(errors, detail=what if apart else "")


def _zero_head(trial: Trial) -> Check:
    """A head zeroed at z gives the logits of a projection with zeros for its columns, and of a kernel that gives 0.

    The one shows that nothing else of the projection reads the head, the other that nothing beside it does.
    """
    errors: dict[int, float] = {}
    unread = ""
    for layer in trial.sampled("z"):
        anatomy = trial.model.anatomy.layers[layer]
        expected = [] if anatomy.gated or (anatomy.inline and not anatomy.fused) else [trial.silenced(layer)]
        try:
            expected.append(_without_columns(trial, layer))
        except Exception as error:  # of the changed copy, not of the model
            unread = f"no columns to zero in a {type(anatomy.projection).__name__}: {said(error)}"
        if not expected:
            return _not_made(unread)
        ablated = trial.edited(Single(SiteEdit("z", layer, trial.zero_head(layer))))
        errors[layer] = max(relative_error(ablated, ending) for ending in expected)
    return trial.verdict(errors, detail=unread)


def _to_bos(trial: Trial) -> Check:
    """Redirecting a head to the first token gives the logits of the pattern rewritten by hand."""
    layers = trial.sampled("pattern")
    return trial.verdict({layer: relative_error(trial.redirected(layer), trial.rewritten(layer)) for layer in layers})


def _residual_chain(trial: Trial) -> Check:
    """A layer's output is the next one's input, and the sum of its parts where those were found."""
    base, layers = trial.base, trial.model.anatomy.layers
    errors = {}
    for index, layer in enumerate(layers):
        after = base["resid_post", index]
        worst = relative_error(base["resid_pre", index + 1], after) if index + 1 < len(layers) else 0.0
        if layer.carry is not None and layer.attention_term is not None and layer.complete:
            total = layer.carry * base["resid_pre", index] + base["attn_out", index]
            if layer.mlp_term is not None:
                total = total + base["mlp_out", index]
            worst = max(worst, relative_error(total, after))
        errors[index] = worst
    attending = [layer for layer in layers if layer.attention is not None]
    unsolved = sum(not (layer.attention_term and layer.complete) for layer in attending)
    detail = f"{unsolved} of {len(attending)} layers with attention are no plain sum with it" if unsolved else ""
    return trial.verdict(errors, detail=detail)


def _resid_mid(trial: Trial) -> Check:
    """What is written between attention and MLP reaches both the MLP and the skip path."""
    errors = {}
    for layer in trial.sampled("resid_mid"):
        noise = trial.noise_like(trial.base["resid_mid", layer])
        edit = SiteEdit("resid_mid", layer, lambda value, _, noise=noise: noise.to(value))  # type: ignore[misc]
        around = [(site, layer) for site in ("resid_mid", "mlp_out", "resid_post")]
        made = trial.model.activations(trial.prompts, around, interventions=Single(edit))
        middle, added, after = (made[place] for place in around)
        errors[layer] = max(relative_error(middle, noise), relative_error(after, middle + added))
    return trial.verdict(errors) if errors else _skipped("no layer has a residual stream between attention and MLP")


def _edits_bite(site: str, trial: Trial) -> Check:
    """Writing back what is there changes nothing; writing something else changes what leaves the layer.

    Only writing depends on it: what is read there is held to properties of its own. Where the projection ignores the
    heads (its weights are 0), that nothing changes is right, and no fault.
    """
    layers = trial.layers(site)
    if not layers:
        return _skipped("no layer has it")
    back = [Single(SiteEdit(site, layer, lambda value, _: value.clone())) for layer in layers]
    worst = relative_error(trial.edited(back), trial.ending)
    sampled = trial.sampled(site)
    mute = [layer for layer in sampled if site in HEAD_SITES and _ignores_heads(trial, layer)]
    dull = [layer for layer in sampled if layer not in mute and not trial.is_moved(site, layer)]
    found = [f"it has no effect in layers {dull}"] if dull else []
    found += [f"it rightly has no effect in layers {mute}, whose projection ignores the heads"] if mute else []
    passed = not dull and worst <= trial.tolerance
    return Check("", passed, worst, trial.tolerance, tuple(dull), detail="; ".join(found))


def _ignores_heads(trial: Trial, layer: int) -> bool:
    """Whether what a layer's output projection gives does not depend on what it is given."""
    projection = trial.model.anatomy.layers[layer].projection
    if projection is None or layer not in trial.layers("z"):
        return False
    z = trial.base["z", layer]
    with torch.no_grad():
        return torch.equal(projection(z.flatten(2)), projection(trial.noise_like(z).to(z).flatten(2)))


def _padding_right(trial: Trial) -> Check:
    """A shorter example in a padded batch gives what it gives alone."""
    long, short = trial.prompts.tokens[0], trial.prompts.tokens[1][:-5]
    both, alone = trial.model.run([long, short]), trial.model.run([short])
    worst = relative_error(both.logits[1, : len(short)], alone.logits[0])
    return Check("", worst <= trial.tolerance, worst, trial.tolerance)


def _padding_left(trial: Trial) -> Check:
    """Generated in a left-padded batch, an example continues as it does alone: logits first, then tokens."""
    long, short = trial.prompts.tokens[0], trial.prompts.tokens[1][:-5]
    first = trial.first_logits([long, short])
    worst = max(relative_error(first[row], trial.first_logits([one])[0]) for row, one in enumerate((long, short)))
    together = trial.generated([long, short])
    same = all(together[row] == trial.generated([one])[0] for row, one in enumerate((long, short)))
    detail = "" if same else "other tokens are generated"
    return Check("", same and worst <= trial.tolerance, worst, trial.tolerance, detail=detail)


def _generation(trial: Trial) -> Check:
    """Cached generation under an edit is what recomputing everything at each step gives."""
    layers = trial.sampled("z")
    if not layers:
        return _skipped("no head can be ablated")
    edits = [Single(SiteEdit("z", layers[0], trial.zero_head(layers[0])))]
    prompt = trial.prompts.rows(slice(0, 1))
    tokens = trial.generated(prompt, edits)[0]
    grown = Prompts.of([prompt.tokens[0] + tokens])
    logits = trial.model.run(grown, interventions=edits).logits[0, prompt.longest - 1 : -1].float().clone()
    logits[:, end_tokens(trial.model.hf)] = logits.min()  # `generated` forbids them
    chosen = logits.gather(-1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0]
    # Within rounding of the best: two tokens may tie in half precision.
    short = float(((logits.max(-1).values - chosen) / logits.abs().max()).max())
    return Check("", short <= trial.tolerance, short, trial.tolerance)


def _without_columns(trial: Trial, layer: int) -> Tensor:
    """The ending with a copy of the output projection to which the head on trial contributes nothing.

    Raises:
        TypeError: if the projection is not known to keep columns; or whatever a copy of its weights raises.
    """
    model, anatomy = trial.model, trial.model.anatomy.layers[layer]
    weight = getattr(anatomy.projection, "weight", None)
    if not isinstance(weight, Tensor) or weight.is_meta or not weight.is_floating_point():
        raise TypeError("its weight is not at hand")
    copied: Any = copy.deepcopy(anatomy.projection)
    assigned = vars(copied).get("forward")
    if assigned is not None and assigned is vars(anatomy.projection).get("forward"):
        raise TypeError("a copy keeps the forward that was assigned to the original")
    part = slice(trial.head(layer) * anatomy.head_dim, (trial.head(layer) + 1) * anatomy.head_dim)
    with torch.no_grad():
        if isinstance(copied, nn.Linear):
            copied.weight[:, part] = 0
        elif type(copied).__name__ == "Conv1D":
            copied.weight[part] = 0
        else:
            raise TypeError("it is neither a Linear nor a Conv1D")
    assert anatomy.projection is not None
    with torch.no_grad(), replaced(model.hf, [(anatomy.projection, copied)]):
        return trial.run_body()


# In the order in which they are proved: what one refuses the next must not lean on.
PROPERTIES = (
    Property("logits_identical", _logits_identical, ("everything",)),
    Property("is_causal", _is_causal, (NEXT_TOKEN_LOSS, "generation")),
    Property("pattern_rows", _pattern_rows, ("pattern", "to_bos")),
    Property("pattern_eager", _pattern_eager, ("pattern",)),
    Property("z_is_pattern_times_v", _z_is_pattern_times_v, ("pattern", "to_bos")),
    Property("z_enters_projection", _z_enters_projection, ("z", "head_out")),
    Property("heads_sum", _heads_sum, ("head_out",), ("z",)),
    Property("zero_head", _zero_head, ("z", "head_out")),
    Property("to_bos", _to_bos, ("to_bos",), ("pattern",)),
    Property("residual_chain", _residual_chain, ("attn_out", "mlp_out", "resid_mid")),
    Property("resid_mid", _resid_mid, ("resid_mid",)),
    *(Property(f"edits_of_{site}_bite", partial(_edits_bite, site), (writing(site),), (site,)) for site in SITES),
    Property("padding_right", _padding_right, ("prompts of unequal length",)),
    Property("padding_left", _padding_left, ("generation in batches of unequal length",)),
    Property("generation", _generation, ("generation",), ("z", writing("z"))),
)
