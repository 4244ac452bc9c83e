"""Which heads carry a function, which look up examples, and whether they are the same.

In: a model and problems. Out: per head the *causal indirect effect* (Todd et al. 2024): how much more likely the
answer of a label-shuffled prompt becomes when that head's output at the read-out is replaced by its mean over
clean prompts of the problem's function; and two induction scores. *Prefix matching* (Olsson et al. 2022) is
attention to what followed earlier copies of the token, on repeated random tokens. *Example to example* is attention
from the tokens from which a y is predicted to earlier y: in pairs of number tokens those are exactly what followed
earlier copies of the comma, so it is prefix matching on the model's own prompts. Not here: verdicts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import hypergeom, rankdata
from torch import Tensor

from headscope.detectors import Detector, default_prompts, detector
from headscope.detectors.pairs import KeySets
from headscope.detectors.reading import MassReading
from headscope.detectors.scores import LayerMass, rows_of
from headscope.errors import HeadscopeError
from headscope.interventions import set_values
from headscope.measures import joint_probability
from headscope.models.model import Model
from headscope.studies.vectors_parts.problems import Problems
from headscope.sweeps import Cell, evaluate
from headscope.sweeps.cell_values import cell_values
from headscope.tasks import linear
from headscope.tasks.functions import Ints
from headscope.tasks.linear import functions_of
from headscope.tasks.prompts import Prompts
from headscope.tasks.split import halves
from headscope.vocabulary import Head, Progress, silent

PREFIX, EXAMPLES = "prefix matching", "example to example"
RESAMPLES = 1999
Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Induction:
    """One induction score: rows of the detector by head, and attention beyond the null, [prompt, head].

    Where it could not be measured `reason` says why, and the rest is empty.
    """

    rows: Mapping[Head, Mapping[str, object]]
    above: Array
    reason: str = ""

    def top(self, count: int) -> tuple[Head, ...]:
        """The heads that look up most, strongest first."""
        order = sorted(self.rows, key=lambda head: -float(self.rows[head]["score"]))  # type: ignore[arg-type]
        return tuple(order[:count])


def indirect_effects(
    model: Model,
    problems: Problems,
    means: Mapping[int, Tensor],
    progress: Progress = silent,
) -> Tensor:
    """The causal indirect effect of every head on every problem, float64 [head, problem], heads as in the model."""
    prompts = linear(model, problems.shuffled).answered()
    cells = [
        Cell(
            (set_values(head, means[head.layer][problems.function, head.index], positions=-1),),
            head.layer,
            head.index,
        )
        for head in model.heads
    ]
    measure = joint_probability()
    (before,) = evaluate(model, prompts, [measure])
    return cell_values(model, prompts, cells, measure, progress=progress) - before


def judged_kind(model: Model) -> str:
    """The induction score that means something on this model.

    In a language of pairs an input never comes twice, so nothing there rewards matching repeated tokens.
    """
    return PREFIX if functions_of(model) is None else EXAMPLES


def induction_scores(model: Model, half: Problems, *, n: int, seed: int, part: int) -> dict[str, Induction]:
    """Both induction scores; `part` 0 or 1 says which half of `2 n` repeated prompts is read."""
    found: dict[str, Induction] = {}
    try:
        shown = halves(default_prompts(model, n=2 * n, seed=seed))[part]
        found[PREFIX] = _scored(model, detector("induction"), shown.repeated, shown.unrepeated)
    except HeadscopeError as error:
        found[PREFIX] = Induction({}, np.zeros((0, 0)), str(error))
    meaning = "attends to earlier y from where a y is predicted"
    examples = Detector("example_to_example", example_to_example, "natural", "other keys", meaning)
    found[EXAMPLES] = _scored(model, examples, linear(model, half.few))
    return found


def example_to_example(prompts: Prompts) -> KeySets:
    """From each token before which a y is predicted, and from the read-out, to all tokens of earlier y."""
    queries = prompts.where("before_y") | prompts.where("readout")
    earlier = torch.ones(prompts.longest, prompts.longest, dtype=torch.bool).tril(-1)
    pairs = prompts.where("y")[:, None, :] & earlier & queries[:, :, None]
    return KeySets(pairs, pairs.any(-1))


def _scored(model: Model, kind: Detector, shown: Prompts, matched: Prompts | None = None) -> Induction:
    """The detector's rows; its null is `matched` prompts, or, without them, other keys of the same queries."""
    sets = [kind.key_sets(shown)]
    reading, null = MassReading(sets), MassReading(sets)
    model.read(shown, [reading])
    if matched is not None:
        model.read(matched, [null])
    layers = {
        layer: LayerMass(
            mass[0],
            reading.other[layer][0] if matched is None else null.mass[layer][0],
            reading.uniform[layer][0],
        )
        for layer, mass in sorted(reading.mass.items())
    }
    rows = {Head.parse(str(row["head"])): row for row in rows_of(kind, layers)}  # type: ignore[call-overload]
    above = torch.cat([read.mass for read in layers.values()], dim=1)
    return Induction(rows, above[~above.isnan().any(1)].double().numpy())


