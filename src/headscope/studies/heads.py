"""The main study: which heads a model has, what each does for it, and who takes over when one is cut.

In: any model. Out: a Study with the detector table of all heads; the damage of every head's ablation, and
of named groups against as many random heads; a clean-to-corrupted patch of the stream over layer and
position; and direct effects before and after a cut. Heads are *selected* on one half of the prompts and
*estimated* on the other, so that picking the largest does not flatter it. Sources: Olsson et al. 2022
(detectors), Wang et al. 2023 (patching), McGrath et al. 2023 (self-repair).
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headscope.detectors import DetectorPrompts, check_sizes, default_prompts, detect
from headscope.detectors.catalogue import DEFAULT
from headscope.errors import BadArgument, UnservedModel
from headscope.interventions import mean, patch, to_bos, zero
from headscope.interventions.base import Intervention
from headscope.measures import MIN_UNITS, logit_difference, loss, next_logit
from headscope.measures.estimates import estimated
from headscope.models.model import Model
from headscope.results.example import attention_example
from headscope.results.provenance import provenance
from headscope.results.study import AttentionExample, Study
from headscope.studies.heads_parts import claims as heads_claims
from headscope.studies.heads_parts import figures as heads_figures
from headscope.studies.heads_parts import notes as heads_notes
from headscope.studies.heads_parts import tables
from headscope.studies.heads_parts.redundancy import stand_ins
from headscope.sweeps import Cell, each_head, evaluate
from headscope.sweeps.cell_values import cell_values, damages
from headscope.sweeps.controls import Control, against_random_sets
from headscope.sweeps.self_repair import direct_effects
from headscope.tables import Table
from headscope.tasks.prompts import Prompts
from headscope.tasks.repeated import induction_pairs
from headscope.tasks.split import halves
from headscope.tasks.text import read_text
from headscope.vocabulary import Head, staged

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Config:
    """What can be chosen; the command's options and help come from these fields."""

    n: int = field(default=50, metadata={"help": "prompts for estimates (as many again select heads)"})
    seed: int = field(default=0, metadata={"help": "seed of everything random"})
    text: Path | None = field(default=None, metadata={"help": "UTF-8 file of real text for text detectors"})
    length: int = field(default=25, metadata={"help": "tokens of the segment that is repeated"})
    repeats: int = field(default=4, metadata={"help": "times it is shown"})
    gap: int = field(default=0, metadata={"help": "up to so many other tokens before each repeat"})
    random_sets: int = field(default=20, metadata={"help": "random sets of heads beside each group"})
    cuts: int = field(default=3, metadata={"help": "heads whose loss is followed through the model"})

    def __post_init__(self) -> None:
        if self.text is not None:
            object.__setattr__(self, "text", Path(self.text))
        check_sizes("study heads", n=self.n, seed=self.seed)
        for name, fewest in (("length", 2), ("repeats", 2), ("gap", 0), ("random_sets", 1), ("cuts", 1)):
            if getattr(self, name) < fewest:
                raise BadArgument(
                    f"cannot study heads with {name}={getattr(self, name)}: it must be at least {fewest}."
                )

    def quick(self) -> "Config":
        """Smaller, for a first look; what was chosen stays as chosen."""
        smaller: dict[str, Any] = {"n": 12, "random_sets": 8, "cuts": 2}
        untouched = [f.name for f in fields(self) if getattr(self, f.name) == f.default]
        return replace(self, **{name: value for name, value in smaller.items() if name in untouched})


@dataclass(frozen=True)
class Named:
    """Heads named on the selection prompts, by detector, most strongly first."""

    by_detector: dict[str, tuple[Head, ...]]

    def of(self, detector: str) -> tuple[Head, ...]:
        return self.by_detector.get(detector, ())

    def labels(self) -> dict[str, str]:
        """What each head was named, by its written form."""
        found: dict[str, str] = {}
        for detector, heads in self.by_detector.items():
            word = detector.replace("_", " ")
            for head in heads:
                found[str(head)] = f"{found[str(head)]}, {word}" if str(head) in found else word
        return found


