"""Source prompts with examples and zero-shot target prompts of the same function, and two controls of the source.

In: few-shot problems as numbers (`Shots`). Out: `SourceAndTarget`, the problems as numbers, and `TransferPrompts`,
the same as prompts of one model. A source prompt asks an x after pairs (x, y) of a function; the target prompt asks
another x of that function with nothing before it. What the target may answer once something of the source is patched
into it are the four answers of `shots.regimes`, or, without slopes (words, y = x + b), f of either x and either x
itself. A problem in which two of them are the same is left out, and so are a = 1 and b = 0 where there are others.
The controls share the source's inputs and its query: its labels shuffled, and pairs of another function (of y = x
beside a single one).

Source and target are written up to the first token that tells the four answers apart (`tasks.telling`), and there
they are patched and read; a problem whose answers part in steps is left out. Not done here: patching.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, Self

import numpy as np

from headscope.errors import BadArgument
from headscope.tasks.functions import Bools, Ints
from headscope.tasks.linear import linear
from headscope.tasks.natural import HasLanguage
from headscope.tasks.prompts import PER_EXAMPLE, Prompts
from headscope.tasks.shots import Shots, regimes
from headscope.tasks.telling import told_apart

# The answers by name: those of the source's task, and the source's own, with which it may have been copied.
TASK = ("f(target x)", "a · target x")
COPIED = ("f(source x)", "a · source x")
ANSWERS = (*TASK, *COPIED)
# Where a x is x itself, or nothing is multiplied, the second of each is no answer of the task but the input copied.
INPUTS = ("target x", "source x")
PLAIN = (TASK[0], COPIED[0], *INPUTS)
EXAMPLES, CONTROLS = "examples", ("label-shuffled", "another function")
_FEWEST = 10


# From sources, targets and answers: the length of each problem's source in tokens; 0 where it cannot be read.
Readable = Callable[[Shots, Shots, Mapping[str, Ints]], Ints]


@dataclass(frozen=True, eq=False)
class SourceAndTarget:
    """Sources with examples, with their labels shuffled and with another function's; zero-shot targets."""

    source: Shots
    target: Shots
    shuffled: Shots
    other: Shots
    slopes: bool = True

    @classmethod
    def of(
        cls, source: Shots, *, wanted: int, seed: int, readable: Readable | None = None, slopes: bool = True
    ) -> Self:
        """The first `wanted` of these sources whose four answers differ, with targets and controls.

        `readable` says of which problems a model's tokens tell the answers apart (`readable_by`); of these, sources
        of the most common length are taken where they are enough.
        Without `slopes`, or for functions that have none, a x is no answer.

        Raises:
            BadArgument: if the four answers differ, or are told apart, in too few problems.
        """
        target = source.asking_anew(seed + 1).without_context()
        slopes = slopes and source.functions.has_slopes
        numbers = _numbers(source, target, slopes)
        differing = np.flatnonzero(_telling(source, numbers))
        kept = differing
        if readable is not None and len(differing):
            some = {name: each[differing] for name, each in numbers.items()}
            lengths = readable(source.rows(differing), target.rows(differing), some)
            kept = differing[lengths > 0]
            alike = differing[lengths == np.bincount(lengths[lengths > 0], minlength=1).argmax()]
            kept = alike if len(alike) >= wanted else kept
        kept = kept[:wanted].tolist()
        if len(kept) < _FEWEST:
            inputs = "" if source.functions.is_number else " Or give another list: each input needs another output."
            raise BadArgument(
                f"cannot tell the task from a copied answer with these functions ({source.functions.stated}): in "
                f"{len(differing)} of {len(source)} problems {', '.join(numbers)} are four answers, in {len(kept)} "
                f"of them one token tells them apart, and at least {_FEWEST} are needed. Choose other ranges of a, "
                f"b or x, or another family.{inputs}"
            )
        source, target = source.rows(kept), target.rows(kept)
        other = _of_another(source, _numbers(source, target, slopes), target, seed + 3)
        return cls(source, target, source.with_shuffled_labels(seed + 2), other, slopes)

    @cached_property
    def numbers(self) -> dict[str, Ints]:
        """The four answers [problem], by name: `ANSWERS`, or `PLAIN` without slopes."""
        return _numbers(self.source, self.target, self.slopes)

    @property
    def answers(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.numbers)

    def __len__(self) -> int:
        return len(self.source)

    def rows(self, chosen: slice) -> Self:
        """Some of the problems."""
        some = {name: getattr(self, name).rows(chosen) for name in ("source", "target", "shuffled", "other")}
        return replace(self, **some)

    @property
    def even_slope(self) -> Bools:
        """Where the parity of f(x) is that of b whatever x is: a is even, bool [problem]."""
        functions = self.source.functions
        linear = functions.is_number and functions.family in ("linear", "quadratic")
        even: Bools = (self.source.parameters[:, 0] % 2 == 0) & linear
        return even


