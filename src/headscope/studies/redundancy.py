"""The redundancy study: where a task forms in the read-out position, and who forms it once that is cut.

In: a model that reads pairs (x, y). Out: a Study. A shows pairs of a function and asks x_A; B asks x_B with nothing
before it. The stream of A's last position is put at B's, layer by layer, and B's answer says what had formed: the
task (B says f(x_B)), its slope, or A's own answer. Then attention layers that formed it are cut in A, and the same is
asked again, until nothing carries the task or A fails. Source: the article on redundant heads that
`tasks.shots` quotes, with controls, intervals and many functions. What counts as carried stands
in `redundancy_parts.patching`, how the rounds go in `redundancy_parts.peeling`, what the claims are in
`redundancy_parts.claims`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from headscope.errors import BadArgument
from headscope.measures import Side
from headscope.models.model import Model
from headscope.results.example import attention_example
from headscope.results.provenance import provenance
from headscope.results.study import AttentionExample, Study
from headscope.studies.pairs import PairsConfig
from headscope.studies.redundancy_parts import claims as redundancy_claims
from headscope.studies.redundancy_parts import figures as redundancy_figures
from headscope.studies.redundancy_parts import formation, tables
from headscope.studies.redundancy_parts import heads as of_heads
from headscope.studies.redundancy_parts import words as redundancy_words
from headscope.studies.redundancy_parts.cuts import At, By, Heads, Scissors, checked, heads_among, parse
from headscope.studies.redundancy_parts.patching import unpatched
from headscope.studies.redundancy_parts.peeling import Bench, Progress, Step, as_listed, peeled, remains
from headscope.studies.redundancy_parts.problems import Problems, draw
from headscope.studies.redundancy_parts.prompts import Written, any_number
from headscope.sweeps import redundancy_tables as set_tables
from headscope.sweeps.redundancy import Options, Redundancy, redundancy_of
from headscope.tables import Schema, Table
from headscope.tasks.linear import functions_of, linear
from headscope.tasks.split import halves

# So many heads are listed per quantity and cut.
GROWN_HEADS = 3


@dataclass(frozen=True, kw_only=True)
class Config(PairsConfig):
    """What can be chosen; the command's options and help come from these fields."""

    cut: str | None = field(
        default=None,
        metadata={"help": "layers (10,11) or heads (10.5 10.7) to cut in A; default: peel by itself"},
    )
    at: str = field(default="last", metadata={"help": "where in A they are cut: last position, or all"})
    by: str = field(
        default="zero", metadata={"help": "how: zero, mean or resample (of label-shuffled prompts)"}
    )
    rounds: int = field(default=4, metadata={"help": "rounds of peeling at most"})
    width: int = field(default=2, metadata={"help": "attention layers that the first round cuts"})
    draws: int = field(default=5, metadata={"help": "random cuts of the same size beside each cut"})
    top: int = field(default=6, metadata={"help": "heads of which every set is cut"})

    def __post_init__(self) -> None:
        super().__post_init__()
        checked("place to cut", self.at, At)
        checked("way to cut", self.by, By)
        if self.cut is not None:
            parse(self.cut)
        for name, fewest in (("rounds", 1), ("width", 1), ("draws", 1), ("top", 2)):
            if getattr(self, name) < fewest:
                raise BadArgument(
                    f"cannot study redundancy with {name}={getattr(self, name)}: it must be at least {fewest}."
                )

    def quick(self) -> "Config":
        """Smaller, for a first look; what was chosen stays as chosen."""
        return self.smaller({"n": 24, "draws": 2, "rounds": 2, "top": 4})


