"""The spot check: a few random cells of every kind are run both ways before a plan is trusted.

In: the cells of a sweep, prepared. Out: for each kind of cell (which sites it edits, how it enters) the
fastest path that gave the numbers of full passes on this very model, and the reason where it is not the
first. What is compared is a random projection of the logits at the read positions, against the size of the
logits, so that no measure can hide a difference. A kind is checked once per model and length of prompts.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from headscope.measures.readouts import Measure, ReadOut
from headscope.models.anatomy import TOLERANCE
from headscope.models.model import Model
from headscope.models.protocols import Edit
from headscope.sweeps.engine import Engine, Setting, Work
from headscope.sweeps.grid import Cell
from headscope.sweeps.naive import OWN, evaluate, with_own_position
from headscope.sweeps.plan import Costs, Traits
from headscope.tasks.prompts import Prompts

SAMPLED = 2  # cells of each kind that are run both ways
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
    model: Model,
    setting: Setting,
    works: Mapping[int, Work],
    cells: Sequence[Cell],
    under: Sequence[Edit],
    paths: Sequence[Path],
    costs: Costs,
    seed: int,
) -> dict[Kind, Choice]:
    """The first of `paths` that agrees with full passes, for each kind of cell."""
    kinds: dict[Kind, list[int]] = {}
    for index, work in works.items():
        kinds.setdefault(kind_of(work, setting.measures), []).append(index)
    chosen: dict[Kind, Choice] = {}
    rng = random.Random(seed)
    for kind, members in kinds.items():
        key = f"sweep {kind} {setting.prompts.longest} {_under(setting)} {[p.name for p in paths]}"
        if len(members) <= SAMPLED and not model.recalls(key):
            chosen[kind] = Choice(FULL, "so few cells that checking them would cost more")
            continue
        sampled = rng.sample(members, min(SAMPLED, len(members)))
        agreeing = partial(_first_agreeing, model, setting, works, cells, under, paths, costs, sampled)
        chosen[kind] = model.remember(key, agreeing)
    return chosen


def _first_agreeing(
    model: Model,
    setting: Setting,
    works: Mapping[int, Work],
    cells: Sequence[Cell],
    under: Sequence[Edit],
    paths: Sequence[Path],
    costs: Costs,
    sampled: Sequence[int],
) -> Choice:
    measures = [measure for read_out in _read_outs(setting) for measure in fingerprints(read_out)]
    watched = replace(setting, measures=tuple(measures))
    expected = [_full_pass(model, setting.prompts, measures, cells[i], under) for i in sampled]
    tolerance = 10 * TOLERANCE.get(model.dtype, 1.5e-2)
    notes = []
    for path in paths:
        assert path.traits is not None
        if path.own_positions and not any(read_out.positions.role == OWN for read_out in _read_outs(setting)):
            continue
        try:
            # Each twice, so that every one of them runs as rows beside others.
            twice = [works[i] for i in [*sampled, *sampled]]
            engine = Engine(model, watched, twice, path.traits, costs, own_positions=path.own_positions)
            found = dict(engine.run())
        except Exception as error:  # whatever a model file raises when its layers are called one by one
            notes.append(f"{path.name} fails with {type(error).__name__}: {str(error).splitlines()[0][:120]}")
            continue
        worst = max(projected_error(found[index], values) for index, values in enumerate(expected * 2))
        if worst <= tolerance:
            return Choice(path, "; ".join(notes))
        notes.append(f"{path.name} differs from a full pass by {worst:.1e} of the logits")
    return Choice(FULL, "; ".join(notes))


def _under(setting: Setting) -> list[str]:
    return sorted({place.site for place in setting.under_places})


def _read_outs(setting: Setting) -> list[ReadOut]:
    return list(dict.fromkeys(measure.read_out for measure in setting.measures))


def _full_pass(
    model: Model, prompts: Prompts, measures: Sequence[Measure], cell: Cell, under: Sequence[Edit]
) -> list[Tensor]:
    return evaluate(model, with_own_position(prompts, cell.position), measures, [*under, *cell.interventions])


def fingerprints(read_out: ReadOut) -> list[Measure]:
    """A random projection of the logits at the read positions, and their size."""

    def project(logits: Tensor, _: Prompts, at: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        signs = torch.randn(logits.shape[-1], generator=generator).to(logits.device) / math.sqrt(
            logits.shape[-1]
        )
        weights = torch.linspace(0.5, 1.0, at.shape[1], device=logits.device) * (at >= 0).to(logits.device)
        return ((logits.float() @ signs) * weights).sum(1)

    def size(logits: Tensor, _: Prompts, at: Tensor) -> Tensor:
        squares = logits.float().square().mean(-1) * (at >= 0).to(logits.device)
        return squares.sum(1).sqrt()

    return [
        Measure("projection", "logits", 1, read_out, project),
        Measure("size", "logits", 1, read_out, size),
    ]


def projected_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The worst difference of the projections, relative to the size of the logits."""
    worst = 0.0
    for index in range(0, len(expected), 2):
        scale = expected[index + 1].clamp(min=1e-30)
        error = ((found[index] - expected[index]).abs() / scale).nan_to_num(nan=math.inf)
        worst = max(worst, float(error.max()))
    return worst
