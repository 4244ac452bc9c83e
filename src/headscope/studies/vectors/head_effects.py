"""Which heads write a function, and which look examples up: two scores of every head, and the top heads by each.

In: both halves of the problems. Out: the *causal indirect effect* (Todd et al. 2024): how much more likely the
answer of a label-shuffled prompt becomes when a head's output at the final token is its mean over clean prompts of
the function; and two induction scores. *Prefix matching* (Olsson et al. 2022) is attention to what followed earlier
copies of the token, on repeated random tokens. *Example to example* is attention from the tokens before which a y is
predicted to earlier y: prefix matching on the model's own prompts, where these follow copies of the comma. Heads are
ranked by what exceeds the null of each score: one that attends to all numbers, or to near ones, looks nothing up.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from torch import Tensor

from headscope.detectors import NAMED_MARGIN, default_prompts
from headscope.detectors.key_attention import KeyAttention, key_attention
from headscope.detectors.pairs import prefix_matching
from headscope.detectors.roles import role_attention
from headscope.errors import HeadscopeError
from headscope.evidence import Test, table
from headscope.figures import head_grid
from headscope.interventions import set_values
from headscope.measures.samples import Samples, over_heads
from headscope.measures.whole_answers import answer_token, unpacked
from headscope.studies.context import Part
from headscope.studies.sites import head_outputs, means_by
from headscope.studies.vectors.effects import HALF, SHUFFLED, asked, by_unit
from headscope.studies.vectors.problems import Ctx, problems
from headscope.sweeps import Cell
from headscope.sweeps.cell_values import cell_values
from headscope.tables import Column, Quantity, Table
from headscope.tasks import linear
from headscope.tasks.linear import functions_of
from headscope.tasks.split import Split, halves
from headscope.tasks.telling import told_apart
from headscope.tasks.transfer import Transfer
from headscope.vocabulary import Head

PREFIX, EXAMPLES = "prefix matching", "example to example"
_EXAMPLES = "example_to_example"
INDIRECT_EFFECT = Quantity("indirect_effect", "causal indirect effect", "probability", (-1.0, 1.0))
SCORE = Column("induction_score", pl.String, "which induction score")
_ADJUSTED = Column("adjusted_low", pl.Float64, "lower 95% bound for all heads at once", "probability")
_SELECTION = Column("selection_effect", pl.Float64, "the effect on the half that selects", "probability")
_TOP = Column("top_of", pl.String, "function-vector, induction or both, by the half that selects")
_NAMED = Column("named", pl.Boolean, f"whether it exceeds the null by {NAMED_MARGIN}, for all heads at once")
# Prompts of repeated random tokens in each half: as many as detectors take by default.
_REPEATED = 50
_BY_PREFIX = "Induction heads are taken by prefix matching on repeated random tokens."
_BY_EXAMPLES = (
    "Induction heads are taken by example-to-example attention: in this model's language no input comes twice, so "
    "nothing rewards matching repeated random tokens."
)


def head_effects(ctx: Ctx) -> Part:
    """Which heads write the function into a prompt that does not show it?"""
    effects, top = ctx.once(indirect_effects), ctx.once(top_heads)
    own, chosen = effects.estimation, effects.selection
    more = {
        _ADJUSTED: dict(zip(own.cells, own.together().at_least.tolist(), strict=True)),
        _SELECTION: dict(zip(own.cells, chosen.mean.tolist(), strict=True)),
        _TOP: {cell: top.kinds_of(cell[1]) for cell in own.cells},
    }
    listed = table(own, "head_effects", more=more)
    figure = head_grid(
        listed,
        "indirect_effect",
        diverging=True,
        title="Causal indirect effect of each head",
        caption="Rise of the probability of the right answer in label-shuffled prompts when this head's output at "
        "the final token is its mean over clean prompts of the function; mean over the problems that estimate.",
        name="indirect-effect",
    )
    judged = _BY_EXAMPLES if top.judged == EXAMPLES else _BY_PREFIX
    return Part(tables=[listed, *induction_tables(ctx)], figures=[figure], notes=[judged, *_left_out(ctx)])


def _left_out(ctx: Ctx) -> list[str]:
    """Which prompts and queries the induction scores are not over, as notes."""
    scores = [
        (kind, half) for kind, score in ctx.once(induction).items() if isinstance(score, Split) for half in score
    ]
    said = (f"Not all is counted in {kind}: {half.left_out}." for kind, half in scores if half.left_out)
    return list(dict.fromkeys(said))


def indirect_effects(ctx: Ctx) -> Split[Samples]:
    """The causal indirect effect of every head, [unit, head], on both halves."""
    drawn, means = ctx.once(problems), ctx.once(mean_head_outputs)

    def samples(half: Transfer, own: Mapping[int, Tensor]) -> Samples:
        values = by_unit(effects_of_heads(ctx, half, own), half)
        return over_heads(INDIRECT_EFFECT, ctx.model.heads, values, over=half.over)

    return Split(samples(drawn.selection, means.selection), samples(drawn.estimation, means.estimation))


def mean_head_outputs(ctx: Ctx) -> Split[dict[int, Tensor]]:
    """Mean z at the final token over each function's source prompts, [function, head, head_dim] by layer."""
    drawn = ctx.once(problems)
    outputs = drawn.map(
        lambda half: head_outputs(ctx.model, told_apart(ctx.model, half.sources, half.source_answers).first)
    )
    pairs = zip(drawn, outputs, strict=True)
    return Split(*({at: means_by(z, half.source_function) for at, z in own.items()} for half, own in pairs))