@dataclass(frozen=True)
class Overlap:
    """How two rankings of the same heads agree.

    `common` of the `top` heads of each are the same; `expected` if each were drawn at random, with the chances of
    at least and at most so many. `share_low` and `share_high` bound the common share, `low` and `high` the rank
    correlation `rho` (95%, resampled functions and prompts); `p` is that of so strong a correlation, of either
    sign, if heads were exchanged at random.
    """

    top: int
    common: int
    expected: float
    p_at_least: float
    p_at_most: float
    share_low: float
    share_high: float
    rho: float
    low: float
    high: float
    p: float


def overlap(
    effects: Array, induction: Array, picked: tuple[Sequence[Head], Sequence[Head]], *, seed: int
) -> Overlap:
    """Agreement of effects [function, head] and induction scores [prompt, head]; `picked` were chosen elsewhere."""
    heads, top = effects.shape[1], len(picked[0])
    common = len(set(picked[0]) & set(picked[1]))
    chance = hypergeom(heads, top, top)
    generator = np.random.default_rng(seed)
    rho = _rank_correlation(effects.mean(0)[None], induction.mean(0)[None])[0]
    again = [
        np.stack(
            [values[rows].mean(0) for rows in generator.integers(0, len(values), (RESAMPLES, len(values)))]
        )
        for values in (effects, induction)
    ]
    rhos = _rank_correlation(*again)
    first = [np.argsort(-values, axis=1, kind="stable")[:, :top] for values in again]
    shares = (first[0][:, :, None] == first[1][:, None, :]).any(2).mean(1)
    orders = generator.random((RESAMPLES, heads)).argsort(axis=1)
    exchanged = _rank_correlation(np.broadcast_to(effects.mean(0), orders.shape), induction.mean(0)[orders])
    share_low, share_high = np.quantile(shares, (0.025, 0.975))
    low, high = np.quantile(rhos, (0.025, 0.975))
    return Overlap(
        top,
        common,
        top * top / heads,
        float(chance.sf(common - 1)),
        float(chance.cdf(common)),
        float(share_low),
        float(share_high),
        float(rho),
        float(low),
        float(high),
        float((1 + (np.abs(exchanged) >= abs(rho) - 1e-12).sum()) / (1 + RESAMPLES)),
    )


def _rank_correlation(one: Array, other: Array) -> Array:
    """Spearman's rho of rows, [row] from two [row, head]; NaN where a row is constant."""
    ranks = [rankdata(values, axis=1) for values in (one, other)]
    centred = [values - values.mean(1, keepdims=True) for values in ranks]
    spread = np.sqrt((centred[0] ** 2).sum(1) * (centred[1] ** 2).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = (centred[0] * centred[1]).sum(1) / spread
    return found


def by_function(values: Tensor, function: Ints) -> Array:
    """Means over the problems of each function, float64 [function, ...] from [..., problem]."""
    given_values = np.moveaxis(np.asarray(values, np.float64), -1, 0)
    count = int(function.max()) + 1
    return np.stack([given_values[function == number].mean(0) for number in range(count)])


def top_heads(effects: Tensor, heads: Sequence[Head], count: int) -> tuple[Head, ...]:
    """The heads of largest mean effect, largest first."""
    mean = effects.mean(1)
    order = sorted(range(len(heads)), key=lambda place: -float(mean[place]))
    return tuple(heads[place] for place in order[:count])
