"""Size-matched controls: what ablating *any* so many heads does, beside the heads that were picked.

In: a model, prompts, groups of heads that were picked for a reason, an ablation and a measure. Out: per group, the
damage per prompt of the group and of as many heads picked for none, with a p value. Larger sets always do more
damage, and early layers do too: random sets are of the same size, and layer by layer where 19 such sets are left.
They hold no head that is under test, in this group or another, for a control that holds what it is to control for
shows nothing. Where few exist the control is exhaustive; where too few exist for p below .05, or none, `reason` says
so. Pick the groups on other prompts (tasks.split). Not done here: intervals over heads looked at one by one
(measures.simultaneous).
"""

import itertools
import math
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

from torch import Tensor

from headscope.errors import BadArgument
from headscope.interventions.base import Intervention
from headscope.interventions.named_heads import heads_among, whole_layers
from headscope.interventions.targets import targets_of
from headscope.measures.intervals import Estimate, interval
from headscope.measures.readouts import Measure
from headscope.models.model import Model
from headscope.sweeps.cell_values import damages
from headscope.sweeps.grid import Cell
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Head, Progress, silent, staged

Match = Literal["size", "layers"]
Heads = tuple[Head, ...]
T = TypeVar("T", Head, int)
SIGNIFICANT = 0.05
# With fewer sets, p cannot reach it.
FEWEST_SETS = 19
_ENUMERABLE = 5000


@dataclass(frozen=True)
class Control:
    """Which random sets stand beside a picked one.

    `count` sets at most; `match` is "layers" (as many from each layer, or "size" where only that leaves enough sets
    of heads that are not under test) or "size" (as many heads of any layer).
    """

    count: int = 20
    seed: int = 0
    match: Match = "layers"


@dataclass(frozen=True, eq=False)
class AgainstRandom:
    """A picked set of heads beside random sets, in the unit of the measure.

    `damage` [prompt] is that of the picked set, `set_damage` [set, prompt] that of `sets`, of which `existing`
    could have been drawn, with the match that they have. `none` says why there is no set.

    Random sets share heads with one another but none with the picked set, and so differ less from one another than
    it does from them even if all heads are alike. `shrinkage` makes up for that.
    """

    picked: Heads
    damage: Tensor
    sets: tuple[Heads, ...]
    set_damage: Tensor
    existing: int
    match: Match
    shrinkage: float = 1.0
    none: str = ""

    @property
    def estimate(self) -> Estimate:
        """Mean damage of the picked set with its interval over prompts."""
        return interval(self.damage.numpy())

    @property
    def means(self) -> Tensor:
        """Mean damage of every random set, [set]."""
        return self.set_damage.mean(1)

    @property
    def ranked(self) -> float:
        """What is ranked among the sets: the picked set's mean damage, its distance from their mean shrunk.

        Unshrunk, a quarter of all heads, picked for nothing, would have p at most .05 in one of eight models.
        """
        usual = float(self.means.mean())
        return usual + self.shrinkage * (float(self.damage.mean()) - usual)

    @property
    def p(self) -> float:
        """Share of sets, the picked one included, with at least its damage (`ranked`): never 0; NaN if undefined."""
        if math.isnan(self.ranked):
            return math.nan
        return (1 + int((self.means >= self.ranked).sum())) / (1 + len(self.sets))

    @property
    def smallest_p(self) -> float:
        """What p could be at best with so many sets."""
        return 1 / (1 + len(self.sets))

    @property
    def worst(self) -> Heads:
        """The random set with the largest mean damage; empty if there is none."""
        return self.sets[int(self.means.argmax())] if self.sets else ()

    @property
    def reason(self) -> str:
        """Why p cannot reach .05 or does not exist; empty where neither is so."""
        if not self.sets:
            return self.none or "there is no other set of this size"
        if math.isnan(self.p):
            return "the measure is undefined for some prompts"
        if self.smallest_p <= SIGNIFICANT:
            return ""
        heads = "1 head" if len(self.picked) == 1 else f"{len(self.picked)} heads"
        whence = " from the same layers" if self.match == "layers" else ""
        sets, all_of_them = len(self.sets), len(self.sets) >= self.existing
        which = ("exists" if all_of_them else "was drawn") if sets == 1 else "exist" if all_of_them else "were drawn"
        others = f"{sets} other {'set' if sets == 1 else 'sets'} of {heads}{whence}"
        return f"only {others} {which}, so p is at least {self.smallest_p:.3f}"


def against_random_sets(
    model: Model,
    prompts: Prompts,
    groups: Mapping[str, Collection[Head]],
    *,
    ablation: Intervention | Sequence[Intervention],
    measure: Measure,
    control: Control | None = None,
    apart_from: Collection[Head] = (),
    progress: Progress = silent,
) -> dict[str, AgainstRandom]:
    """Each group ablated together, beside random sets of heads of the same model, on the same prompts.

    `ablation` is a template on z that is filled in with each set of heads: `hs.mean("z", over=...)`,
    `hs.zero("z")`, `hs.to_bos("z")`; several act together, such as `hs.knock_out("z", ...)` of several edges. No
    random set holds a head of any group, or one of `apart_from`: heads that are
    under test elsewhere. A set that several groups draw is run once.

    Raises:
        BadArgument: for an empty group, an ablation that is no template on z, or no random set asked for.
    """
    templates = [ablation] if isinstance(ablation, Intervention) else list(ablation)
    for each in templates:
        if any((target.site, target.layer) != ("z", None) for target in each.targets):
            raise BadArgument(
                f"cannot ablate random heads by '{each}': it names its own target. Give a template on z, for example "
                "hs.zero('z')."
            )
    control = control or Control()
    named = {group: tuple(dict.fromkeys(listed)) for group, listed in groups.items()}
    tested = {*apart_from, *itertools.chain(*named.values())}
    pools = {group: _pools(model.heads, picked, control.match, tested) for group, picked in named.items()}
    drawn = {group: _drawn(own, control.count, control.seed) for group, own in pools.items()}
    every = [heads for group, picked in named.items() for heads in (picked, *drawn[group])]
    distinct = list({frozenset(heads): heads for heads in every}.values())
    cells = [Cell(tuple(replace(each, targets=targets_of(heads)) for each in templates)) for heads in distinct]
    harm = damages(model, prompts, cells, measure, progress=staged(progress, "sets of heads"))
    row = {frozenset(heads): index for index, heads in enumerate(distinct)}
    return {
        group: AgainstRandom(
            picked,
            harm[row[frozenset(picked)]],
            tuple(drawn[group]),
            harm[[row[frozenset(heads)] for heads in drawn[group]]],
            pools[group].existing,
            pools[group].match,
            pools[group].shrinkage,
            pools[group].none,
        )
        for group, picked in named.items()
    }


