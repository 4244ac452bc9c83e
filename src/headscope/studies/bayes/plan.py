"""The study of Bayesian updates: does a model learn from pairs (x, y) as Bayes' rule says, and which heads carry it?

In: a model and settings. Out: a Study. The article on redundant heads claims that in-context learning works
through the addition of features which are learnt through Bayesian updates; each part of this study puts one of its
statements to the test, with the exact posterior as positive control and label-shuffled prompts as null. The
parts do not know each other; their order is that of the report.
"""

from collections.abc import Callable, Sequence

from headscope.errors import BadArgument
from headscope.models.model import Model
from headscope.results.provenance import provenance
from headscope.results.study import Study, Verdict
from headscope.studies.bayes.additive_features import additive_features
from headscope.studies.bayes.attention_growth import attention_growth
from headscope.studies.bayes.attention_knockout import attention_knockout
from headscope.studies.bayes.confidence import confidence
from headscope.studies.bayes.mlp_ablation import mlp_ablation
from headscope.studies.bayes.variables import variables
from headscope.studies.bayes.x_probe import x_probe
from headscope.studies.bayes_parts.config import Config
from headscope.studies.bayes_parts.curve import curve
from headscope.studies.bayes_parts.heads import pair_heads
from headscope.studies.context import Context
from headscope.studies.parts import Part
from headscope.studies.words import as_sentences, count
from headscope.tables import Table
from headscope.tasks.linear import linear

Progress = Callable[[str, int, int], None]

# In the order of the report: what is learned, by which heads, and what that looks like inside.
PARTS: tuple[Callable[[Config, Model, Progress], Part], ...] = (
    curve,
    pair_heads,
)
QUESTIONS = (
    additive_features,
    attention_growth,
    attention_knockout,
    x_probe,
    mlp_ablation,
    confidence,
    variables,
)
_FEWEST_SHOTS = 2


def run(config: Config, model: Model, progress: Progress = lambda stage, done, of: None) -> Study:
    """Does the model update like a Bayesian, and on what does that rest?"""
    shots = config.draw(model)
    if shots.x.shape[1] < _FEWEST_SHOTS:
        raise BadArgument(
            f"cannot study updates with {count(shots.x.shape[1], 'pair')}: labels must be shuffled, so use --shots "
            f"{_FEWEST_SHOTS} or more."
        )
    found = [part(config, model, progress) for part in PARTS]
    for question in QUESTIONS:
        part = question(Context(config, (model,), progress))
        tables = {table.name: table for table in part.tables}
        found.append(
            Part(tables, tuple(part.claims), tuple(part.figures), tuple(part.notes), tuple(part.says))
        )
    claims = as_sentences(claim for part in found for claim in part.claims)
    verdicts = [claim.verdict for claim in claims]
    tally = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in Verdict)
    return Study(
        name="bayes",
        title=f"Bayesian updates in {model.name}",
        question="Does this model learn from examples as Bayes' rule says, which heads carry it, do features "
        "add?",
        answer=(
            *(paragraph for part in found for paragraph in part.summary),
            f"Of {len(claims)} claims on this model: {tally}.",
        ),
        claims=claims,
        tables=joined(found),
        figures=tuple(figure for part in found for figure in part.figures),
        notes=tuple(dict.fromkeys(note for part in found for note in part.notes)),
        provenance=provenance(model, "bayes", config, linear(model, shots)),
    )


def joined(parts: Sequence[Part]) -> dict[str, Table]:
    """The tables of all parts, in their order.

    Raises:
        ValueError: if two parts give the same name to a table (a defect).
    """
    found: dict[str, Table] = {}
    for part in parts:
        if doubled := found.keys() & part.tables.keys():
            raise ValueError(f"two parts of a study have tables named {sorted(doubled)}")
        found |= part.tables
    return found
