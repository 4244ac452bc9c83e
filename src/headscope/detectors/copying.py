"""Does a head write what it attends to? The sign that tells induction heads from heads that only look like them.

In: a model, prompts, and the keys that count for each query (detectors.pairs). Out: per prompt and head the *signed
raise*: the direct effect of the head's output on the logit of the token at those keys, minus that on the other tokens
seen so far, in logits; and, of heads that have the pattern of an induction head, which kind they are. Neutral is 0,
also for a head that raises all tokens of the prompt alike. A head that attends like an induction head and lowers what
it attends to is an *anti-induction* (copy-suppressing) head; one that writes neither way is *pattern only*.

The sign is that of the direct path to the logits, in context: what a head tells later heads is not in it. Olsson et
al. (2022) rectify the raise, which hides suppression; the eigenvalues of Elhage et al. (2021) leave out where a head
attends. Not done here: attention (detectors.reading), what ablating the head costs.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import polars as pl
import torch
from torch import Tensor

from headscope.detectors.pairs import KeySets
from headscope.detectors.reading import Sight, mean_where
from headscope.detectors.scores import NAMED_MARGIN
from headscope.measures.direct_effect import effect_of_heads_logits
from headscope.measures.samples import Samples, over_heads
from headscope.measures.simultaneous import MIN_UNITS_TOGETHER
from headscope.models.direct_paths import DirectPaths, sites
from headscope.models.kept import kept
from headscope.models.model import Model
from headscope.models.norms import FrozenNorm
from headscope.models.protocols import Edit
from headscope.models.run import Run
from headscope.tables import Column, Quantity
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Progress, silent

COPYING = Quantity(
    "copying",
    "direct effect on the logit of the token attended to, minus that on other tokens of the prompt",
    "logits",
)
COPYING_MARGIN = 0.1  # logits; a head that writes less, either way, writes nothing
INDUCTION, ANTI_INDUCTION, PATTERN_ONLY, SIGN_UNCLEAR = "induction", "anti-induction", "pattern only", "sign unclear"
NOTHING_READ: dict[str, float | str] = {
    "copying": math.nan,
    "copying_low": math.nan,
    "copying_high": math.nan,
    "kind": SIGN_UNCLEAR,
}
_STAGE = "reading what heads write"
_ALL = "95% bound of it, two-sided, for all heads at once"
COLUMNS = (
    Column("copying", pl.Float64, f"{COPYING.meaning}; of the detector induction alone", COPYING.unit),
    Column("copying_low", pl.Float64, f"lower {_ALL}", COPYING.unit),
    Column("copying_high", pl.Float64, f"upper {_ALL}", COPYING.unit),
    Column(
        "kind",
        pl.String,
        "what a named head is: the detector's name; with the pattern of induction, by the bounds of copying: "
        "induction, anti-induction, pattern only (writes nothing), or sign unclear",
    ),
)


def copying(
    model: Model, shown: Prompts, keys: KeySets, *, interventions: Sequence[Edit] = (), progress: Progress = silent
) -> Samples:
    """Signed raise of heads [prompt, (layer, head)], over queries whose keys all hold one token.

    Keys outside the window of a layer do not count there. Layers that judge too few prompts for bounds are left out
    where others judge enough, then prompts without such a query in one of the others.

    Raises:
        UnservedModel: if something stands between residual stream and unembedding that is no norm.
    """
    model.require_direct_effects()
    progress(_STAGE, 0, len(shown))
    tokens = attended_tokens(shown, keys.pairs)
    judged = _judged(model, shown, keys, tokens)
    each = 8 * shown.longest * model.d_model * (model.n_layers + 4)
    parts = []
    for chosen in model.batches(len(shown), bytes_each=each):
        edits = [edit.rows(chosen) for edit in interventions]
        rows = shown.rows(chosen)
        some = {layer: queries[chosen, : rows.longest] for layer, queries in judged.items()}
        own = tokens[chosen, : rows.longest]
        make = partial(_raises, model, rows, own, some, edits)
        parts += kept("copying", model, (rows, own, some, edits), make)
        progress(_STAGE, chosen.stop, len(shown))
    enough = [layer for layer, queries in judged.items() if int(queries.any(1).sum()) >= MIN_UNITS_TOGETHER]
    layers = enough or list(judged)
    heads = [head for head in model.heads if head.layer in layers]
    values = torch.cat(parts).double().numpy()[:, [head.layer in layers for head in model.heads]]
    whole = ~np.isnan(values).any(1)
    return over_heads(COPYING, heads, values[whole], units=tuple(np.flatnonzero(whole).tolist()))


def kinds(above: Samples, raised: Samples | None) -> dict[str, str]:
    """Which kind the heads are that have the pattern, by name, in the order of `above`.

    `above` is their attention beyond the null, `raised` the signed raise; both bounds hold for all heads at once.
    """
    patterned = above.named(above=NAMED_MARGIN).coordinates("head") if len(above) else ()
    told = written(raised)
    return {head: str(told.get(head, NOTHING_READ)["kind"]) for head in patterned}


def written(raised: Samples | None) -> dict[object, dict[str, float | str]]:
    """Signed raise, bounds and kind of every head, as columns of a table: what each is if it has the pattern."""
    if raised is None or not raised.units:  # or no window reaches back to an earlier copy
        return {}
    bounds = raised.together()
    told = zip(bounds.mean.tolist(), bounds.low.tolist(), bounds.high.tolist(), strict=True)
    return {
        head: dict(zip(NOTHING_READ, (mean, low, high, _kind(low, high)), strict=True))
        for head, (mean, low, high) in zip(raised.coordinates("head"), told, strict=True)
    }


def _kind(low: float, high: float) -> str:
    if low > COPYING_MARGIN:
        return INDUCTION
    if high < -COPYING_MARGIN:
        return ANTI_INDUCTION
    return PATTERN_ONLY if low > -COPYING_MARGIN and high < COPYING_MARGIN else SIGN_UNCLEAR


def attended_tokens(shown: Prompts, pairs: Tensor) -> Tensor:
    """The token at each query's last key, [batch, query]: a window that leaves any of the keys leaves that one."""
    latest = torch.where(pairs, torch.arange(shown.longest), 0).amax(-1)
    return shown.ids.gather(1, latest)


