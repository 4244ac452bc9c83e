"""The phase-change study: when do induction heads form in training, and what does in-context learning need of them?

In: trainings with checkpoints, shipped ones unless others are named. Out: a Study. It puts to the test, on the models
at hand, what Olsson et al. (2022) say of the change early in training; the same rule decides for every training, and
"none" is an answer.
"""

from collections.abc import Mapping, Sequence

from headscope.evidence.claim import in_words
from headscope.models.history import History
from headscope.models.model import Model
from headscope.results.study import Claim, Verdict
from headscope.studies.context import Plan
from headscope.studies.forecasts import Stage
from headscope.studies.phase_change.changes import PREFIX, changes, icl_by_text, points
from headscope.studies.phase_change.context_loss import context_loss
from headscope.studies.phase_change.events import order
from headscope.studies.phase_change.head_ablations import head_ablations
from headscope.studies.phase_change.model_table import model_table
from headscope.studies.phase_change.readings import MOST_ABLATED, kinds_of_ablation, read
from headscope.studies.phase_change.seeds import over_seeds
from headscope.studies.phase_change.settings import CONTEXT, Ctx, PhaseSettings, suites
from headscope.studies.phase_change.trajectories import trajectories
from headscope.studies.phase_change.two_heads import two_heads
from headscope.studies.sources import INDUCTION_HEADS

SUITES = ("induction-2l", "induction-1l", "induction-1l-smeared", "induction-2l-smeared")


def answer(ctx: Ctx, claims: Mapping[str, Claim]) -> Sequence[str]:
    """Which trainings have a change, when, and whether in-context learning improves with it."""
    told, without = [], []
    for each in ctx.once(read):
        point = ctx.once(points)[each.name][PREFIX]
        if claims[f"changes:{each.name}"].verdict is not Verdict.SUPPORTED:
            without.append(each.name)
            continue
        icl = icl_by_text(ctx, each)
        first, last = (in_words(icl.at(step=step)) for step in (each.steps[0], each.steps[-1]))
        begins, ends = point.window
        told.append(
            f"In {each.name} induction heads form between steps {begins:.0f} and {ends:.0f}; its ICL score goes from "
            f"{first} to {last}."
        )
    if without:
        told.append(f"No phase change is shown in {', '.join(without)}.")
    return told


def stages(settings: PhaseSettings, model: Model, histories: Sequence[History]) -> list[Stage]:
    """One stage per training: reading attention, and every head ablated."""
    found = []
    for history in histories:
        own = history.open(history.steps[-1])
        taken = len(settings.steps or history.steps[::-1][:: settings.every])
        length = min(own.context or CONTEXT, CONTEXT)
        heads = min(len(own.heads), MOST_ABLATED)
        # What is preserved takes a clean run, and values another one under the ablation.
        passes = {1: 1, 3: 1 + 2 + 3}[len(kinds_of_ablation(settings.preserving))]
        found += [
            Stage(f"{history.name}: attention", settings.n // 2, length, passes=9, times=taken),
            Stage(f"{history.name}: losses", settings.texts, length, whole=1, times=taken),
            Stage(f"{history.name}: ablations", settings.ablated, length, whole=heads * passes, times=taken),
        ]
    return found


PLAN: Plan[PhaseSettings] = Plan(
    name="phase-change",
    help="When induction heads form in training, and what in-context learning needs of them.",
    title="Induction heads over training",
    question="When do induction heads form in training, and does in-context learning come with them?",
    settings=PhaseSettings,
    shown_on="zoo:induction-2l",
    suites=tuple(f"zoo:{name}" for name in SUITES),
    stages=stages,
    questions=(changes, order, two_heads, head_ablations, over_seeds, context_loss, trajectories, model_table),
    answer=answer,
    prompts=lambda ctx: [
        shown for suite in ctx.once(suites)[:1] for shown in (suite.prompts.natural, suite.prompts.repeated)
    ],
    lead="prefix_matching-step",
    terms={
        "phase change": "A stretch of training in which prefix matching rises all at once: a logistic of the "
        "logarithm of the step that no drift explains by chance.",
        "prefix matching": "Attention to what followed earlier copies of the present token, on repeated tokens.",
        "ICL score": "Loss late in the context minus loss early in it; negative where context helps.",
        "window": "From a tenth to nine tenths of the rise.",
    },
    sources=(INDUCTION_HEADS,),
)