def run(config: Config, model: Model, progress: Progress = lambda stage, done, of: None) -> Study:
    """Which layers carry the task, and who forms it once they are cut?"""
    problems = draw(config, model)
    bench = bench_of(config, model, problems)
    steps = steps_of(config, bench, progress)
    bare = unpatched(model, bench.estimation, bench.number)
    looks = of_heads.attention_to_earlier_y(model, bench.estimation.asked)

    damage = of_heads.damage_of_heads(bench, progress)
    top = of_heads.that_matter(model, damage, config.top)
    of_answer = of_sets_of_heads(bench, top, damage, progress)
    of_task = of_sets_of_layers(bench, steps, progress)
    repairs = [bench.scissors.by_zero(head) for head in top]
    followed = of_heads.effects(bench, bench.estimation, repairs) if top else None
    single = damage.found[[model.heads.index(head) for head in top]]

    found = {
        "cuts": tables.CUTS.table(
            tables.cut_row(model, number, step, side)
            for number, (step, side) in enumerate(zip(steps, remaining(steps), strict=True))
        ),
        "clean": tables.CLEAN.table(tables.clean_rows(bench.estimation.problems, steps[0].found.own, bare)),
        "patched": _of_steps(tables.PATCHED, steps, lambda n, s: tables.patched_rows(model, n, s.found)),
        "parity": _of_steps(tables.PARITY, steps, lambda n, s: tables.parity_rows(model, n, s.found)),
        "random": _of_steps(tables.RANDOM, steps, lambda n, s: tables.random_rows(model, n, s)),
        "growth": grown(bench, steps, top, progress),
        "formers": tables.FORMERS.table(former_rows(bench, steps, looks)),
        "task_heads": tables.HEADS.table(tables.head_rows(model, top, single, looks)),
        "together": tables.TOGETHER.table([*of_task.together, *of_answer.together]),
        **of_answer.tables,
        **{f"layer_{name}": tables.of_layers(table) for name, table in of_task.tables.items()},
        "self_repair": tables.repair_table(model, top, followed),
    }
    claims = redundancy_claims.all_claims(model, steps, found)
    return Study(
        name="redundancy",
        title=f"Redundant heads of {model.name}",
        question="Where does the task form in the last position, and who forms it once that is cut?",
        answer=redundancy_words.summary(model, steps, found, claims),
        claims=claims,
        tables=found,
        figures=redundancy_figures.all_figures(found, model),
        attention=(example_of(bench, found),),
        notes=redundancy_words.notes(bench, steps, article=config.article),
        provenance=provenance(model, "redundancy", config, linear(model, problems.context)),
    )


def bench_of(config: Config, model: Model, problems: Problems) -> Bench:
    """The prompts of both halves, and the scissors, whose reference are the label-shuffled prompts."""
    selection, estimation = (Written.of(model, half) for half in halves(problems))
    shuffled = [linear(model, half.problems.shuffled).answered() for half in (selection, estimation)]
    lengths = {length for each in (*shuffled, selection.a, estimation.a) for length in each.lengths}
    # Generated tokens have no place in a mean by position, unless it is taken at the last one alone.
    aligned = len(lengths) == 1 and (functions_of(model) is not None or config.at == "last")
    scissors = Scissors(config.by, config.at, shuffled[0], aligned, config.seed)  # type: ignore[arg-type]
    return Bench(model, selection, estimation, any_number(model), scissors)


def steps_of(config: Config, bench: Bench, progress: Progress) -> list[Step]:
    """The cuts that were listed, or else those that peeling finds."""
    if config.cut is not None:
        named = heads_among(bench.model, parse(config.cut))
        return as_listed(bench, named, draws=config.draws, seed=config.seed, progress=progress)
    return peeled(
        bench,
        rounds=config.rounds,
        width=config.width,
        draws=config.draws,
        seed=config.seed,
        progress=progress,
    )


def remaining(steps: Sequence[Step]) -> list[str]:
    """Of every step, where A's answer lies against the share that it must keep."""
    if not steps[0].found.knows:
        return ["A does not know it"] * len(steps)
    clean = steps[0].found.own.probability
    words = {Side.ABOVE: "remains", Side.BELOW: "fails", Side.UNDETERMINED: "undetermined"}
    return [words[remains(step.found.own.probability, clean)] for step in steps]


