"""Redundancy of heads: every statistic over sets of heads that are ablated together.

In: a model, prompts with answers and foils, and the heads in question. Out: four tables: pairwise interactions;
effect of each head ablated first, ablated last, and its Shapley value; the smallest necessary and sufficient sets;
and the steps that led to them. What they mean, and what each cannot see, stands in `measures.coalitions`,
`measures.shapley` and `measures.smallest_sets`. Sets are chosen on the prompts of even number and estimated on the
others.
Only the heads given take part: choose them on other prompts, or their damages are flattered. What writes *more* when
a head is ablated is asked in `self_repair`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

from torch import Tensor

from headscope.errors import BadArgument
from headscope.interventions import Intervention, zero
from headscope.measures.coalitions import Coalition, Game, ablated_first, ablated_last, interactions
from headscope.measures.intervals import Array
from headscope.measures.readouts import Measure, logit_difference
from headscope.measures.shapley import check_orders, is_exact, shapley
from headscope.measures.smallest_sets import check_share, smallest_necessary, smallest_sufficient
from headscope.models.model import Model
from headscope.sweeps import redundancy_tables as tables
from headscope.sweeps.cell_values import cell_values
from headscope.sweeps.grid import Cell
from headscope.sweeps.naive import evaluate
from headscope.tables import Table
from headscope.tasks.prompts import PromptsLike
from headscope.vocabulary import Head, Progress, heads_of, silent

HeadsLike = Head | str | Iterable[Head | str]


@dataclass(frozen=True)
class Options:
    """How heads are ablated and what is asked of the sets.

    - `ablation` is a template for one head, filled in for every head of a set (`zero("z")`, `mean("z", over=...)`).
    - `measure` is in logits, where damages add up.
    - `share` is what a necessary or sufficient set must reach, of the damage of ablating all heads.
    - `orders` are drawn for Shapley values where there are too many sets for exact ones, with `seed`.
    - `most_sets` bounds how many different sets may be ablated; each is one pass over all prompts.

    Raises:
        BadArgument: for a measure that is not in logits, a template that is not about heads, a share outside
            (0, 1], or an odd number of orders.
    """

    ablation: Intervention = field(default_factory=lambda: zero("z"))
    measure: Measure = field(default_factory=logit_difference)
    share: float = 0.9
    orders: int = 100
    most_sets: int = 5000
    seed: int = 0

    def __post_init__(self) -> None:
        check_share(self.share)
        check_orders(self.orders)
        if self.measure.unit != "logits":
            raise BadArgument(
                f"cannot add up damages in {self.measure.name!r}: it levels off where the model is sure, which fakes "
                "interactions. Measure in logits: hs.measures.logit_difference() or hs.measures.next_logit()."
            )
        other = [target.site for target in self.ablation.targets if target.site != "z"]
        if other:
            raise BadArgument(
                f"cannot ablate heads with {str(self.ablation)!r}: a head is its slice of 'z', not of {other[0]!r}. "
                "Name 'z' in the template."
            )


@dataclass(frozen=True)
class Redundancy:
    """What was found; columns are described in `redundancy_tables`. `sets_ablated` different sets were ablated."""

    interactions: Table
    effects: Table
    sets: Table
    steps: Table
    sets_ablated: int


def head_redundancy(
    model: Model,
    prompts: PromptsLike,
    heads: HeadsLike,
    options: Options | None = None,
    *,
    progress: Progress = silent,
) -> Redundancy:
    """Ablate sets of these heads and say which are redundant, which are needed and which suffice.

    `progress("sets of heads", done, of)` is called after each set; `of` is the most that it can take.

    >>> found = head_redundancy(model, prompts, ["9.6", "9.9", "10.0"])     # doctest: +SKIP
    >>> found.interactions.sorted("interaction", descending=True)           # doctest: +SKIP
    >>> found.sets                                                          # doctest: +SKIP

    Raises:
        BadArgument: for no heads, a head named twice, a single prompt, or more sets than `options.most_sets`.
        OutOfRange: for a head that the model does not have.
    """
    asked = options or Options()
    return redundancy_of(head_game(model, prompts, heads, asked, progress=progress), asked)


def redundancy_of(game: Game, options: Options) -> Redundancy:
    """All statistics of a game, whoever its players are; of `options`, `share`, `orders` and `seed` are used.

    Raises:
        BadArgument: for a game on a single prompt, or one that may not ablate enough sets.
    """
    if game.prompts < 2:
        raise BadArgument(
            "cannot choose and judge sets of heads on one prompt: half of the prompts choose, the others judge. "
            "Give at least ten, better a hundred."
        )
    halves = game.on(slice(0, None, 2)), game.on(slice(1, None, 2))
    # First what asks for the most sets: those that are asked for together run together.
    shares = shapley(game, orders=options.orders, seed=options.seed)
    sets = [find(*halves, share=options.share) for find in (smallest_necessary, smallest_sufficient)]
    return Redundancy(
        tables.interactions_table(game, interactions(game)),
        tables.effects_table(ablated_first(game), ablated_last(game), shares),
        tables.sets_table(sets),
        tables.steps_table(sets),
        len(game.known),
    )


def head_game(
    model: Model,
    prompts: PromptsLike,
    heads: HeadsLike,
    options: Options | None = None,
    *,
    progress: Progress = silent,
) -> Game:
    """Heads as the players of a game, each set of them ablated together on the same prompts.

    Raises:
        BadArgument: for no heads, a head named twice, or so many that `head_redundancy` might ablate more than
            `options.most_sets` sets.
        OutOfRange: for a head that the model does not have.
    """
    asked = options or Options()
    players = heads_of(heads)
    for head in players:
        for target in asked.ablation.at(layer=head.layer, head=head.index).targets:
            target.check(model, asked.ablation.verb)
    most = sets_at_most(len(players), asked.orders)
    if most > asked.most_sets:
        raise BadArgument(
            f"cannot study sets of {len(players)} heads within {asked.most_sets} sets: it may take {most}. "
            "Give fewer heads or orders, or a larger most_sets."
        )
    checked, measure = model.prompts(prompts), asked.measure

    @cache
    def clean() -> Tensor:
        return evaluate(model, checked, [measure])[0]

    def damages(sets: Sequence[Coalition]) -> list[Array]:
        ablated = [[head for head in players if head in members] for members in sets]
        cells = [Cell(tuple(asked.ablation.at(layer=h.layer, head=h.index) for h in heads)) for heads in ablated]
        before = len(game.known)
        values = cell_values(
            model,
            checked,
            cells,
            measure,
            progress=lambda _, done, of: progress("sets of heads", before + done, most),
        )
        return [measure.damage(clean(), row).numpy() for row in values]

    game = Game(players, len(checked), damages, asked.most_sets)
    return game


def sets_at_most(heads: int, orders: int) -> int:
    """How many different sets `head_redundancy` may ablate for so many heads.

    >>> sets_at_most(3, 100), sets_at_most(20, 100)
    (7, 3351)
    """
    every: int = 2**heads - 1
    if is_exact(heads, orders):
        return every
    greedy = 6 * heads * (heads + 1) // 2  # two kinds; growing, shrinking what has grown, shrinking from all
    return min(every, heads * (heads - 1) // 2 + orders * (heads - 1) + 1 + greedy)
