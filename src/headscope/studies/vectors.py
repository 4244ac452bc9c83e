"""The vectors study: does one vector carry a task learnt in context, and which heads make it?

In: a model and settings of (x, y) problems. Out: a Study. Task vectors (Hendel et al. 2023, "In-Context Learning
Creates Task Vectors"), function vectors with the causal indirect effect of every head (Todd et al. 2024, "Function
Vectors in Large Language Models"), and the comparison of function-vector with induction heads (Yin & Steinhardt
2025, "Which Attention Heads Matter for In-Context Learning?"). Layers and heads are *selected* on half of the
functions and *estimated* on the other half; functions are the unit of intervals.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from headscope.errors import BadArgument
from headscope.models.model import Model
from headscope.results.provenance import provenance
from headscope.results.study import Study
from headscope.studies.pairs import PairsConfig
from headscope.studies.vectors_parts import claims as vectors_claims
from headscope.studies.vectors_parts import figures as vectors_figures
from headscope.studies.vectors_parts import notes as vectors_notes
from headscope.studies.vectors_parts import tables
from headscope.studies.vectors_parts.carry import carry_function, carry_task
from headscope.studies.vectors_parts.heads import judged_kind
from headscope.studies.vectors_parts.problems import Problems, halves_of_functions
from headscope.studies.vectors_parts.ranks import cut_heads, rank_heads
from headscope.studies.vectors_parts.reach import mean_heads
from headscope.studies.vectors_parts.values import plain_outcomes
from headscope.sweeps.controls import Control
from headscope.tables import Table
from headscope.tasks import linear

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Config(PairsConfig):
    """What can be chosen; the command's options and help come from these fields."""

    n: int = field(default=150, metadata={"help": "problems (prompts) in each half"})
    each: int = field(default=5, metadata={"help": "problems of each function (n problems in each half)"})
    sources: int = field(
        default=10, metadata={"help": "prompts of each function that vectors are averaged over"}
    )
    top: int | None = field(
        default=None,
        metadata={
            "help": "heads that make a function vector (default: 2% of all, but 4 or an eighth of fewer)"
        },
    )
    random_vectors: int = field(
        default=3, metadata={"help": "random sets of heads whose sum is a control vector"}
    )
    random_sets: int = field(default=20, metadata={"help": "random sets of heads cut beside each group"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("each", "sources", "top", "random_vectors", "random_sets"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadArgument(f"cannot study vectors with {name}={value}: it must be at least 1.")

    def quick(self) -> "Config":
        """Smaller, for a first look; what was chosen stays as chosen."""
        return self.smaller({"n": 50, "sources": 6, "random_vectors": 1, "random_sets": 6})

    def top_of(self, model: Model) -> int:
        """How many heads count as the top ones of a ranking.

        The papers take about 2%; a small model has too few heads for that.
        """
        count = len(model.heads)
        chosen = max(-(-count // 50), min(4, count // 8), 1) if self.top is None else self.top
        if chosen > count // 2:
            raise BadArgument(
                f"cannot set {chosen} top heads of each kind apart: {model.name} has {count} heads. Use a smaller "
                "--top."
            )
        return chosen


def run(config: Config, model: Model, progress: Progress = lambda stage, done, of: None) -> Study:
    """Does one vector carry the task, which heads make it, and are they the induction heads?"""
    top, judged = config.top_of(model), judged_kind(model)
    halves = halves_of_functions(config, model, each=config.each, sources=config.sources)
    baselines, plain = plain_accuracies(model, halves[1])
    carried, of_task = carry_task(model, halves, plain, progress)
    means = [mean_heads(model, half) for half in halves]
    picked, heads, overlaps = rank_heads(model, halves, means, top, config.seed, progress)
    summed = Control(config.random_vectors, config.seed)
    added, of_function = carry_function(model, halves, means, picked.carrying(), plain, summed, progress)
    beside = Control(config.random_sets, config.seed)
    ablations, of_cuts = cut_heads(model, halves, picked, judged, beside, progress)

    found: dict[str, Table] = {
        "baselines": baselines,
        "task_vectors": carried,
        "head_effects": heads,
        "function_vectors": added,
        "overlap": overlaps,
        "ablations": ablations,
        "comparisons": tables.COMPARISONS.table([*of_task, *of_function, *of_cuts]),
    }
    claims = vectors_claims.all_claims(found, model.n_layers)
    return Study(
        name="vectors",
        title=f"Task vectors and function vectors of {model.name}",
        question="Does a single vector carry a task learnt from examples, which heads make it, and are those "
        "the induction heads?",
        answer=vectors_claims.summary(model, found, claims),
        claims=claims,
        tables=found,
        figures=vectors_figures.all_figures(found),
        notes=vectors_notes.notes(model, config.sources, halves[1], top, judged),
        provenance=provenance(model, "vectors", config, *(linear(model, half.few) for half in halves)),
    )


def plain_accuracies(model: Model, half: Problems) -> tuple[Table, dict[str, Tensor]]:
    """How often the answer is right without any vector; outcomes [measure, problem] by kind of prompt."""
    kinds = {"zero-shot": half.zero, "few-shot": half.few, "label-shuffled": half.shuffled}
    plain = {kind: plain_outcomes(model, linear(model, shots)) for kind, shots in kinds.items()}
    rows = [{"prompts_kind": kind, **tables.measured(value, half.function)} for kind, value in plain.items()]
    return tables.BASELINES.table(rows), plain
