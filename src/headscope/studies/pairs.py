"""What the studies of (x, y) pairs have in common: their settings, and the problems drawn from them.

In: a model and settings. Out: `Shots`. A model that was trained on a language of pairs is asked about its own
functions, with as many pairs and as much noise as it knows, unless the settings say otherwise; every other model
gets `tasks.shots.EVERYDAY`, twelve clean pairs. With `article`, prompts show that article's pairs and differ in the
query: their unit is the query, and no claim about examples can be judged (`over_lists`).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np

from headscope.errors import BadArgument
from headscope.evidence import Test
from headscope.evidence.claim import told
from headscope.models.model import Model
from headscope.results.study import Claim, Verdict
from headscope.studies.context import Part, Settings, setting
from headscope.tables import Table
from headscope.tasks.functions import Functions, Which
from headscope.tasks.linear import functions_of
from headscope.tasks.shots import ARTICLE_PAIRS, EVERYDAY, Shots
from headscope.tasks.words import LISTS, WordPairs

_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_OVER = re.compile(r"(?<=over )prompts|prompts(?= behind)")


@dataclass(frozen=True, kw_only=True)
class PairsConfig(Settings):
    """Settings of every study of pairs; the command's options and help come from these fields."""

    doing: ClassVar[str] = "study pairs"
    n: int = setting(100, "problems (prompts) for each estimate", at_least=10)
    seed: int = setting(0, "seed of everything random", at_least=0)
    shots: int | None = setting(
        None, "pairs before the query (default: as many as the model was trained on, or 12)", at_least=0
    )
    noise: float | None = setting(
        None, "share of pairs with a random y (default: as in the model's training, or 0)", at_least=0, at_most=1
    )
    family: str | None = setting(None, "linear, quadratic, threshold or modular (default: the model's own)")
    modulus: int | None = setting(None, "of the modular family")
    a: str | None = setting(None, "range of a, for example 1..5")
    b: str | None = setting(None, "range of b, for example 0..9")
    inputs: str | None = setting(None, "range of x, for example 1..99")
    among: str = setting(
        "grid", "functions: all (grid), those of the model's training, or held_out ones", choices=get_args(Which)
    )
    article: bool = setting(False, "the twelve pairs, y = 2x + 3, of the article on redundant heads, with n queries")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("a", "b", "inputs"):
            _range(name, getattr(self, name))

    def functions(self, model: Model) -> Functions:
        """The functions that this model is asked about.

        Raises:
            BadArgument: for ranges that are none, or a family that needs a modulus and has none.
        """
        known = functions_of(model) or EVERYDAY
        chosen: dict[str, Any] = {"family": self.family, "modulus": self.modulus}
        chosen |= {name: _range(name, getattr(self, name)) for name in ("a", "b", "inputs")}
        changed = {name: value for name, value in chosen.items() if value is not None}
        if not changed:
            return known
        own = {name: getattr(known, name) for name in ("family", "modulus", "a", "b", "inputs")}
        return Functions(**own | changed)  # others than those of the training: none are held out

    def draw(
        self, model: Model, *, n: int | None = None, shots: int | None = None, seed: int = 0, spare: int = 0
    ) -> Shots:
        """Problems for this model; `n` and `shots` in place of the settings', `seed` on top of theirs.

        `spare` inputs besides the query are not shown (see `Shots.draw`).
        """
        language, functions = functions_of(model), self.functions(model)
        many = self.n if n is None else n
        if self.article:
            return _articles(many, self.seed + seed)
        known = functions.usual_shots if language is None else language.shots - 1
        usual = 0.0 if language is None else language.noise
        return Shots.draw(
            functions,
            shots=next(each for each in (shots, self.shots, known) if each is not None),
            n=many,
            noise=usual if self.noise is None else self.noise,
            among=self.among,  # type: ignore[arg-type]  # checked above
            seed=self.seed + seed,
            spare=spare,
        )


