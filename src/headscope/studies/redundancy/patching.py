"""What B answers once the stream of A's last position is put at its own, layer by layer, whatever is cut in A.

In: a model, prompts, a cut. Out: `Evidence`: A's own answer under the cut, and for three kinds of A (the task; its
labels shuffled; another function) what B answers when the stream before each layer, or the final stream, is moved.
All layers are one sweep. What counts as *carried* stands here once: an answer's probability, minus that under a
control, exceeds `MARGIN` by its lower bound over prompts, for both controls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from headscope.interventions import patch
from headscope.measures import interval, joint_probability
from headscope.measures.intervals import Array
from headscope.measures.readouts import Measure
from headscope.models.model import Model
from headscope.models.protocols import Edit
from headscope.models.run import Run
from headscope.studies.redundancy_parts.problems import COPIED, REGIMES, TASK
from headscope.studies.redundancy_parts.prompts import Written, exactly, nearly, said, said_in_cells
from headscope.sweeps.grid import Cell
from headscope.sweeps.naive import evaluate
from headscope.sweeps.ordered import cell_values
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Head

# An answer is carried if it is likelier than under the controls by more than this.
MARGIN = 0.1
CONTROLS = ("shuffled", "other")


@dataclass(frozen=True, eq=False)
class Answers:
    """What B answers, by stream: `probability` [stream, regime, prompt], `said` and `number` [stream, prompt].

    `said` is the number itself, NaN for none; `number` how far the next token is one at all.
    """

    probability: Tensor
    said: Tensor
    number: Tensor


@dataclass(frozen=True, eq=False)
class Own:
    """A's own answer: `probability` of the right one, the number `said`, `number` as in `Answers`; all [prompt]."""

    probability: Tensor
    said: Tensor
    number: Tensor


@dataclass(frozen=True)
class Beyond:
    """A mean per stream [stream], and how far it is above its controls: the less favourable bound of the two."""

    mean: Array
    low: Array
    high: Array
    controls: dict[str, Array]
    beyond: Array
    beyond_low: Array
    beyond_high: Array
    prompts: int

    @property
    def carries(self) -> list[bool]:
        """For each stream, whether its lower bound above both controls exceeds the margin."""
        return [bool(low > MARGIN) for low in self.beyond_low]

    @property
    def first(self) -> int | None:
        """The first stream that carries; None if none does."""
        return next((stream for stream, carries in enumerate(self.carries) if carries), None)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything about one cut on one half of the prompts; `answers` by kind of A."""

    written: Written
    heads: tuple[Head, ...]
    own: Own
    answers: dict[str, Answers]

    @property
    def n_streams(self) -> int:
        return len(self.answers["task"].said)

    def probability(self, *names: str) -> Beyond:
        """Of these answers together, in each stream."""
        return against({kind: self.probability_of(names, kind) for kind in self.answers})

    def probability_of(self, names: Sequence[str], kind: str = "task") -> Tensor:
        """Of these answers together, [stream, prompt], patched from this kind of A."""
        index = [REGIMES.index(name) for name in names]
        return self.answers[kind].probability[:, index].sum(1)

    def says(self, name: str, *, near: bool = False) -> Beyond:
        """The share of prompts for which B says this answer, or a number near it."""
        right, alike = self.written.problems.numbers[name], nearly if near else exactly
        return against({kind: alike(found.said, right) for kind, found in self.answers.items()})

    def any_number(self) -> Beyond:
        """How far the next token is a number."""
        return against({kind: found.number for kind, found in self.answers.items()})

    def parity(self) -> Beyond | None:
        """The share for which B says a number of the parity of f(x_B), where a is even; None without such.

        There all labels have the parity of b, which shuffling leaves: another function is the only control.
        """
        problems = self.written.problems
        even = torch.from_numpy(problems.even_slope)
        if not bool(even.any()):
            return None
        right = torch.from_numpy(problems.numbers["f(x_B)"] % 2)[even]
        kinds = {k: (found.said[:, even] % 2 == right).double() for k, found in self.answers.items()}
        return against(kinds, controls=("other",))

    def best_task(self) -> tuple[str, int]:
        """The answer of the task, and the stream, that are farthest above their controls."""
        found = {name: self.probability(name).beyond for name in TASK}
        best = max(TASK, key=lambda name: float(found[name].max()))
        return best, int(found[best].argmax())

    @property
    def knows(self) -> bool:
        """Whether A itself answers f(x_A), beyond A with shuffled labels and A about another function.

        The final stream is A's own answer, so this is what it carries.
        """
        return self.probability("f(x_A)").carries[-1]

    def first_task(self) -> int | None:
        """The first stream that carries f(x_B) or a x_B."""
        return _earliest(self, TASK)

    def last_task(self) -> int | None:
        """The last stream that carries f(x_B) or a x_B: whatever forms the task comes before it."""
        carries = [any(pair) for pair in zip(*(self.probability(name).carries for name in TASK), strict=True)]
        return max((stream for stream, each in enumerate(carries) if each), default=None)

    def first_copied(self) -> int | None:
        """The first stream that carries f(x_A) or a x_A: from there on x_A has travelled."""
        return _earliest(self, COPIED)


def against(kinds: Mapping[str, Tensor], controls: Sequence[str] = CONTROLS) -> Beyond:
    """Values [stream, prompt] under the task, by themselves and above each of the controls, prompt by prompt."""
    values = {kind: found.double().numpy().T for kind, found in kinds.items()}
    own = values["task"]
    found = interval(
        np.stack([own, *(own - values[control] for control in controls)], axis=1), within=(-1.0, 1.0)
    )
    mean, low, high = (each[1:].min(0) for each in (found.mean, found.low, found.high))
    means = {kind: values[kind].mean(0) for kind in CONTROLS}
    return Beyond(found.mean[0], found.low[0].clip(0.0), found.high[0], means, mean, low, high, found.n)


def _earliest(evidence: Evidence, names: Sequence[str]) -> int | None:
    firsts = [evidence.probability(name).first for name in names]
    return min((first for first in firsts if first is not None), default=None)


def streams_of(model: Model) -> list[tuple[str, int]]:
    """The places that are patched: the stream before each layer, then the final one."""
    return [*(("resid_pre", layer) for layer in range(model.n_layers)), ("resid_post", model.n_layers - 1)]


def stream_named(index: int, n_layers: int) -> str:
    """A stream as tables name it.

    >>> stream_named(2, 4), stream_named(4, 4)
    ('before layer 2', 'final stream')
    """
    return "final stream" if index == n_layers else f"before layer {index}"


def the_stream(index: int, n_layers: int) -> str:
    """A stream in a sentence.

    >>> the_stream(2, 4), the_stream(4, 4)
    ('the stream before layer 2', 'the final stream')
    """
    name = stream_named(index, n_layers)
    return f"the {name}" if index == n_layers else f"the stream {name}"


def evidence_of(
    model: Model, written: Written, number: Measure, cut: Sequence[Edit], heads: Sequence[Head]
) -> Evidence:
    """A's own answer under the cut, and what B makes of each kind of A under it."""
    answers = {}
    for kind, source in written.sources.items():
        ends = ends_of(model, source.prompts, cut)
        answers[kind] = _answers(model, written, number, ends, source.of_answers)
    return Evidence(written, tuple(heads), own_answer(model, written, number, cut), answers)