def run(config: Config, model: Model, progress: Progress = lambda stage, done, of: None) -> Study:
    """Which heads are there, what do they do for the model, and who takes over?"""
    everything = prompts_for(config, model)
    selection, prompts = halves(everything)
    progress("detecting heads", 0, 1)
    named = name_heads(detect(model, DEFAULT, prompts=selection))
    heads = detect(model, DEFAULT, prompts=prompts)

    reference = selection.unrepeated
    damage = damage_of_heads(model, prompts, reference, progress)
    order = order_by_damage(model, selection, reference, progress)
    groups = damage_of_groups(config, model, prompts.repeated, reference, named, progress)
    cumulative = cut_one_by_one(model, prompts.repeated, reference, named, order, progress)
    induction = [head for head in order if head in named.of("induction")]
    sets = stand_ins(model, prompts.repeated, reference, induction, progress)
    patching_selection, patching = patch_stream(config, model, progress)
    cuts = heads_to_cut(config, named, order)
    takeover, self_repair = follow_cuts(model, selection.repeated, prompts.repeated, cuts, progress)

    found = {
        "heads": heads,
        "damage": damage,
        "groups": groups,
        "cumulative": cumulative,
        **sets,
        "patching_selection": patching_selection,
        "patching": patching,
        **takeover,
        "self_repair": self_repair,
    }
    claims = heads_claims.all_claims(found, named.by_detector)
    return Study(
        name="heads",
        title=f"Attention heads of {model.name}",
        question="Which heads does this model have, what does each do for it, and who takes over when one is cut?",
        answer=heads_claims.summary(model, found, named.by_detector, claims, order[0]),
        claims=claims,
        tables=found,
        figures=heads_figures.all_figures(found, model),
        attention=(example_of(model, prompts.repeated, named),),
        notes=(
            *heads_notes.notes(model, everything, config.n, config.gap),
            *filter(None, [unserved_direct_effects(model)]),
        ),
        provenance=provenance(model, "heads", config, everything.natural, everything.repeated),
    )


def prompts_for(config: Config, model: Model) -> DetectorPrompts:
    """Twice `n` prompts of each kind: those of even number select heads, the others estimate."""
    return default_prompts(
        model,
        n=2 * config.n,
        seed=config.seed,
        text=None if config.text is None else read_text(config.text),
        named="a given text" if config.text is None else config.text.name,
        length=config.length,
        repeats=config.repeats,
        gaps=(0, config.gap),
        fewest=2 * MIN_UNITS,
    )


def name_heads(table: Table) -> Named:
    """The heads that the table names, by detector in the order of the catalogue."""
    found: dict[str, tuple[Head, ...]] = {}
    for detector in DEFAULT:
        rows = table.where(named=True, detector=detector).sorted("above_null_low", descending=True).rows()
        if rows:
            found[detector] = tuple(Head.parse(row["head"]) for row in rows)
    return Named(found)


def damage_of_heads(model: Model, prompts: DetectorPrompts, reference: Prompts, progress: Progress) -> Table:
    """Loss with each head cut in three ways, and on natural prompts by its mean."""
    cells: list[tuple[str, str, Prompts, Intervention]] = [
        ("mean", "repeated", prompts.repeated, mean("z", over=reference)),
        ("zero", "repeated", prompts.repeated, zero("z")),
        ("to_bos", "repeated", prompts.repeated, to_bos("z")),
        ("mean", "natural", prompts.natural, mean("z", over=reference)),
    ]
    rows = []
    for ablation, kind, shown, cut in cells:
        measure = loss("predictable" if kind == "repeated" else "all")
        stage = staged(progress, f"cutting heads ({ablation}, {kind})")
        harm = damages(model, shown, each_head(cut, model.heads), measure, progress=stage)
        for head, damage in zip(model.heads, harm, strict=True):
            rows.append(tables.damage_row(head, ablation, kind, damage))
    return tables.DAMAGE.table(rows)


def order_by_damage(
    model: Model, selection: DetectorPrompts, reference: Prompts, progress: Progress
) -> list[Head]:
    """Heads by damage of their mean ablation on the selection prompts, worst first."""
    cells = each_head(mean("z", over=reference), model.heads)
    stage = staged(progress, "selecting heads")
    harm = damages(model, selection.repeated, cells, loss("predictable"), progress=stage)
    damage = dict(zip(model.heads, harm.mean(1).tolist(), strict=True))
    return sorted(damage, key=lambda head: -damage[head])


def damage_of_groups(
    config: Config, model: Model, shown: Prompts, reference: Prompts, named: Named, progress: Progress
) -> Table:
    """Each named group cut together, against random sets of the same size."""
    found = against_random_sets(
        model,
        shown,
        named.by_detector,
        ablation=mean("z", over=reference),
        measure=loss("predictable"),
        control=Control(config.random_sets, config.seed),
        progress=staged(progress, "random heads beside named ones"),
    )
    return tables.GROUPS.table(tables.group_row(group, beside) for group, beside in found.items())