@dataclass(frozen=True, kw_only=True)
class TasksConfig(PairsConfig):
    """The same for studies that also take word pairs."""

    task: str | None = setting(None, f"word pairs in place of functions: {', '.join(LISTS)}")
    pairs: str | None = setting(None, "a file of word pairs: JSON (input, output), or two columns")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task is None and self.pairs is None:
            return
        named = ("task", "pairs", "family", "modulus", "a", "b", "inputs")
        given = [name for name in named if getattr(self, name) is not None]
        given += ["article"] * self.article + ["among"] * (self.among != "grid")
        if len(given) > 1:
            raise BadArgument(
                f"cannot {self.doing} with {' and '.join(given)} together: --task and --pairs name word pairs, in "
                "place of functions. Give one of the two alone."
            )
        _ = self.words  # a list that cannot be read is refused before the model is opened

    @cached_property
    def words(self) -> WordPairs | None:
        """The word pairs that were named."""
        if self.task is not None:
            return WordPairs.named(self.task)
        return None if self.pairs is None else WordPairs.read(Path(self.pairs))

    def functions(self, model: Model) -> Functions:
        return self.words or super().functions(model)


def own_lists(shots: Shots) -> tuple[Test, ...]:
    """What every claim about examples needs: prompts that show lists of their own."""
    reason = "all prompts show one list of pairs and differ in the query alone"
    return (Test("generalisation to other examples", None, above=0.0, reason=reason),) if shots.one_list else ()


def unit_of(shots: Shots) -> str:
    """What is independent: prompts, prompts of one named task, or, of one list of examples, queries."""
    if shots.one_list:
        return "queries"
    return f"prompts of {shots.functions.single}" if shots.functions.single else "prompts"


def over_lists(question: Callable[[Any], Part]) -> Callable[[Any], Part]:
    """A question about the prompts that the settings draw.

    Of one task, they are prompts of that task, and so every claim says; with one list of examples they are queries,
    and nothing is judged.
    """

    @wraps(question)
    def asked(ctx: Any) -> Part:
        shots, part = ctx.settings.draw(ctx.model, n=1), question(ctx)
        unit, needs = unit_of(shots), own_lists(shots)
        if unit == "prompts":
            return part
        return replace(
            part,
            claims=[_of_unit(each, unit, needs, shots.functions.single) for each in part.claims],
            tables=[_over_unit(each, unit) for each in part.tables],
        )

    return asked


def _of_unit(judged: Claim, unit: str, needs: Sequence[Test], task: str) -> Claim:
    """The claim about this unit; unjudged where it needs more."""
    evidence = tuple(replace(row, over=unit if row.over == "prompts" else row.over) for row in judged.evidence)
    if needs:
        rows = tuple(each.row("need") for each in needs)
        because = f"Not judged: {told(rows[0])}."
        return replace(judged, verdict=Verdict.UNDETERMINED, because=because, evidence=(*rows, *evidence))
    statement = f"On {task} alone, {judged.statement[:1].lower()}{judged.statement[1:]}"
    return replace(judged, statement=statement, evidence=evidence)


def _over_unit(shown: Table, unit: str) -> Table:
    """A table of means over prompts, as one over this unit."""
    names = {"prompts": unit} if unit == "queries" and "prompts" in shown.frame.columns else {}
    columns = tuple(
        replace(each, name=names.get(each.name, each.name), meaning=_OVER.sub(unit, each.meaning))
        for each in shown.schema.columns
    )
    return Table(replace(shown.schema, columns=columns), shown.frame.rename(names))


def described(shots: Shots) -> str:
    """What is asked, in a sentence for the notes."""
    pairs = f"{shots.x.shape[1]} pairs before each query, {shots.noise:.0%} of them with a random y"
    return f"Problems: {shots.functions.stated}; {pairs}."


def expected_noise(model: Model, shots: Shots) -> float:
    """The share of random y that an observer with the model's experience expects: that of its training."""
    language = functions_of(model)
    return shots.noise if language is None else language.noise


def _articles(n: int, seed: int) -> Shots:
    """The article's pairs, with queries that they do not show."""
    shown = {x for x, _ in ARTICLE_PAIRS}
    free = [x for x in range(1, 100) if x not in shown]
    if n > len(free):
        raise BadArgument(
            f"cannot ask {n} queries of the article's pairs: {len(free)} inputs from 1 to 99 are not shown. "
            f"Use n={len(free)} or fewer."
        )
    drawn: Sequence[int] = np.random.default_rng(seed).permutation(free)[:n].tolist()
    return Shots.article(drawn)


def _range(name: str, written: str | None) -> tuple[int, int] | None:
    if written is None:
        return None
    match = _RANGE.fullmatch(written.strip()) if isinstance(written, str) else None
    if match is None:
        raise BadArgument(f"cannot read {name}={written!r}: write a range of whole numbers, for example 1..5.")
    return int(match[1]), int(match[2])