def random_sets(
    heads: Sequence[Head],
    picked: Collection[Head],
    *,
    count: int = 20,
    seed: int = 0,
    match: Match = "layers",
    apart_from: Collection[Head] = (),
) -> list[Heads]:
    """Up to `count` different sets of as many heads as `picked`, without a head that is picked or in `apart_from`.

    `match="layers"` takes as many heads from each layer as `picked` has there; where fewer than 19 such sets exist
    and more otherwise, and for `match="size"`, heads are drawn from all that are left. None where these are too few.

    >>> len(random_sets([Head(0, i) for i in range(4)], [Head(0, 1)]))
    3
    >>> random_sets([Head(0, 0), Head(0, 1), Head(1, 0), Head(1, 1)], [Head(0, 0), Head(1, 0)])
    [(Head(0, 1), Head(1, 1))]

    Raises:
        BadArgument: if nothing is picked, a picked head is not among `heads`, or no set is asked for.
    """
    return _drawn(_pools(heads, picked, match, apart_from), count, seed)


def random_ablations(
    model: Model, heads: Collection[Head], *, count: int, seed: int = 0, apart_from: Collection[Head] = ()
) -> list[Heads]:
    """Up to `count` other sets of the same size: as many layers for all heads of some layers, else as `random_sets`.

    None holds a head that is ablated or in `apart_from`; layers are taken whole, from those without such a head.
    """
    layers = whole_layers(model, heads)
    if layers is None:
        return random_sets(model.heads, heads, count=count, seed=seed, apart_from=apart_from)
    tested = {*layers, *(head.layer for head in apart_from)}
    free = [layer for layer in model.anatomy.attending if layer not in tested]
    return [heads_among(model, each) for each in _drawn(_Pools([(free, len(layers))], "size", 1.0), count, seed)]


@dataclass(frozen=True)
class _Pools(Generic[T]):
    """From what to draw how many: all at once, or layer by layer; `shrinkage` as in `AgainstRandom`."""

    each: Sequence[tuple[Sequence[T], int]]
    match: Match
    shrinkage: float

    @property
    def existing(self) -> int:
        """How many sets there are."""
        return math.prod(math.comb(len(pool), size) for pool, size in self.each)

    @property
    def none(self) -> str:
        """Why there is no set; empty if there is one."""
        free = len(self.each[0][0])
        told = f"only {free} {'head is' if free == 1 else 'heads are'} not under test" if free else ""
        return "" if self.existing else told or "every head is under test"


def _pools(
    heads: Sequence[Head], picked: Collection[Head], match: Match, apart_from: Collection[Head]
) -> _Pools[Head]:
    own = set(picked)
    if not own:
        raise BadArgument("cannot draw a size-matched control for an empty set of heads.")
    if missing := sorted(own - set(heads)):
        raise BadArgument(f"cannot draw sets beside {missing[0]}: it is not among the {len(heads)} heads.")
    free = [head for head in heads if head not in own and head not in set(apart_from)]
    wanted = Counter(head.layer for head in own)
    layers = [([head for head in free if head.layer == layer], wanted[layer]) for layer in sorted(wanted)]
    of_layers = math.prod(math.comb(len(pool), size) for pool, size in layers)
    if match == "size" or not of_layers or of_layers < FEWEST_SETS <= math.comb(len(free), len(own)):
        match, layers = "size", [(free, len(own))]
    # If effects of heads add up, the variance of k picked ones beside f others is k (k + f) / f about the mean of the
    # sets, that of a set k (f - k) / f. Shrinking by this ratio, not its root, keeps p right where effects are skewed
    # too (not where a single head does nearly everything). Single heads are exchangeable as they are.
    apart, among = (sum(k * (len(f) + sign * k) / max(1, len(f)) for f, k in layers) for sign in (1, -1))
    return _Pools(layers, match, 1.0 if len(own) == 1 else max(0.0, among / apart))


def _drawn(pools: _Pools[T], count: int, seed: int) -> list[tuple[T, ...]]:
    """Up to `count` different sets: so many of each pool."""
    if count < 1:
        raise BadArgument(f"cannot draw {count} random sets: ask for at least 1, better 20 or more.")
    rng = random.Random(seed)
    if pools.existing <= _ENUMERABLE:
        parts = itertools.product(*(itertools.combinations(pool, size) for pool, size in pools.each))
        every = [tuple(itertools.chain(*part)) for part in parts]
        return every if len(every) <= count else rng.sample(every, count)
    drawn: dict[tuple[T, ...], None] = {}
    while len(drawn) < min(count, pools.existing):
        drawn[tuple(sorted(each for pool, size in pools.each for each in rng.sample(pool, size)))] = None
    return sorted(drawn)
