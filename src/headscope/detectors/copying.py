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
from collections.abc import Sequence
from functools import partial

import numpy as np
import polars as pl
import torch
from torch import Tensor

from headscope.detectors.pairs import KeySets
from headscope.detectors.reading import mean_where
from headscope.detectors.scores import NAMED_MARGIN
from headscope.measures.direct_effect import effect_of_heads_logits
from headscope.measures.samples import Samples, over_heads
from headscope.models.direct_paths import DirectPaths, sites
from headscope.models.model import Model
from headscope.models.norms import FrozenNorm
from headscope.models.protocols import Edit
from headscope.tables import Column, Quantity
from headscope.tasks.prompts import Prompts

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


def copying(model: Model, shown: Prompts, keys: KeySets, *, interventions: Sequence[Edit] = ()) -> Samples:
    """Signed raise of every head [prompt, (layer, head)], over queries whose keys all hold one token.

    Prompts without such a query are left out.

    Raises:
        UnservedModel: if something stands between residual stream and unembedding that is no norm.
    """
    model.require_direct_effects()
    tokens, judged = attended_tokens(shown, keys)
    each = 8 * shown.longest * model.d_model * (model.n_layers + 4)
    parts = []
    for chosen in model.batches(len(shown), bytes_each=each):
        edits = [edit.rows(chosen) for edit in interventions]
        parts.append(_raises(model, shown.rows(chosen), tokens[chosen], judged[chosen], edits))
    values = torch.cat(parts).double().numpy()
    kept = ~np.isnan(values).any(1)
    return over_heads(COPYING, model.heads, values[kept], units=tuple(np.flatnonzero(kept).tolist()))


def kinds(above: Samples, raised: Samples | None) -> dict[str, str]:
    """Which kind the heads are that have the pattern, by name, in the order of `above`.

    `above` is their attention beyond the null, `raised` the signed raise; both bounds hold for all heads at once.
    """
    patterned = above.named(above=NAMED_MARGIN).coordinates("head") if len(above) else ()
    told = written(raised)
    return {head: str(told.get(head, NOTHING_READ)["kind"]) for head in patterned}


def written(raised: Samples | None) -> dict[object, dict[str, float | str]]:
    """Signed raise, bounds and kind of every head, as columns of a table: what each is if it has the pattern."""
    if raised is None:
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


def attended_tokens(shown: Prompts, keys: KeySets) -> tuple[Tensor, Tensor]:
    """The token at each query's keys [batch, query], and for which queries all of its keys hold that one."""
    places = torch.arange(shown.longest)
    latest = torch.where(keys.pairs, places, 0).amax(-1)
    tokens = shown.ids.gather(1, latest)
    alike = ((shown.ids[:, None] == tokens[..., None]) | ~keys.pairs).all(-1)
    return tokens, keys.queries & alike


def _raises(model: Model, shown: Prompts, tokens: Tensor, judged: Tensor, edits: Sequence[Edit]) -> Tensor:
    """[prompt, head]; NaN where no query is judged."""
    run = model.run(shown, interventions=edits, capture=sites(model, mlps=False))
    towards = partial(_copy_direction, unembedding=model.unembedding_matrix(), shown=shown, tokens=tokens)
    paths, columns = DirectPaths.of(run, towards), []
    with torch.inference_mode():
        for layer in (index for index, each in enumerate(model.anatomy.layers) if each.heads):
            z, matrix = run["z", layer].nan_to_num(), model.output_matrix(layer)
            columns.append(effect_of_heads_logits(z, matrix, paths.to_heads(model, layer)))
        raised = torch.cat(columns, -1).movedim(-1, 1).double().cpu()
        return mean_where(raised, judged[:, None].expand_as(raised))


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
