"""The spot check: a few random cells of every kind are run both ways before a plan is trusted.

In: the cells of a sweep, prepared. Out: for each kind of cell (which sites it edits, how it enters) the
fastest path that gave the numbers of full passes on this very model, and the reason where it is not the
first. What is compared is a random projection of the logits at the read positions, against the size of the
logits, so that no measure can hide a difference. A kind is checked once per model and length of prompts, on the
first few prompts of the sweep: full passes read all logits, and on all prompts would cost more than many a sweep.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from headscope.measures.readouts import Measure, ReadOut
from headscope.models.anatomy import TOLERANCE
from headscope.models.kept import Keeper
from headscope.sweeps.engine import Engine
from headscope.sweeps.naive import OWN, measured, with_own_position
from headscope.sweeps.plan import Costs, Traits
from headscope.sweeps.sweep import Setting, Sweep, Work, prepared
from headscope.tasks.prompts import Prompts

SAMPLED = 2  # cells of each kind that are run both ways
PROMPTS = 4  # on so many prompts: what a path does wrong it does on every prompt
Kind = tuple[str, ...]


@dataclass(frozen=True)
class Path:
    """One way to run a kind of cell; the last one, full passes, needs no check."""

    name: str
    traits: Traits | None
    own_positions: bool = False


@dataclass(frozen=True)
class Choice:
    """The path of one kind of cell, and why not a faster one."""

    path: Path
    note: str = ""


FULL = Path("full pass", None)


def kind_of(work: Work, measures: Sequence[Measure]) -> Kind:
    """What makes cells alike: the sites they edit, at one position or many, and whether they are read there."""
    many = any(place.last > place.first for place in work.places)
    own = any(measure.read_out.positions.role == OWN for measure in measures)
    several = len({place.layer for place in work.places}) > 1
    marks = [mark for mark, holds in (("many", many), ("own", own), ("several", several)) if holds]
    return (*sorted({place.site for place in work.places}), *marks)


def choose(
    sweep: Sweep, setting: Setting, works: Sequence[Work], paths: Sequence[Path], costs: Costs, *, prompts: int
) -> list[Choice]:
    """For each cell the first of `paths` that agrees with full passes on its kind; it is run on so many prompts."""
    kinds: dict[Kind, list[int]] = {}
    for index, work in enumerate(works):
        kinds.setdefault(kind_of(work, setting.measures), []).append(index)
    chosen: dict[int, Choice] = {}
    rng = random.Random(0)
    for kind, members in kinds.items():
        base = sorted({place.site for place in setting.base_places})
        key = f"sweep {kind} {setting.prompts.longest} {base} {[path.name for path in paths]}"
        keeper = Keeper("choice of a path", sweep.model, key)
        before = None if sweep.model.is_cached(key) else _kept_choice(keeper, paths)
        few = len(members) * prompts <= SAMPLED * min(PROMPTS, prompts)
        if few and not sweep.model.is_cached(key) and before is None:
            choice = Choice(FULL, "so few cells that checking them would cost more")
        else:
            sampled = rng.sample(members, min(SAMPLED, len(members)))
            agreeing = partial(_first_agreeing, _first_prompts(sweep.of(sampled)), paths, costs)
            choice = before or sweep.model.cached(key, agreeing)
            if before is None:
                _keep_choice(keeper, paths, choice)
        chosen |= dict.fromkeys(members, choice)
    return [chosen[index] for index in range(len(works))]


def _kept_choice(keeper: Keeper, paths: Sequence[Path]) -> Choice | None:
    """What an earlier process found of this kind of cell."""
    found = keeper.take()
    if found is None:
        return None
    place, note = found
    return Choice([*paths, FULL][int(place)], bytes(note.tolist()).decode())


def _keep_choice(keeper: Keeper, paths: Sequence[Path], choice: Choice) -> None:
    place = torch.tensor([*paths, FULL].index(choice.path))
    keeper.put([place, torch.tensor(list(choice.note.encode()), dtype=torch.uint8)])


def _first_prompts(sweep: Sweep) -> Sweep:
    """The sweep on its first prompts, which keep their places in a larger one."""
    few = min(PROMPTS, len(sweep.prompts))
    begin = 0 if sweep.rows is None else sweep.rows.start
    return replace(sweep.part(slice(0, few)), rows=slice(begin, begin + few))


def _first_agreeing(sweep: Sweep, paths: Sequence[Path], costs: Costs) -> Choice:
    setting, works = prepared(sweep)
    model, read_outs = sweep.model, dict.fromkeys(each.read_out for each in setting.measures)
    measures = [measure for read_out in read_outs for measure in fingerprints(read_out)]
    watched = replace(setting, measures=tuple(measures))
    expected = []
    for cell in sweep.cells:
        edits = [*sweep.base_interventions, *cell.interventions]
        with model.batch_rows(sweep.rows or slice(0, len(sweep.prompts))):
            expected.append(measured(model, with_own_position(sweep.prompts, cell.position), measures, edits))
    tolerance = 10 * TOLERANCE.get(model.dtype, 1.5e-2)
    notes = []
    for path in paths:
        assert path.traits is not None
        if path.own_positions and not any(read_out.positions.role == OWN for read_out in read_outs):
            continue
        try:
            # Each twice, so that every one of them runs as rows beside others.
            engine = Engine(model, watched, [*works, *works], path.traits, costs, own_positions=path.own_positions)
            resumed = dict(engine.run())
        except Exception as error:  # whatever a model file raises when its layers are called one by one
            notes.append(f"{path.name} fails with {type(error).__name__}: {str(error).splitlines()[0][:120]}")
            continue
        worst = max(projected_error(resumed[index], values) for index, values in enumerate(expected * 2))
        if worst <= tolerance:
            return Choice(path, "; ".join(notes))
        notes.append(f"{path.name} differs from a full pass by {worst:.1e} of the logits")
    return Choice(FULL, "; ".join(notes))


def fingerprints(read_out: ReadOut) -> list[Measure]:
    """A random projection of the logits at the read positions, and their size."""

    def project(logits: Tensor, _: Prompts, at: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        signs = torch.randn(logits.shape[-1], generator=generator).to(logits.device) / math.sqrt(logits.shape[-1])
        weights = torch.linspace(0.5, 1.0, at.shape[1], device=logits.device) * (at >= 0).to(logits.device)
        return ((logits.float() @ signs) * weights).sum(1)

    def size(logits: Tensor, _: Prompts, at: Tensor) -> Tensor:
        squares = logits.float().square().mean(-1) * (at >= 0).to(logits.device)
        return squares.sum(1).sqrt()

    return [Measure("projection", "logits", 1, read_out, project), Measure("size", "logits", 1, read_out, size)]


def projected_error(got: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The worst difference of the projections, relative to the size of the logits."""
    pairs = zip(got[::2], expected[::2], expected[1::2], strict=True)
    errors = [((own - right).abs() / size.clamp(min=1e-30)).nan_to_num(nan=math.inf) for own, right, size in pairs]
    return max(float(error.max()) for error in errors)