@dataclass(frozen=True)
class OfSets:
    """What cutting sets showed: `together` is at most one row, `tables` are empty where nothing was cut."""

    together: Sequence[Mapping[str, Any]]
    tables: Mapping[str, Table]

    @classmethod
    def of(cls, found: Redundancy | None, *together: Mapping[str, Any]) -> "OfSets":
        schemas = (set_tables.INTERACTIONS, set_tables.EFFECTS, set_tables.SETS)
        empty = {schema.name: schema.table([]) for schema in schemas}
        return cls(together, empty if found is None else {name: found.tables[name] for name in empty})


def of_sets_of_heads(bench: Bench, top: Heads, damage: of_heads.Damage, progress: Progress) -> OfSets:
    """The heads that matter most for A's answer, cut in every combination."""
    found = of_heads.stand_ins(bench, top, progress)
    if found is None:
        return OfSets.of(None)
    apart = damage.found[[bench.model.heads.index(head) for head in top]]
    row = tables.together_row("heads", " ".join(map(str, top)), of_heads.damage_together(bench, top), apart)
    return OfSets.of(found, row)


def of_sets_of_layers(bench: Bench, steps: Sequence[Step], progress: Progress) -> OfSets:
    """The attention layers before the last stream that carries the task, cut in every combination."""
    stream = steps[0].chosen_on.last_task()
    layers = () if stream is None else formation.layers_before(bench, stream, steps[-1].heads)
    if stream is None or len(layers) < 2:
        return OfSets.of(None)
    game = formation.game_of_layers(formation.Formation(bench, bench.estimation, stream), layers, progress)
    found = redundancy_of(game, Options())
    together, apart = game(layers), game.many([(layer,) for layer in layers])
    return OfSets.of(found, tables.together_row("layers", " ".join(map(str, layers)), together, apart))


def former_rows(bench: Bench, steps: Sequence[Step], looks: of_heads.Looks) -> list[dict[str, Any]]:
    """Of each layer of the first cut the head that costs the task most; none without a cut or a task."""
    if len(steps) == 1 or steps[0].chosen_on.first_task() is None:
        return []
    _, stream = steps[0].chosen_on.best_task()
    before = tuple(head for head in steps[1].heads if head.layer < stream)
    heads = formation.foremost(formation.Formation(bench, bench.selection, stream), before)
    if not heads:
        return []
    damage = formation.damages_of(formation.Formation(bench, bench.estimation, stream), heads)
    return tables.head_rows(bench.model, heads, damage, looks)


def grown(bench: Bench, steps: Sequence[Step], top: Heads, progress: Progress) -> Table:
    """What grew from each step to the next, and from nothing to the cut of the head that matters most."""
    model, rows = bench.model, []
    cuts = [(old.heads, new.heads, new.new) for old, new in pairwise(steps)]
    if top:
        cuts.append(((), top[:1], top[:1]))
    for index, (before, after, new) in enumerate(cuts):
        progress("looking for backups", index, len(cuts))
        among = of_heads.later_than(model, new, after)
        for quantity in of_heads.growth(bench, before, after):
            rows += tables.growth_rows(model, (before, after), among, quantity, GROWN_HEADS)
    return tables.GROWTH.table(rows)


def example_of(bench: Bench, found: Mapping[str, Table]) -> AttentionExample:
    """Every head's pattern on the first prompt with context."""
    labels = {row["head"]: "answer" for row in found["task_heads"].rows()}
    labels |= {row["head"]: "task" for row in found["formers"].rows()}
    labels |= {row["head"]: "backup" for row in found["growth"].rows(backup=True)}
    return attention_example(
        bench.model.run(bench.estimation.asked.rows(slice(0, 1)), capture="pattern"),
        labels=labels,
        caption="A prompt with pairs, and where each head looks. “answer”: A's answer suffers when it is cut; "
        "“task”: "
        "the foremost of a layer that was cut first; “backup”: it grew when others were cut.",
    )


def _of_steps(
    schema: Schema, steps: Sequence[Step], rows: Callable[[int, Step], list[dict[str, Any]]]
) -> Table:
    return schema.table(row for number, step in enumerate(steps) for row in rows(number, step))
