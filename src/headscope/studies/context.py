"""What a study is written with: a plan of questions, a context to answer them in, parts that answers are.

A study is a folder: `plan.py` holds a `Plan`, and every question is one file with a function `question(ctx) ->
Part`. Questions do not know each other; what several need is a function of the context, computed once (`ctx.once`).
Not done here: numbers (measures, evidence), pages (report).
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import ge, gt, le
from typing import Any, ClassVar, Generic, Self, TypeVar, get_args, get_type_hints

from headscope.errors import BadArgument
from headscope.models.history import History
from headscope.models.model import Model
from headscope.results.provenance import provenance
from headscope.results.study import AttentionExample, Claim, Figure, Source, Study, Verdict
from headscope.studies.budgets import Budget, Fitted, fitted, told_of
from headscope.studies.forecasts import Forecast, Stage, forecast
from headscope.sweeps.cost import Cost, cost_of
from headscope.tables import Table
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Progress, silent, staged

T = TypeVar("T")
MISSING = dataclasses.MISSING


def setting(
    default: Any,
    help: str,
    *,
    quick: Any = MISSING,
    least: int | None = None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """A field of settings: its default, its help, its value in a quick run, and what values it takes.

    A study with a budget shrinks a field that has a `least` down to that, unless it was chosen (studies.budgets).
    """
    limits = {"at_least": at_least, "above": above, "at_most": at_most, "choices": tuple(choices)}
    return field(default=default, metadata={"help": help, "quick": quick, "least": least, **limits})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a study: the command's options, their help and their checks come from the fields.

    Raises:
        BadArgument: for a value that a field does not take, before anything runs.
    """

    doing: ClassVar[str] = "study a model"
    force: bool = setting(False, "go on although the model does not do what the study is about")

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if value is not None or type(None) not in get_args(hints[each.name]):
                self._check(each, value, hints[each.name])

    def _check(self, each: "dataclasses.Field[Any]", value: Any, hint: Any) -> None:
        told = f"cannot {self.doing} with {each.name}={value!r}: "
        types = get_args(hint) or (hint,)
        if int in types and not (isinstance(value, int) and not isinstance(value, bool)):
            raise BadArgument(f"{told}it must be a whole number.")
        if float in types and not isinstance(value, int | float):
            raise BadArgument(f"{told}it must be a number.")
        limits = each.metadata
        if limits.get("choices") and value not in limits["choices"]:
            raise BadArgument(f"{told}it must be one of {', '.join(limits['choices'])}.")
        for name, holds in (("at_least", ge), ("above", gt), ("at_most", le)):
            if limits.get(name) is not None and not holds(value, limits[name]):
                raise BadArgument(f"{told}it must be {name.replace('_', ' ')} {limits[name]}.")

    def check(self, model: Model) -> None:
        """Raise BadArgument for what this model cannot be asked, before it runs."""

    def quick(self) -> Self:
        """Smaller, for a first look; what was chosen stays as chosen."""
        smaller = {
            each.name: each.metadata["quick"]
            for each in dataclasses.fields(self)
            if each.metadata.get("quick", MISSING) is not MISSING and getattr(self, each.name) == each.default
        }
        return dataclasses.replace(self, **smaller)


S = TypeVar("S", bound=Settings)


@dataclass(eq=False)
class Context(Generic[S]):
    """What every question is answered in: one model or several, settings, and whom to tell how far it is.

    `budget` is None, or knows how long the study may take, and what of that is spent and left. `histories` are the
    trainings of a study of several checkpoints, whose `model` is the last one of the first training.
    """

    settings: S
    models: tuple[Model, ...]
    progress: Progress = silent
    budget: Budget | None = None
    histories: tuple[History, ...] = ()
    _known: dict[Callable[..., Any], Any] = field(default_factory=dict)

    @property
    def model(self) -> Model:
        """The model, or the first of several."""
        return self.models[0]

    @property
    def cost(self) -> Cost:
        """What passes of the model cost, in seconds; timed when it is first asked for."""
        return cost_of(self.model)

    def once(self, function: Callable[[Any], T]) -> T:
        """`function(ctx)`, computed when it is first asked for."""
        if function not in self._known:
            self._known[function] = function(self)
        result: T = self._known[function]
        return result

    def stage(self, name: str) -> Progress:
        """The progress of one stage, for what counts its own steps."""
        return staged(self.progress, name)


@dataclass(frozen=True, kw_only=True)
class Part:
    """What the answer to one question holds, in the order of the report.

    `says` are sentences for the reader after the answer of the study; `notes` assumptions and limits.
    """

    tables: Sequence[Table] = ()
    claims: Sequence[Claim] = ()
    figures: Sequence[Figure] = ()
    says: Sequence[str] = ()
    notes: Sequence[str] = ()
    attention: Sequence[AttentionExample] = ()


