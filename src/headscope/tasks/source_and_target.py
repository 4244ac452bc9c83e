"""Source prompts with examples and zero-shot target prompts of the same function, and two controls of the source.

In: few-shot problems as numbers (`Shots`). Out: `SourceAndTarget`, the problems as numbers, and `TransferPrompts`,
the same as prompts of one model. A source prompt asks an x after pairs (x, y) of a function; the target prompt asks
another x of that function with nothing before it. What the target may answer once something of the source is patched
into it are the four answers of `shots.regimes`; a problem in which two of them are the same number is left out, and
so are a = 1 and b = 0 where there are others. The controls share the source's inputs and its query: its labels
shuffled, and pairs of another function.

Each answer has a target prompt of its own that goes on with it, so that the probability of the whole number, all its
tokens together, can be read; and the source is written up to the same point, so that what is patched stands before
the same kind of token. (A tokenizer that joins the space with some digits ends the prompt before the space for those
and after it for others.) Not done here: patching.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

TASK = ("f(target x)", "a · target x")
COPIED = ("f(source x)", "a · source x")
ANSWERS = (*TASK, *COPIED)
EXAMPLES, CONTROLS = "examples", ("label-shuffled", "another function")
_FEWEST = 10


@dataclass(frozen=True, eq=False)
class SourceAndTarget:
    """Sources with examples, with their labels shuffled and with another function's; zero-shot targets."""

    source: Shots
    target: Shots
    shuffled: Shots
    other: Shots

    @classmethod
    def of(cls, source: Shots, *, wanted: int, seed: int) -> Self:
        """The first `wanted` of these sources whose four answers differ, with targets and controls.

        Raises:
            BadArgument: if the four answers differ in too few problems.
        """
        target = source.asking_anew(seed + 1).without_context()
        kept = np.flatnonzero(_telling(source, _numbers(source, target)))[:wanted].tolist()
        if len(kept) < _FEWEST:
            raise BadArgument(
                f"cannot tell the task from a copied answer with these functions ({source.functions.stated}): in "
                f"{len(kept)} of {len(source)} problems {', '.join(ANSWERS)} are four numbers, and at least "
                f"{_FEWEST} are needed. Choose other ranges of a, b or x, or another family."
            )
        source, target = source.rows(kept), target.rows(kept)
        return cls(source, target, source.with_shuffled_labels(seed + 2), _of_another(source, target, seed + 3))

    @cached_property
    def numbers(self) -> dict[str, Ints]:
        """The four answers [problem], by name."""
        return _numbers(self.source, self.target)

    def __len__(self) -> int:
        return len(self.source)

    def rows(self, chosen: slice) -> Self:
        """Some of the problems."""
        return type(self)(*(shots.rows(chosen) for shots in (self.source, self.target, self.shuffled, self.other)))

    @property
    def even_slope(self) -> Bools:
        """Where the parity of f(x) is that of b whatever x is: a is even, bool [problem]."""
        linear = self.source.functions.family in ("linear", "quadratic")
        even: Bools = (self.source.parameters[:, 0] % 2 == 0) & linear
        return even


@dataclass(frozen=True, eq=False)
class Source:
    """One kind of source: `prompts` up to the answer, none twice; `of_answers` [answer * problem] are the rows
    from which the target's answers get theirs, answer by answer."""

    prompts: Prompts
    of_answers: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TransferPrompts:
    """Problems as prompts: source and target up to where an answer begins, and gone on with answers.

    `answered` goes on with the source's own, `target_answers` [answer * problem] are the target with each of the
    four. `sources` are the kinds of source, by name.
    """

    problems: SourceAndTarget
    source: Prompts
    answered: Prompts
    target: Prompts
    target_answers: Prompts
    sources: Mapping[str, Source]

    @classmethod
    def of(cls, model: HasLanguage, problems: SourceAndTarget) -> Self:
        source = linear(model, problems.source)
        targets = [linear(model, problems.target, answers=problems.numbers[name]) for name in ANSWERS]
        kinds = zip((EXAMPLES, *CONTROLS), (problems.source, problems.shuffled, problems.other), strict=True)
        sources = {kind: _source(model, shots, problems) for kind, shots in kinds}
        answers = _one_below_the_other([target.answered() for target in targets])
        return cls(problems, source, source.answered(), targets[0], answers, sources)

    def __len__(self) -> int:
        return len(self.problems)

    @property
    def longest_answer(self) -> int:
        """Tokens of the longest answer."""
        return max(map(len, (*self.target_answers.answer_tokens, *self.answered.answer_tokens)))


def _numbers(source: Shots, target: Shots) -> dict[str, Ints]:
    return dict(zip(ANSWERS, regimes(source, target).values(), strict=True))


def _of_another(source: Shots, target: Shots, seed: int) -> Shots:
    """The same inputs and queries with pairs of another function, corrupted as often.

    It has another `a` where there is one, and its answers are none of the four where that is possible.
    """
    generator = np.random.default_rng(seed)
    grid, own = source.functions.grid, np.stack(list(_numbers(source, target).values()), axis=-1)
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


def _source(model: HasLanguage, shots: Shots, problems: SourceAndTarget) -> Source:
    rows = [row for name in ANSWERS for row in linear(model, shots, answers=problems.numbers[name]).tokens]
    known = {tokens: number for number, tokens in enumerate(dict.fromkeys(rows))}
    return Source(Prompts(tuple(known)), tuple(known[tokens] for tokens in rows))


def _one_below_the_other(parts: Sequence[Prompts]) -> Prompts:
    """Prompts with answers; of the roles, the one that is scored."""
    joined: dict[str, Any] = {name: tuple(chain(*(getattr(part, name) for part in parts))) for name in PER_EXAMPLE}
    return Prompts(**joined, roles={"answering": tuple(chain(*(part.roles["answering"] for part in parts)))})
