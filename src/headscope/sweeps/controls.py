"""Size-matched controls: what ablating *any* so many heads does, beside the heads that were picked.

In: a model, prompts, groups of heads that were picked for a reason, an ablation and a measure. Out: per group, the
damage per prompt of the group and of as many heads picked for none, with a p value. Larger sets always do more
damage, and early layers do too: sets are of the same size, on request layer by layer. They are drawn without
replacement and never the picked one, so that where few exist the control is exhaustive; where too few exist for p
below .05, `reason` says so. Pick the groups on other prompts (tasks.split). Not done here: intervals over heads
looked at one by one (measures.simultaneous).
"""

import itertools
import math
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

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
_ENUMERABLE = 5000
_MOST_LISTED_LAYERS = 12


@dataclass(frozen=True)
class Control:
    """Which random sets stand beside a picked one.

    `count` sets at most; `match` is "size" (as many heads) or "layers" (as many from each layer).
    """

    count: int = 20
    seed: int = 0
    match: Match = "size"


@dataclass(frozen=True, eq=False)
class AgainstRandom:
    """A picked set of heads beside random sets, in the unit of the measure.

    `damage` [prompt] is that of the picked set, `set_damage` [set, prompt] that of `sets`, of which `existing`
    could have been drawn.
    """

    picked: Heads
    damage: Tensor
    sets: tuple[Heads, ...]
    set_damage: Tensor
    existing: int
    match: Match

    @property
    def estimate(self) -> Estimate:
        """Mean damage of the picked set with its interval over prompts."""
        return interval(self.damage.numpy())

    @property
    def beyond(self) -> Estimate:
        """How much more damage than the mean random set, paired by prompt; these sets are taken as given."""
        return interval((self.damage - self.set_damage.mean(0)).numpy())

    @property
    def means(self) -> Tensor:
        """Mean damage of every random set, [set]."""
        return self.set_damage.mean(1)

    @property
    def p(self) -> float:
        """Share of sets, the picked one included, with at least its mean damage: never 0; NaN if undefined."""
        own = self.damage.mean()
        if bool(own.isnan()) or bool(self.means.isnan().any()):
            return math.nan
        return (1 + int((self.means >= own).sum())) / (1 + len(self.sets))

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
        if math.isnan(self.p):
            return "the measure is undefined for some prompts"
        if self.smallest_p <= SIGNIFICANT:
            return ""
        heads = "1 head" if len(self.picked) == 1 else f"{len(self.picked)} heads"
        whence = " from the same layers" if self.match == "layers" else ""
        which = "were drawn" if len(self.sets) < self.existing else "exist"
        return f"only {len(self.sets)} other sets of {heads}{whence} {which}, so p is at least {self.smallest_p:.3f}"


def against_random_sets(
    model: Model,
    prompts: Prompts,
    groups: Mapping[str, Collection[Head]],
    *,
    ablation: Intervention,
    measure: Measure,
    control: Control | None = None,
    progress: Progress = silent,
) -> dict[str, AgainstRandom]:
    """Each group ablated together, beside random sets of heads of the same model, on the same prompts.

    `ablation` is a template on z that is filled in with each set of heads: `hs.mean("z", over=...)`,
    `hs.zero("z")`, `hs.to_bos("z")`. A set that several groups draw is run once.

    Raises:
        BadArgument: for an empty group, an ablation that is no template on z, or no random set asked for.
    """
    if any((target.site, target.layer) != ("z", None) for target in ablation.targets):
        raise BadArgument(
            f"cannot ablate random heads by '{ablation}': it names its own target. Give a template on z, for example "
            "hs.zero('z')."
        )
    control = control or Control()
    named = {group: tuple(dict.fromkeys(listed)) for group, listed in groups.items()}
    drawn = {
        group: random_sets(model.heads, picked, count=control.count, seed=control.seed, match=control.match)
        for group, picked in named.items()
    }
    every = [heads for group, picked in named.items() for heads in (picked, *drawn[group])]
    distinct = list({frozenset(heads): heads for heads in every}.values())
    cells = [Cell((replace(ablation, targets=targets_of(heads)),)) for heads in distinct]
    harm = damages(model, prompts, cells, measure, progress=staged(progress, "sets of heads"))
    row = {frozenset(heads): index for index, heads in enumerate(distinct)}
    return {
        group: AgainstRandom(
            picked,
            harm[row[frozenset(picked)]],
            tuple(drawn[group]),
            harm[[row[frozenset(heads)] for heads in drawn[group]]],
            _existing(_pools(model.heads, picked, control.match)),
            control.match,
        )
        for group, picked in named.items()
    }