def own_answer(model: Model, written: Written, number: Measure, cut: Sequence[Edit]) -> Own:
    probability, any_number = evaluate(model, written.a, [joint_probability(), number], cut)
    return Own(probability, said(model, written.asked, cut, written.longest_answer), any_number)


def unpatched(model: Model, written: Written, number: Measure) -> Answers:
    """B as it is, as one stream."""
    (probability,) = evaluate(model, written.answers, [joint_probability()])
    (any_number,) = evaluate(model, written.b, [number])
    own = said(model, written.b, [], written.longest_answer)
    return Answers(probability.reshape(1, len(REGIMES), -1), own[None], any_number[None])


def ends_of(model: Model, prompts: Prompts, cut: Sequence[Edit]) -> Run:
    """A run of these prompts of which only the last position is kept, as if each were its last token alone."""
    sites = streams_of(model)
    kept_bytes = 4 * prompts.longest * (len(sites) * model.d_model + model.vocab_size)
    step = max(1, model.memory_bytes // kept_bytes)
    parts: list[dict[tuple[str, int], Tensor]] = []
    for start in range(0, len(prompts), step):
        rows = slice(start, min(start + step, len(prompts)))
        some = prompts.rows(rows)
        with model.taking(rows):
            run = model.run(some, interventions=[edit.rows(rows) for edit in cut], capture=sites)
        last = torch.tensor(some.lengths) - 1
        parts.append({site: run[site][torch.arange(len(some)), last][:, None] for site in sites})
    captured = {site: torch.cat([part[site] for part in parts]) for site in sites}
    tokens = Prompts(tuple((example[-1],) for example in prompts.tokens))
    return Run(model, tokens, tuple(cut), torch.empty(len(prompts), 1, 0), captured)


def _answers(model: Model, written: Written, number: Measure, ends: Run, index: Sequence[int]) -> Answers:
    n = len(written)
    for_all, for_b = ends.rows(list(index)), ends.rows(list(index[:n]))

    def cells(source: Run) -> list[Cell]:
        last = {-1: -1}
        return [
            Cell((patch(site, source=source, positions=last),), layer=stream)
            for stream, site in enumerate(streams_of(model))
        ]

    probability = cell_values(model, written.answers, cells(for_all), joint_probability())
    return Answers(
        probability.reshape(len(probability), len(REGIMES), n),
        said_in_cells(model, written.b, cells(for_b), written.longest_answer),
        cell_values(model, written.b, cells(for_b), number),
    )