def cut_one_by_one(
    model: Model, shown: Prompts, reference: Prompts, named: Named, order: Sequence[Head], progress: Progress
) -> Table:
    """Induction heads cut cumulatively, worst first, beside the sum of their single cuts."""
    induction = [head for head in order if head in named.of("induction")][:12]
    measures = [loss("predictable"), next_logit("predictable")]
    clean = evaluate(model, shown, measures)

    def damage(heads: Sequence[Head]) -> list[Tensor]:
        edited = evaluate(model, shown, measures, [mean(heads, over=reference)])
        return [m.damage(before, after) for m, before, after in zip(measures, clean, edited, strict=True)]

    rows, singles = [], [torch.zeros_like(values) for values in clean]
    for count in range(1, len(induction) + 1):
        progress("cutting induction heads one by one", count - 1, len(induction))
        cut = induction[:count]
        together = damage(cut)
        alone = together if count == 1 else damage(cut[-1:])
        singles = [total + one for total, one in zip(singles, alone, strict=True)]
        for measure, joint, apart in zip(measures, together, singles, strict=True):
            where = {"cut": count, "heads": tables.written(cut), "measure": measure.name}
            quantities = {"together": joint, "sum of single cuts": apart, "interaction": joint - apart}
            for quantity, values in quantities.items():
                rows.append({**where, "quantity": quantity, **estimated(values, "damage")})
    return tables.CUMULATIVE.table(rows)


def patch_stream(config: Config, model: Model, progress: Progress) -> tuple[Table, Table]:
    """The clean stream patched into the corrupted run: at the answer on half of the pairs, everywhere on the rest."""
    room = (model.context or 10**9) - 1
    length = max(5, min(8, room // 2))
    pairs = induction_pairs(model, length=length, n=2 * config.n, seed=config.seed)
    (answer,) = pairs[0].roles["answer"][0]
    found = []
    selection, estimation = zip(*map(halves, pairs), strict=True)
    for schema, (clean, corrupted), positions in (
        (tables.PATCHING_SELECTION, selection, [answer]),
        (tables.PATCHING, estimation, range(pairs[0].longest)),
    ):
        found.append(schema.table(_patched(model, clean, corrupted, positions, progress)))
    return found[0], found[1]


def _patched(
    model: Model, clean: Prompts, corrupted: Prompts, positions: Sequence[int], progress: Progress
) -> list[dict[str, object]]:
    sites = [*(("resid_pre", layer) for layer in range(model.n_layers)), ("resid_post", model.n_layers - 1)]
    measure, source = logit_difference(), model.run(clean, capture=sites)
    high, low = (evaluate(model, shown, [measure])[0] for shown in (clean, corrupted))
    roles = {marked[0][0]: role for role, marked in clean.roles.items()}
    places = list(itertools.product(range(len(sites)), positions))
    cells = [
        Cell((patch(sites[layer], source=source, positions=position),), layer, None, position)
        for layer, position in places
    ]
    patched = cell_values(model, corrupted, cells, measure, progress=staged(progress, "patching the stream"))
    rows: list[dict[str, object]] = []
    for (layer, position), value in zip(places, patched, strict=True):
        share = estimated(heads_claims.share_of_gap(value - low, high - low), "recovered")
        where = {"layer": layer, "position": position, "role": roles.get(position, "")}
        rows.append({**where, **share})
    return rows


def heads_to_cut(config: Config, named: Named, order: Sequence[Head]) -> list[Head]:
    """The most damaging head, the strongest induction and previous-token heads, then the next damaging."""
    first = [*order[:1], *named.of("induction")[:1], *named.of("previous_token")[:1], *order[1:]]
    return list(dict.fromkeys(first))[: config.cuts]


def follow_cuts(
    model: Model, selection: Prompts, shown: Prompts, cuts: Sequence[Head], progress: Progress
) -> tuple[dict[str, Table], Table]:
    """Direct effects of all components before and after each cut, on both halves of the prompts."""
    found: dict[str, Table] = {}
    if unserved_direct_effects(model):
        empty = {schema.name: schema.table([]) for schema in (tables.TAKEOVER_SELECTION, tables.TAKEOVER)}
        return empty, tables.SELF_REPAIR.table([])
    for schema, half in ((tables.TAKEOVER_SELECTION, selection), (tables.TAKEOVER, shown)):
        followed = direct_effects(
            model,
            half,
            "predictable",
            ablations=[zero(head) for head in cuts],
            progress=staged(progress, "following cuts through the model"),
        )
        found[schema.name] = tables.takeover_table(schema, model, cuts, followed)
    return found, tables.self_repair_table(cuts, followed)


def unserved_direct_effects(model: Model) -> str:
    """Why this model has no direct effects; empty where it has."""
    try:
        model.require_direct_effects()
    except UnservedModel as error:
        return str(error)
    return ""


def example_of(model: Model, shown: Prompts, named: Named) -> AttentionExample:
    """Every head's pattern on the first prompt, cut to what can be read on a page."""
    return attention_example(
        model.run(shown.rows(slice(0, 1)), capture="pattern"),
        labels=named.labels(),
        caption="Repeated random tokens: an induction head attends to what followed the last showing.",
    )