def _judged(model: Model, shown: Prompts, keys: KeySets, tokens: Tensor) -> dict[int, Tensor]:
    """By layer, the queries [batch, query] that see some of their keys, all of which hold their token."""
    sight = Sight()
    longest = shown.lengths.index(shown.longest)  # causality and windows are those of every prompt
    model.read(shown.rows([longest]), [sight])
    other = shown.ids[:, None] != tokens[..., None]
    seen = {index: sight.visible[index] for index, each in enumerate(model.anatomy.layers) if each.heads}
    judged: dict[int, Tensor] = {}
    for layer, visible in seen.items():
        alike = next((past for past in judged if torch.equal(seen[past], visible)), None)
        if alike is None:
            pairs = keys.pairs & visible
            judged[layer] = keys.queries & pairs.any(-1) & ~(pairs & other).any(-1)
        else:
            judged[layer] = judged[alike]
    return judged


def _raises(
    model: Model, shown: Prompts, tokens: Tensor, judged: Mapping[int, Tensor], edits: Sequence[Edit]
) -> list[Tensor]:
    """One of [prompt, head]; NaN where no query is judged in the layer of the head."""
    # Logits are not asked for: in a small model with a large vocabulary they cost more than all else.
    captured = model.activations(shown, sites(model, mlps=False), interventions=edits)
    run = Run(model, shown, tuple(edits), torch.empty(0), captured)
    towards = partial(_copy_direction, unembedding=model.unembedding_matrix(), shown=shown, tokens=tokens)
    paths, columns = DirectPaths.of(run, towards), []
    with torch.no_grad():
        for layer, queries in judged.items():
            z, matrix = run["z", layer].nan_to_num(), model.output_matrix(layer)
            raised = effect_of_heads_logits(z, matrix, paths.to_heads(model, layer)).movedim(-1, 1).double().cpu()
            columns.append(mean_where(raised, queries[:, None].expand_as(raised)))
    return [torch.cat(columns, 1)]


def _copy_direction(final: FrozenNorm, unembedding: Tensor, shown: Prompts, tokens: Tensor) -> Tensor:
    """Towards each query's token and away from the mean of the other tokens up to it, [batch, query, model]."""
    device = unembedding.device
    ids, weights = shown.ids.to(device), unembedding.to(final.gain)
    earlier = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=device).tril(-1)
    new = shown.real.to(device) & ~((ids[:, :, None] == ids[:, None]) & earlier).any(-1)
    own = weights[tokens.to(device)]
    seen = (weights[ids] * new[..., None]).cumsum(1)
    others = (seen - own) / (new.cumsum(1) - 1).clamp(min=1)[..., None]
    return final.pull_back(own - others)
