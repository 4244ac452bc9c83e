"""Which induction heads stand in for which: sets of them cut together, for the heads study.

In: the named induction heads, those that matter most first. Out: the tables of `sweeps.redundancy` on the few
that matter most, for which every set can be cut: pairwise interactions, first and last cuts, Shapley values, and
the smallest sets that break the behaviour or carry it alone. With fewer than two heads there are no sets, and the
tables are empty.
"""

from collections.abc import Mapping, Sequence

from headscope.interventions import mean
from headscope.measures import next_logit
from headscope.models.model import Model
from headscope.sweeps import redundancy_tables as tables
from headscope.sweeps.redundancy import Options, head_redundancy
from headscope.tables import Table
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Head, Progress, staged

# Among so many heads every set is cut: 2^6 - 1 passes over the prompts.
MOST_HEADS = 6


def stand_ins(
    model: Model,
    shown: Prompts,
    reference: Prompts,
    heads: Sequence[Head],
    progress: Progress,
) -> dict[str, Table]:
    """Tables `interactions`, `effects` and `sets` of the first few of these heads, in logits."""
    if len(heads) < 2:
        schemas = (tables.INTERACTIONS, tables.EFFECTS, tables.SETS)
        return {schema.name: schema.table([]) for schema in schemas}
    options = Options(ablation=mean("z", over=reference), measure=next_logit("predictable"))
    found = head_redundancy(
        model,
        shown,
        heads[:MOST_HEADS],
        options,
        progress=staged(progress, "cutting sets of induction heads"),
    )
    return {name: table for name, table in found.tables.items() if name != "steps"}


def in_words(found: Mapping[str, Table]) -> str:
    """What the sets show, as a sentence; empty where no sets were cut."""
    effects = found["effects"]
    if not len(effects):
        return ""
    first, last = (
        sum(row["damage"] for row in effects.rows(effect=effect))
        for effect in ("ablated first", "ablated last")
    )
    sets = {row["kind"]: row for row in found["sets"].rows()}
    told = [f"{kind} set: {_written(sets[kind])}" for kind in ("necessary", "sufficient")]
    return (
        f" Of the {len(effects.rows(effect='first cut'))} that matter most, each cut while the others work costs "
        f"{first:.2f} logits in sum, each cut after the others {last:.2f}. Smallest {'; smallest '.join(told)}."
    )


def _written(row: Mapping[str, object]) -> str:
    return str(row["heads"]) if row["heads"] else f"none ({row['reason']})"