@dataclass(frozen=True)
class Gate:
    """Whether a model does what a study is about: `part` shows it, `stops` says why the study ends here and what to
    try; empty where it goes on."""

    part: Part
    stops: tuple[str, ...] = ()


def open_gate(ctx: Any) -> Gate:
    """For studies that have something to say of every model."""
    return Gate(Part())


@dataclass(frozen=True, kw_only=True)
class Plan(Generic[S]):
    """A study: who asks what of which model, and how it is introduced.

    `gate(ctx)` is asked before all questions, which are not asked where it stops (unless the settings `force` them).
    `answer(ctx, parts)` gives the one or two sentences that a reader sees first; `lead` names the figure beside them;
    `prompts(ctx)` are those that the record describes. `shown_on` is the model that the study shows itself on.
    `stages(settings, model)` say what will be asked of the model; without `fit(settings, model, seconds)`, settings
    that fit into a budget are found by shrinking what may shrink (studies.budgets). A study of trainings names in
    `suites` those that it shows itself on; its stages are `stages(settings, model, histories)`.
    """

    name: str
    help: str
    title: str
    question: str
    settings: type[S]
    shown_on: str
    questions: tuple[Callable[[Any], Part], ...]
    answer: Callable[[Any, Mapping[str, Claim]], Sequence[str]]
    prompts: Callable[[Any], Iterable[Prompts]]
    gate: Callable[[Any], Gate] = open_gate
    stages: Callable[..., Sequence[Stage]] | None = None
    fit: Callable[[Any, Model, float], Fitted] | None = None
    suites: tuple[str, ...] = ()
    lead: str = ""
    sources: tuple[Source, ...] = ()
    terms: Mapping[str, str] = field(default_factory=dict)

    def forecast(self, settings: S, model: Model, histories: Sequence[History] = ()) -> Forecast:
        """What the study will ask of a model, by stage; nothing is run but a few passes that are timed.

        Raises:
            BadArgument: for a study that does not say what it will ask.
        """
        return forecast(self.name, model, self._stages(settings, model, histories), cost_of(model))

    def fitting(self, settings: S, model: Model, seconds: float, histories: Sequence[History] = ()) -> Fitted:
        """Settings with which the study fits into so many seconds, and what was reduced for it.

        Raises:
            BadArgument: where it does not fit at the least, with the time that it takes.
        """
        if self.fit is not None:
            return self.fit(settings, model, seconds)
        return fitted(
            settings,
            lambda each: self.forecast(each, model, histories).seconds,
            seconds,
            doing=f"run the study {self.name!r}",
        )

    def _stages(self, settings: S, model: Model, histories: Sequence[History]) -> Sequence[Stage]:
        if self.stages is None:
            raise BadArgument(
                f"cannot say how long the study {self.name!r} takes: its plan does not say what it asks. Leave "
                "--budget and --dry-run away."
            )
        return self.stages(settings, model, histories) if self.suites else self.stages(settings, model)

    def run(
        self,
        settings: S,
        model: Model,
        progress: Progress = silent,
        budget: Budget | None = None,
        histories: Sequence[History] = (),
    ) -> Study:
        """Answer the questions about a model; a budget is told in the record, with what was reduced for it."""
        settings.check(model)
        ctx = Context(settings, (model,), progress, budget, tuple(histories))
        gate = self.gate(ctx)
        stops = () if settings.force else gate.stops
        parts = [gate.part, *(question(ctx) for question in (() if stops else self.questions))]
        claims = [claim for part in parts for claim in part.claims]
        by_name = {claim.name: claim for claim in claims}
        return Study(
            name=self.name,
            title=f"{self.title}: {', '.join(each.name for each in histories) or model.name}",
            question=self.question,
            answer=stops or tuple(self.answer(ctx, by_name)),
            claims=tuple(claims),
            tables=_joined(parts),
            figures=tuple(figure for part in parts for figure in part.figures),
            lead="" if stops else self.lead,
            details=tuple(sentence for part in parts for sentence in part.says),
            terms=self.terms,
            sources=self.sources,
            attention=tuple(example for part in parts for example in part.attention),
            notes=(
                *dict.fromkeys((*gate.stops[:1], *(note for part in parts for note in part.notes))),
                *told_of(budget, settings, sum(each.verdict is Verdict.UNDETERMINED for each in claims)),
            ),
            provenance={
                **provenance(model, self.name, settings, *(() if stops else self.prompts(ctx))),
                **({} if budget is None else {"budget": budget.to_json()}),
                **({"trainings": {each.name: list(each.steps) for each in histories}} if histories else {}),
            },
        )


def _joined(parts: Sequence[Part]) -> dict[str, Table]:
    """The tables of all parts by name, in their order."""
    tables: dict[str, Table] = {}
    for table in (table for part in parts for table in part.tables):
        if table.name in tables:
            raise ValueError(f"two parts of a study have tables named {table.name!r}")
        tables[table.name] = table
    return tables