def random_sets(
    heads: Sequence[Head], picked: Collection[Head], *, count: int = 20, seed: int = 0, match: Match = "size"
) -> list[Heads]:
    """Up to `count` different sets of as many heads as `picked`, never `picked` itself.

    `match="layers"` takes as many heads from each layer as `picked` has there.

    >>> len(random_sets([Head(0, i) for i in range(4)], [Head(0, 1)]))
    3
    >>> random_sets([Head(0, 0), Head(0, 1), Head(1, 0)], [Head(0, 0), Head(1, 0)], match="layers")
    [(Head(0, 1), Head(1, 0))]

    Raises:
        BadArgument: if nothing is picked, a picked head is not among `heads`, or no set is asked for.
    """
    own = frozenset(picked)
    if not own:
        raise BadArgument("cannot draw a size-matched control for an empty set of heads.")
    if count < 1:
        raise BadArgument(f"cannot draw {count} random sets: ask for at least 1, better 20 or more.")
    if missing := sorted(own - set(heads)):
        raise BadArgument(f"cannot draw sets beside {missing[0]}: it is not among the {len(heads)} heads.")
    pools = _pools(heads, own, match)
    drawn = _others(pools, own, count, seed, listed=_existing(pools) <= _ENUMERABLE)
    return drawn if _existing(pools) <= _ENUMERABLE else sorted(drawn)


def random_ablations(model: Model, heads: Collection[Head], *, count: int, seed: int = 0) -> list[Heads]:
    """Up to `count` other sets of the same size: as many layers for all heads of some layers, else as many heads."""
    layers, attending = whole_layers(model, heads), model.anatomy.attending
    if layers is None:
        return random_sets(model.heads, heads, count=count, seed=seed)
    listed = len(attending) <= _MOST_LISTED_LAYERS
    drawn = _others([(attending, len(layers))], frozenset(layers), count, seed, listed=listed)
    return [heads_among(model, each) for each in drawn]


def _others(
    pools: Sequence[tuple[Sequence[T], int]], own: frozenset[T], count: int, seed: int, *, listed: bool
) -> list[tuple[T, ...]]:
    """Up to `count` sets but `own`: so many of each pool, chosen among all sets if they are to be `listed`."""
    rng = random.Random(seed)
    if listed:
        parts = itertools.product(*(itertools.combinations(pool, size) for pool, size in pools))
        every = [chosen for part in parts if frozenset(chosen := tuple(itertools.chain(*part))) != own]
        return every if len(every) <= count else rng.sample(every, count)
    drawn: dict[tuple[T, ...], None] = {}
    while len(drawn) < min(count, _existing(pools)):
        chosen = tuple(sorted(each for pool, size in pools for each in rng.sample(pool, size)))
        if frozenset(chosen) != own:
            drawn[chosen] = None
    return list(drawn)


def _existing(pools: Sequence[tuple[Sequence[Any], int]]) -> int:
    """How many such sets there are beside the picked one."""
    return math.prod(math.comb(len(pool), size) for pool, size in pools) - 1


def _pools(heads: Sequence[Head], picked: Collection[Head], match: Match) -> list[tuple[Sequence[Head], int]]:
    """From which heads to draw how many: all at once, or layer by layer."""
    if match == "size":
        return [(heads, len(set(picked)))]
    wanted = Counter(head.layer for head in set(picked))
    return [([head for head in heads if head.layer == layer], wanted[layer]) for layer in sorted(wanted)]
