"""Residual streams at the final token under several ablations there, each resumed from one run of the whole prompt.

In: a model, prompts, sets of interventions. Out: for each set a run that holds the final token's residual stream
before every layer and after the last, as if that token were all of the prompt: to patch from. What is edited at the
final token alone changes nothing before it, so that of each set only that token is computed again, from the first
edited layer on. Where that cannot be (positions before it, prompts of different lengths, models whose layers cannot
be called one by one), or where two prompts show another stream than a full pass does, every set is a full pass.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from headscope.hashing import digest
from headscope.models.anatomy import TOLERANCE
from headscope.models.baserun import BaseRun, Needs, base_run
from headscope.models.execution import edited
from headscope.models.model import Model
from headscope.models.protocols import Edit, SiteEdit
from headscope.models.replay import Replay
from headscope.models.run import Run
from headscope.models.stacked import Block, stacked
from headscope.sweeps.entry_streams import EntryStreams
from headscope.sweeps.execute import refusal, traits_of
from headscope.sweeps.sweep import recomputes
from headscope.tasks.prompts import Prompts

Site = tuple[str, int]
_CHECKED = 2  # prompts that are run both ways
_FEWEST = 2  # sets for which a run of its own would not pay


def residual_sites(model: Model) -> list[Site]:
    """The residual stream before every layer, and after the last.

    Raises:
        UnservedSite: if the model does not serve one of them.
    """
    sites = [*(("resid_pre", layer) for layer in range(model.n_layers)), ("resid_post", model.n_layers - 1)]
    for site, layer in sites:
        model.require_site(site, layer)
    return sites


def final_token_runs(model: Model, prompts: Prompts, sets: Sequence[Sequence[Edit]]) -> list[Run]:
    """The final token's residual streams under each set of interventions, in order."""
    if len(sets) < _FEWEST or not _resumable(model, prompts, sets):
        return [final_token_run(model, prompts, edits) for edits in sets]
    parts: list[list[dict[Site, Tensor]]] = [[] for _ in sets]
    for rows in _batches(model, prompts):
        some = prompts.rows(rows)
        replay, base = _base(model, some)
        for edits, part in zip(sets, parts, strict=True):
            with model.batch_rows(rows):
                part.append(_resumed(model, replay, base, some, [edit.rows(rows) for edit in edits]))
    return [_as_run(model, prompts, edits, part) for edits, part in zip(sets, parts, strict=True)]


def final_token_run(model: Model, prompts: Prompts, edits: Sequence[Edit] = ()) -> Run:
    """The same of one set, by full passes: the reference."""
    sites = residual_sites(model)
    parts: list[dict[Site, Tensor]] = []
    for rows in _batches(model, prompts):
        some = prompts.rows(rows)
        with model.batch_rows(rows):
            streams = model.activations(some, sites, interventions=[edit.rows(rows) for edit in edits])
        last = torch.tensor(some.lengths) - 1
        parts.append({site: streams[site][torch.arange(len(some)), last][:, None] for site in sites})
    return _as_run(model, prompts, edits, parts)


def _batches(model: Model, prompts: Prompts) -> Sequence[slice]:
    kept_bytes = 4 * prompts.longest * (model.n_layers + 1) * model.d_model
    return list(model.batches(len(prompts), bytes_each=kept_bytes))


def _as_run(model: Model, prompts: Prompts, edits: Sequence[Edit], parts: Sequence[dict[Site, Tensor]]) -> Run:
    captured = {site: torch.cat([part[site] for part in parts]) for site in parts[0]}
    # They are told from others by all of their tokens, not by the last alone.
    made_by = {"task": "final token", "of": digest(prompts)}
    tokens = Prompts(tuple((example[-1],) for example in prompts.tokens), made_by=made_by)
    return Run(model, tokens, tuple(edits), torch.empty(len(prompts), 1, 0), captured)


def _resumable(model: Model, prompts: Prompts, sets: Sequence[Sequence[Edit]]) -> bool:
    """Whether the final token can be computed alone, and is what a full pass makes it, on the first prompts."""
    every = [edit for edits in sets for edit in edits]
    alone = all(edit.footprint().positions.indices == (-1,) for edit in every)
    if not alone or prompts.ragged or prompts.longest < 2 or refusal(model) or any(map(recomputes, every)):
        return False
    rows = slice(0, _CHECKED)
    few, own = prompts.rows(rows), [edit.rows(rows) for edit in max(sets, key=len)]
    if model.active_edits or not traits_of(model).positions or not _of_heads(model, few, own):
        return False

    def agrees() -> bool:
        with model.batch_rows(rows):
            expected = final_token_run(model, few, own).captured
            got = _resumed(model, *_base(model, few), few, own)
        worst = max(float((got[site] - value).norm() / value.norm()) for site, value in expected.items())
        return worst <= 10 * TOLERANCE.get(model.dtype, 1.5e-2)

    return bool(model.cached(f"final token resumed, {prompts.longest} tokens", agrees))


def _of_heads(model: Model, prompts: Prompts, edits: Sequence[Edit]) -> bool:
    """Whether they change the outputs of heads alone, within a layer."""
    return all(isinstance(each, SiteEdit) and each.site == "z" for each in model.prepare(prompts, edits)[0])


def _base(model: Model, prompts: Prompts) -> tuple[Replay, BaseRun]:
    """One run of the prompts with nothing edited."""
    replay = Replay(model.hf, model.anatomy)
    with replay.running():
        needs = Needs(frozenset(range(model.n_layers)))
        return replay, base_run(replay, prompts, model.device, (), needs, prompts.longest)


def _resumed(
    model: Model, replay: Replay, base: BaseRun, prompts: Prompts, edits: Sequence[Edit]
) -> dict[Site, Tensor]:
    """The streams [prompt, 1, model] by site under edits of the final token."""
    changes, _ = model.prepare(prompts, edits)
    entries, stop, layers = EntryStreams(replay, base, {}), base.stop, model.n_layers
    streams = {layer: base.stream[layer][:, -1:] for layer in range(layers + 1)}
    with replay.running():
        for layer in range(min((change.layer for change in changes), default=layers), layers):
            own = [change for change in changes if change.layer == layer]
            rows, past = streams[layer], base.past(layer, stop - 1)
            replay.arguments(rows, stop - 1, stop)  # now, while nothing is edited
            block = Block(slice(0, len(prompts)), own, entries.layout(stop - 1, stop))
            layout = entries.layout(stop - 1, stop)
            with edited(replay.hf, replay.anatomy, layout, edits=stacked([block] if own else [])):
                streams[layer + 1] = replay.step(layer, rows, stop - 1, past)
    names = [(("resid_post", layers - 1) if layer == layers else ("resid_pre", layer), layer) for layer in streams]
    return {site: streams[layer].clone() for site, layer in names}
