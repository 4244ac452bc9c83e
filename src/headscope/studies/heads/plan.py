"""The heads study: which heads a model has, what each does for it, and what the others do when one is ablated.

In: any causal language model. Out: a Study. It puts to the test, on the model at hand, what Olsson et al. (2022) say
of induction heads, with the patching of Wang et al. (2023) and the self-repair of McGrath et al. (2023).
"""

from collections.abc import Mapping, Sequence

from headscope.detectors import above_null
from headscope.evidence import in_words
from headscope.evidence.comparisons import head_names
from headscope.measures.samples import Samples
from headscope.results.study import Claim, Verdict
from headscope.studies.context import Plan
from headscope.studies.head_sets import first_few, rank_in_words
from headscope.studies.heads import experiment, screening
from headscope.studies.heads.experiment import Ctx
from headscope.studies.heads.forecast import stages
from headscope.studies.heads.induction_matters import damage_of_groups, induction_matters
from headscope.studies.heads.joint_ablation import joint_ablation
from headscope.studies.heads.patching import after_the_match, patching, recovery
from headscope.studies.heads.self_repair import self_repair
from headscope.studies.heads.single_ablations import damage_of_each, single_ablations
from headscope.studies.heads.which_heads import WHERE, which_heads
from headscope.studies.sources import HYDRA_EFFECT, INDIRECT_OBJECTS, INDUCTION_HEADS
from headscope.vocabulary import Head

MOST_NAMED = 6
UNLIKE = {
    "anti_induction": "lowering the logit of what comes next (anti-induction)",
    "pattern_only": "without writing on the logit of what comes next (pattern only)",
    "sign_unclear": "whether raising or lowering the logit of what comes next is unclear",
}


def answer(ctx: Ctx, claims: Mapping[str, Claim]) -> list[str]:
    """Which heads there are, which of them the model needs, and whether one kind feeds the other."""
    named = {kind: heads for kind in WHERE if (heads := ctx.once(experiment.named_heads).get(kind))}
    sentences = [*_attention(ctx, named, claims), _damage(ctx)]
    if len(named) == len(WHERE) and claims["moves"].verdict is Verdict.SUPPORTED:
        after = after_the_match(ctx.once(recovery)[0])
        layer = after.selection.best("layer")
        sentences.append(
            f"Patching the clean residual stream before layer {layer}, at the token after the match, recovers "
            f"{in_words(after.estimation.at(layer=layer))} of the answer's logit difference."
        )
    return sentences


def _attention(ctx: Ctx, named: Mapping[str, Sequence[Head]], claims: Mapping[str, Claim]) -> list[str]:
    read, whose, told = ctx.once(experiment.attention).estimation, ctx.model.name, []
    for kind, heads in named.items():
        beyond = in_words(above_null(read[kind]).at(head=str(heads[0])))
        which = f"{kind.replace('_', '-')} head{'s' if len(heads) > 1 else ''} {first_few(heads, MOST_NAMED)}"
        first = f"{heads[0]}: " if len(heads) > 1 else ""
        told.append(f"the {which} ({first}{beyond} of its attention, beyond the null, goes to {WHERE[kind]})")
    sentences = [f"{whose} has {' and '.join(told)}."] if told else []
    sentences += [
        f"{first_few(alike, MOST_NAMED)} attend{'s' if len(alike) == 1 else ''} like induction heads, but {does}."
        for kind, does in UNLIKE.items()
        if (alike := ctx.once(experiment.named_heads).get(kind))
    ]
    # What a claim refutes is not there; what it leaves open was not found, which is another thing.
    missing = [kind for kind in reversed(WHERE) if kind not in named]
    absent = [kind.replace("_", "-") for kind in missing if claims[kind].verdict is Verdict.REFUTED]
    if absent:
        which = f"{'an' if absent[0] == 'induction' else 'a'} {' or '.join(absent)} head"
        sentences.append(f"None of the {len(ctx.model.heads)} heads of {whose} is {which}.")
    return sentences + [
        f"Whether {whose} has {kind.replace('_', '-')} heads is not known. {claims[kind].because}"
        for kind in missing
        if claims[kind].verdict is not Verdict.REFUTED
    ]


def _damage(ctx: Ctx) -> str:
    (every, clean), group = ctx.once(damage_of_each)[0], ctx.once(damage_of_groups).get("induction")
    worst = str(ctx.once(screening.most_damaging)[0])
    tried, heads = ctx.once(screening.tried), ctx.model.heads
    none = "No single head" if len(tried) == len(heads) else f"None of the {len(tried)} heads tried, of {len(heads)},"
    damage = every.at(head=worst)
    low = float(damage.estimate().low[0])
    if low != low:
        return f"Whether {worst}, which the selection prompts put first, matters for repeated tokens is not known."
    if not low > 0:
        return (
            f"{none} clearly matters for repeated tokens: even {worst}, which the selection prompts put "
            f"first, changes the loss of {clean:.2f} by {in_words(damage)} when ablated."
        )
    told = f"On repeated tokens the loss is {clean:.2f} nats; ablating {worst} raises it by {in_words(damage)}"
    if group is None:
        return f"{told}."
    together = in_words(Samples.one(experiment.DAMAGE, group.damage))
    return f"{told}; ablating {head_names(group.picked)}, by {together}, {rank_in_words(group)}."


PLAN: Plan[experiment.HeadsSettings] = Plan(
    name="heads",
    help="Which heads a model has, what each does for it, and what the others do when one is ablated.",
    title="Attention heads and what they do",
    question="Which attention heads does the model have, and what does it lose without them?",
    settings=experiment.HeadsSettings,
    shown_on="zoo:induction-3l",
    stages=stages,
    questions=(which_heads, single_ablations, induction_matters, joint_ablation, patching, self_repair),
    answer=answer,
    prompts=lambda ctx: [getattr(ctx.once(experiment.every_prompt), kind) for kind in ("natural", "repeated")],
    lead="heads-score-by-heads",
    terms={
        "predictable tokens": "tokens of a repeated segment that its first showing determines",
        "match": "the earlier copy of the last token; the answer is the token after it",
    },
    sources=(INDUCTION_HEADS, INDIRECT_OBJECTS, HYDRA_EFFECT),
)
