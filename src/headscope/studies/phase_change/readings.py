"""What is read at one checkpoint: losses, what every head attends to and writes, and what its ablation changes.

In: a suite and a step. Out: a `Reading`, kept for whoever goes on after a stop. Which heads count as induction heads
is decided once, at the last checkpoint, on the prompts of even number; all that is reported is of the others.
Ablations leave losses per token, so that what a head does to in-context learning, and how far it moves losses the way
the change did, are both differences of the same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from headscope.detectors import above_null, head_attention, kinds, signed_raise
from headscope.interventions import Intervention, pattern_preserving, value_preserving, zero
from headscope.measures.intervals import Array
from headscope.measures.samples import Samples
from headscope.models.kept import kept
from headscope.models.model import Model
from headscope.models.protocols import Edit
from headscope.studies.head_sets import named
from headscope.studies.phase_change.circuit import Circuit, circuit_of, prefix_without
from headscope.studies.phase_change.settings import Ctx, PhaseSettings, Suite, suites
from headscope.tasks.prompts import Prompts
from headscope.tasks.split import ESTIMATION, SELECTION
from headscope.vocabulary import Head

ATTENDS = ("induction", "previous_token", "bos")
MOST_ABLATED = 64  # heads; of a larger model the named ones, and as many others
OTHERS = 12
KINDS = ("induction", "previous token", "other")
FULL, PATTERNS_KEPT, VALUES_KEPT = "zero", "zero, patterns preserved", "zero, values preserved"


@dataclass(frozen=True, eq=False)
class Chosen:
    """What the last checkpoint decides: the kind of each head, the heads that are ablated, the two-head circuit."""

    heads: tuple[Head, ...]
    kinds: dict[Head, str]
    ablated: tuple[Head, ...]
    circuit: Circuit | None

    def of(self, kind: str) -> list[Head]:
        return [head for head in self.heads if self.kinds[head] == kind]


@dataclass(frozen=True, eq=False)
class Reading:
    """One checkpoint, float64; prompts are those of odd number.

    `loss` [text, position] of every prediction in nats, of which the first texts are those of `ablated`; `repeat`
    [prompt] on predictable tokens; `attends` and `null`
    [prompt, head] by detector; `raised` [prompt, head] the signed raise, NaN where it is not served; `ablated`
    [kind of ablation, head, text, position] losses; `cut` [case, prompt] prefix matching of the induction heads with
    nothing cut, without the path from the previous-token head to their keys, and without that from another head.
    """

    step: int
    loss: Array
    repeat: Array
    attends: dict[str, Array]
    null: dict[str, Array]
    raised: Array
    ablated: Array
    cut: Array


@dataclass(frozen=True, eq=False)
class Read:
    """A suite with what was read at each of its steps."""

    suite: Suite
    chosen: Chosen
    at: tuple[Reading, ...]

    @property
    def name(self) -> str:
        return self.suite.name

    @property
    def steps(self) -> tuple[int, ...]:
        return self.suite.steps

    def score(self, detector: str, null: bool = False) -> Array:
        """Mean attention of every head, [step, head]."""
        return np.stack([(each.null if null else each.attends)[detector].mean(0) for each in self.at])

    def highest(self, detector: str) -> Array:
        """The largest mean score of any head, minus the largest of the matched null, [step]."""
        largest: Array = np.nanmax(self.score(detector), 1) - np.nanmax(self.score(detector, null=True), 1)
        return largest


def read(ctx: Ctx) -> tuple[Read, ...]:
    """Every suite at every step that is taken."""
    found = []
    for place, suite in enumerate(ctx.once(suites)):
        chosen = choose(suite.history.open(suite.last), suite)
        readings = []
        for done, step in enumerate(suite.steps):
            stage = f"{suite.name} ({place + 1} of {len(ctx.histories)})"
            ctx.progress(stage, done, len(suite.steps))
            model = suite.history.open(step)
            readings.append(reading_of(model, suite, chosen, step, ctx.settings))
        found.append(Read(suite, chosen, tuple(readings)))
    return tuple(found)


def choose(model: Model, suite: Suite) -> Chosen:
    """What the heads are at the last checkpoint, by the prompts of even number."""
    half = suite.prompts.rows(SELECTION)
    attention = head_attention(model, ATTENDS[:2], prompts=half)
    strongest = {kind: named(above_null(attention[kind])) for kind in ATTENDS[:2]}
    raised, _ = signed_raise(model, half)
    sign = kinds(above_null(attention["induction"]), raised)
    induction = [head for head in strongest["induction"] if sign[str(head)] == "induction"]
    kind_of = dict.fromkeys(model.heads, KINDS[2]) | dict.fromkeys(strongest["previous_token"], KINDS[1])
    kind_of |= dict.fromkeys(induction, KINDS[0])
    ablated = model.heads
    if len(ablated) > MOST_ABLATED:
        own = [head for head in model.heads if kind_of[head] != KINDS[2]]
        others = [head for head in model.heads if kind_of[head] == KINDS[2]]
        drawn = np.random.default_rng(0).permutation(len(others))[: max(OTHERS, len(own))]
        ablated = tuple(sorted([*own, *(others[place] for place in drawn)]))
    circuit = circuit_of(model, induction, strongest["previous_token"], attention["previous_token"])
    return Chosen(tuple(model.heads), kind_of, tuple(ablated), circuit)


def reading_of(model: Model, suite: Suite, chosen: Chosen, step: int, settings: PhaseSettings) -> Reading:
    """What one checkpoint shows on the prompts of odd number."""
    half = suite.prompts.rows(ESTIMATION)
    attention = head_attention(model, ATTENDS, prompts=half)
    raised, _ = signed_raise(model, half)
    asked = (suite.texts, chosen.ablated, settings.ablated, settings.preserving)
    losses = kept("losses under ablations", model, asked, lambda: _losses(model, suite.texts, chosen, settings))
    judged = half.repeated.where("predictable")[:, :-1]
    repeat = token_losses(model, half.repeated)[judged].reshape(len(half.repeated), -1)

    def stacked(which: str, name: str) -> Array:
        layers = [getattr(each, which) for _, each in sorted(attention[name].items())]
        return torch.cat(layers, 1).double().numpy()

    none = np.full((len(half.repeated), len(chosen.heads)), np.nan)
    cut = prefix_without(model, half, chosen.circuit)
    return Reading(
        step=step,
        loss=losses[0].double().numpy(),
        repeat=repeat.double().mean(1).numpy(),
        attends={name: stacked("mass", name) for name in ATTENDS},
        null={name: stacked("null", name) for name in ATTENDS},
        raised=none if raised is None else _by_head(raised, chosen.heads, len(none)),
        ablated=losses[1].double().numpy(),
        cut=cut,
    )


def token_losses(model: Model, prompts: Prompts, edits: Sequence[Edit] = ()) -> Tensor:
    """Loss of every prediction in nats, float32 [prompt, position - 1]; prompts are of one length."""
    ids, parts = prompts.ids, []
    for rows in model.batches(len(prompts), bytes_each=12 * prompts.longest * model.vocab_size):
        some = prompts.rows(rows)
        with model.batch_rows(rows):
            logits = model.run(some, interventions=[edit.rows(rows) for edit in edits]).logits[:, :-1]
        wanted = ids[rows, 1:].to(logits.device)
        parts.append(torch.nn.functional.cross_entropy(logits.float().mT, wanted, reduction="none").cpu())
    return torch.cat(parts)


def ablation_of(head: Head, kind: str) -> tuple[Intervention, ...]:
    """How one head is ablated: as a whole, without its effect on later patterns, or by that effect alone."""
    edit = zero(head)
    if kind == PATTERNS_KEPT:
        return pattern_preserving(edit)
    return value_preserving(edit) if kind == VALUES_KEPT else (edit,)


def kinds_of_ablation(preserving: bool) -> tuple[str, ...]:
    return (FULL, PATTERNS_KEPT, VALUES_KEPT) if preserving else (FULL,)


def _losses(model: Model, texts: Prompts, chosen: Chosen, settings: PhaseSettings) -> list[Tensor]:
    clean, some = token_losses(model, texts), texts.rows(slice(0, settings.ablated))
    cut = [
        torch.stack([token_losses(model, some, ablation_of(head, kind)) for head in chosen.ablated])
        for kind in kinds_of_ablation(settings.preserving)
    ]
    return [clean, torch.stack(cut)]


def _by_head(raised: Samples, heads: Sequence[Head], prompts: int) -> Array:
    """[prompt, head]; NaN for heads and prompts that were left out."""
    values = np.full((prompts, len(heads)), np.nan)
    places = [heads.index(Head.parse(cell[-1])) for cell in raised.cells]
    values[np.ix_([int(str(unit)) for unit in raised.units], places)] = raised.values
    return values
