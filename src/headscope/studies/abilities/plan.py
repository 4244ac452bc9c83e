"""The abilities study: do induction heads do more than copy, and what is left without them?

In: any causal language model. Out: a Study, which puts argument 4 of Olsson et al. (2022) to the test: that the heads
which copy repeated tokens also translate and match patterns. A model that reads no text is asked to copy alone.
"""

from collections.abc import Mapping, Sequence

from headscope.evidence import in_words
from headscope.measures.samples import Samples
from headscope.results.study import Claim
from headscope.studies.abilities import experiment
from headscope.studies.abilities.attention import attention
from headscope.studies.abilities.experiment import Ctx
from headscope.studies.abilities.forecast import stages
from headscope.studies.abilities.gain import gain
from headscope.studies.abilities.without_induction import ABLATED, EDGES, LOST, lost_without, without_induction
from headscope.studies.context import Plan
from headscope.studies.head_sets import first_few, rank_in_words
from headscope.studies.sources import INDUCTION_HEADS


def answer(ctx: Ctx, claims: Mapping[str, Claim]) -> Sequence[str]:
    """Which behaviours the model shows, and what of each is lost without its induction heads."""
    gains, heads = ctx.once(experiment.gains), ctx.once(experiment.induction_heads)
    found = ", ".join(f"{name.replace('_', ' ')} {in_words(each)}" for name, each in gains.items())
    sentences = [f"What {ctx.model.name} gains a token from the counterpart of what comes next: {found}."]
    if not heads:
        return [*sentences, f"Whether induction heads take part is not known: {experiment.NO_HEADS}."]
    told, lost = [], ctx.once(lost_without)
    for name in (name for name, done in lost if done == ABLATED):
        costs, alone = (in_words(Samples.one(LOST, lost[name, done].damage)) for done in (ABLATED, EDGES))
        beside = f"{rank_in_words(lost[name, ABLATED])} (knocking out their edges alone {alone})"
        told.append(f"{costs} of {name.replace('_', ' ')}, {beside}")
    which = f"its induction head{'s' * (len(heads) > 1)} {first_few(heads, 6)}"
    return [*sentences, f"Ablating {which} costs {'; '.join(told)}."] if told else sentences


PLAN: Plan[experiment.AbilitiesSettings] = Plan(
    name="abilities",
    help="Which kinds of learning in context (copying, translation, pattern matching) rest on induction heads.",
    title="What induction heads do",
    question="Do the model's induction heads also translate and match patterns, and what survives without them?",
    settings=experiment.AbilitiesSettings,
    shown_on="zoo:induction-3l",
    stages=stages,
    questions=(gain, attention, without_induction),
    answer=answer,
    prompts=lambda ctx: [half.matched for split in ctx.once(experiment.prompts).values() for half in split],
    lead="without_induction-behaviour",
    terms={
        "counterpart": "what stands before and tells the next token: the same token, the word that it translates, or "
        "the labels of lines of the same kinds",
        "edge": "attention of one head from the position that predicts a token to the token's counterpart",
    },
    sources=(INDUCTION_HEADS,),
)