@dataclass(frozen=True, eq=False)
class TransferPrompts:
    """Problems as prompts: source and target up to the first token that tells the four answers apart.

    `target` [problem] has the telling token of f(target x), `source` that of f(source x) and, from there on, the rest
    of its answer. `sources` are the kinds of source, by name, up to the same token. `candidates` are the target with
    each of the four answers, `forced` [problem] the tokens that these share and that were put after it.
    """

    problems: SourceAndTarget
    source: Prompts
    candidates: Mapping[str, Prompts]
    sources: Mapping[str, Prompts]
    forced: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, model: HasLanguage, problems: SourceAndTarget) -> Self:
        kinds = zip((EXAMPLES, *CONTROLS), (problems.source, problems.shuffled, problems.other), strict=True)
        told = {kind: told_apart(model, shots, problems.numbers).prompts for kind, shots in kinds}
        sources = {kind: each[COPIED[0]] for kind, each in told.items()}
        target = told_apart(model, problems.target, problems.numbers)
        return cls(problems, sources[EXAMPLES], target.prompts, sources, target.forced)

    def __len__(self) -> int:
        return len(self.problems)

    @property
    def target(self) -> Prompts:
        return self.candidates[TASK[0]]

    @cached_property
    def tokens(self) -> dict[str, tuple[int, ...]]:
        """The telling token of each answer [problem], by name."""
        return {name: each.answers for name, each in self.candidates.items()}

    @cached_property
    def answered(self) -> Prompts:
        """The source gone on with its telling token, which is scored at the role `answering`."""
        return telling_alone(self.source).answered()

    @cached_property
    def target_answered(self) -> Prompts:
        """The target gone on with the telling token of f(target x), which is scored at the role `answering`."""
        return telling_alone(self.target).answered()

    def whole(self, answers: Sequence[str]) -> Prompts:
        """The target gone on with each of these answers to its end, [answer * problem]."""
        return _one_below_the_other([self.candidates[name].answered() for name in answers])

    @property
    def longest_answer(self) -> int:
        """Tokens of the longest answer, from its telling token on."""
        every = (*(each.answer_tokens for each in self.candidates.values()), self.source.answer_tokens)
        return max(len(answer) for answers in every for answer in answers)


def telling_alone(prompts: Prompts) -> Prompts:
    """The same prompts, whose answer is its first token alone."""
    return replace(prompts, answer_tokens=tuple((token,) for token in prompts.answers))


def readable_by(model: HasLanguage) -> Readable:
    """Which problems this model's tokens tell apart, and how long their sources are."""

    def lengths(source: Shots, target: Shots, answers: Mapping[str, Ints]) -> Ints:
        told = told_apart(model, target, answers)
        forced = [len(tokens) for tokens in told.forced]
        return np.where(told.clear, np.add(linear(model, source).lengths, forced), 0).astype(np.int64)

    return lengths


def _numbers(source: Shots, target: Shots, slopes: bool) -> dict[str, Ints]:
    if slopes:
        return dict(zip(ANSWERS, regimes(source, target).values(), strict=True))
    asked = (target.query, source.query)
    values = [source.functions.values(source.parameters, x) for x in asked]
    return dict(zip(PLAIN, (*values, *asked), strict=True))


def _of_another(source: Shots, numbers: Mapping[str, Ints], target: Shots, seed: int) -> Shots:
    """The same inputs and queries with pairs of another function, corrupted as often.

    It has another `a` where there is one, and its answers are none of the four where that is possible.
    """
    generator = np.random.default_rng(seed)
    grid, own = source.functions.others, np.stack(list(numbers.values()), axis=-1)
    forms = np.stack((grid, grid * np.array([1, 0])))[:, :, None]  # whole and slope alone, [form, function, 1, 2]
    chosen = []
    for row, parameters in enumerate(source.parameters):
        answers = source.functions.values(forms, np.array([source.query[row], target.query[row]]))
        another = (grid != parameters).any(1)
        steeper = another & (grid[:, 0] != parameters[0])
        apart = ~np.isin(answers, own[row]).any((0, 2))
        choices = next((each for each in (steeper & apart, steeper, another) if each.any()), ~another)
        chosen.append(grid[generator.choice(np.flatnonzero(choices))])
    parameters = np.array(chosen)
    y = source.functions.shown_values(parameters, source.x, source.noise, generator)
    return source.changed({"how": "about_another", "seed": seed}, parameters=parameters, y=y)


def _telling(source: Shots, numbers: Mapping[str, Ints]) -> Bools:
    """Which problems tell the four answers apart, bool [problem]."""
    values = np.sort(np.stack(list(numbers.values()), axis=-1), axis=-1)
    kept: Bools = np.asarray((np.diff(values, axis=-1) > 0).all(-1))
    for column, least in ((0, 2), (1, 1)):  # a = 1 and b = 0 tell less
        enough = source.parameters[:, column] >= least
        if (kept & enough).any():
            kept = kept & enough
    return kept


def _one_below_the_other(parts: Sequence[Prompts]) -> Prompts:
    """Prompts with answers; of the roles, the one that is scored."""
    joined: dict[str, Any] = {name: tuple(chain(*(getattr(part, name) for part in parts))) for name in PER_EXAMPLE}
    return Prompts(**joined, roles={"answering": tuple(chain(*(part.roles["answering"] for part in parts)))})