def effects_of_heads(ctx: Ctx, half: Transfer, means: Mapping[int, Tensor]) -> Tensor:
    """The causal indirect effect of every head on every problem, float64 [head, problem], heads as in the model."""
    prompts = asked(ctx.model, half, SHUFFLED).first
    edits = [set_values(h, means[h.layer][half.function, h.index], positions=-1) for h in ctx.model.heads]
    cells = [Cell((e,), h.layer, h.index) for e, h in zip(edits, ctx.model.heads, strict=True)]
    stage, measure = ctx.stage("replacing each head by its mean"), answer_token(prompts.answers)
    probability: Tensor = unpacked(cell_values(ctx.model, prompts, [Cell(()), *cells], measure, progress=stage))[1]
    return probability[1:] - probability[:1]


def induction(ctx: Ctx) -> dict[str, Split[KeyAttention] | str]:
    """Both induction scores of every head on both halves, or why one could not be measured."""
    model, drawn, n, seed = ctx.model, ctx.once(problems), 2 * _REPEATED, ctx.settings.seed
    measured: dict[str, Callable[[], Split[KeyAttention]]] = {
        PREFIX: lambda: halves(default_prompts(model, n=n, seed=seed)).map(
            lambda shown: key_attention(model, prefix_matching, shown.repeated, shown.unrepeated)
        ),
        EXAMPLES: lambda: drawn.map(
            lambda half: KeyAttention.of(model, role_attention(model, linear(model, half.few), seed=seed)[_EXAMPLES])
        ),
    }
    scores: dict[str, Split[KeyAttention] | str] = {}
    for kind, score in measured.items():
        try:
            scores[kind] = score()
        except HeadscopeError as error:
            scores[kind] = str(error)
    return scores


def induction_tables(ctx: Ctx) -> list[Table]:
    """Both scores of every head on both halves, and their excess over the null; none where neither was measured."""
    attention: list[Samples] = []
    beyond: list[Samples] = []
    for kind, score in ctx.once(induction).items():
        if isinstance(score, Split):
            for half, one in (("selection", score.selection), ("estimation", score.estimation)):
                attention.append(one.attention.labelled(SCORE, kind).labelled(HALF, half))
                beyond.append(one.beyond_null.labelled(SCORE, kind).labelled(HALF, half))
    if not attention:
        return []
    named = {cell for each in beyond for cell in each.named(above=NAMED_MARGIN).cells}
    marks = {_NAMED: {cell: cell in named for each in beyond for cell in each.cells}}
    return [table(attention, "induction_scores", bounded=beyond, more=marks)]


@dataclass(frozen=True)
class TopHeads:
    """The top heads of each kind by the half that selects, largest first; `judged` is the score that claims go by."""

    function_vector: tuple[Head, ...]
    by_score: Mapping[str, tuple[Head, ...]]
    judged: str

    @property
    def induction(self) -> tuple[Head, ...]:
        """The top heads by the induction score that claims go by; none where it was not measured."""
        return self.by_score.get(self.judged, ())

    def kinds_of(self, head: str) -> str:
        """Of which kinds a head is a top head."""
        kinds = {"function-vector": self.function_vector, "induction": self.induction}
        return " and ".join(kind for kind, heads in kinds.items() if head in map(str, heads))


def top_heads(ctx: Ctx) -> TopHeads:
    """Heads ranked by both scores on the half that selects.

    In a language of pairs an input never comes twice, so nothing there rewards matching repeated tokens.
    """
    count = ctx.settings.top_of(ctx.model)

    def top(samples: Samples) -> tuple[Head, ...]:
        return tuple(ctx.model.heads[place] for place in np.argsort(-samples.mean, kind="stable")[:count])

    scores = {kind: each.selection for kind, each in ctx.once(induction).items() if isinstance(each, Split)}
    by_score = {kind: top(each.beyond_null) for kind, each in scores.items()}
    judged = PREFIX if functions_of(ctx.model) is None else EXAMPLES
    return TopHeads(top(ctx.once(indirect_effects).selection), by_score, judged)


def kinds_exist(ctx: Ctx) -> tuple[Test, Test]:
    """The needs of claims that compare both kinds: top heads are of their kind on the other half too."""
    top, effects = ctx.once(top_heads), ctx.once(indirect_effects).estimation
    score, what = ctx.once(induction)[top.judged], "mean attention of the top induction heads beyond the null"
    effect = Test("mean indirect effect of the top heads", mean_over(effects, top.function_vector), above=0.0)
    if not isinstance(score, Split):
        return effect, Test(what, None, above=NAMED_MARGIN, reason=score)
    beyond = mean_over(score.estimation.beyond_null, top.induction)
    return effect, Test(what, beyond, above=NAMED_MARGIN)


def mean_over(samples: Samples, heads: Sequence[Head]) -> Samples:
    """The mean over these heads, by unit."""
    values = samples.only(head=list(map(str, heads))).values.mean(1)
    return Samples.one(samples.quantity, values, over=samples.over, units=samples.units)
