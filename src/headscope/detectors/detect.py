"""The detectors at work: every head of a model read on prompts with the structure and on its matched null.

In: a model and names of detectors. Out: the detector table, one row per head and detector; what its columns
mean and when a head is named stands in detectors.scores. Both kinds of prompts are built here, and numbers out
of range are refused before the model runs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from headscope.detectors.catalogue import DEFAULT, Detector, detectors
from headscope.detectors.catalogue import detector as detector_named
from headscope.detectors.copying import COLUMNS, NOTHING_READ, copying, written
from headscope.detectors.reading import MassReading, Ticks
from headscope.detectors.scores import HEADS, LayerMass, rows_of
from headscope.errors import BadArgument, PromptError, UnservedModel
from headscope.measures.intervals import MIN_UNITS
from headscope.measures.samples import Samples
from headscope.models.kept import kept
from headscope.models.model import Model
from headscope.models.protocols import Edit
from headscope.tables import Table
from headscope.tasks.natural import natural
from headscope.tasks.prompts import Prompts
from headscope.tasks.repeated import repeated_tokens, without_repeats
from headscope.tasks.vocabulary import ordinary_tokens
from headscope.vocabulary import Progress, silent

LARGEST_SEED = 2**63 - 1
NAMING_UNITS = 16  # an exact sign flip with Holm over 270 heads can name none on fewer than 14
SIGNED = "induction"  # the detector whose heads are told apart by the sign of what they write
DETECTED = replace(HEADS, columns=(*HEADS.columns[:-1], *COLUMNS, HEADS.columns[-1]))


@dataclass(frozen=True)
class DetectorPrompts:
    """The prompts that detectors are judged on; `default_prompts` builds them for a model."""

    natural: Prompts
    repeated: Prompts
    unrepeated: Prompts

    def rows(self, chosen: slice) -> "DetectorPrompts":
        """Some of the prompts of each kind."""
        return DetectorPrompts(self.natural.rows(chosen), self.repeated.rows(chosen), self.unrepeated.rows(chosen))


def default_prompts(
    model: Model,
    *,
    n: int = 50,
    seed: int = 0,
    text: str | None = None,
    named: str = "a given text",
    length: int = 25,
    repeats: int = 4,
    gaps: tuple[int, int] = (0, 0),
    reach: int = 0,
    spoken: int = 64,
    fewest: int = MIN_UNITS,
) -> DetectorPrompts:
    """Natural prompts of `spoken` tokens; segments of `length` distinct tokens shown `repeats` times after BOS.

    Where context or vocabulary is too small for that, segments get shorter. Natural prompts are at least
    twice as long as `reach` (how far back a detector looks) where the context allows. A short text gives
    fewer natural prompts than `n`, and their recipe says so.

    Raises:
        BadArgument: for numbers out of range, or a gap or a reach that the context has no room for.
        PromptError: if a text gives fewer than `fewest` prompts.
    """
    check_sizes("detect heads", n=n, seed=seed)
    check_reach(model, reach)
    if length < 2 or repeats < 2 or not 0 <= gaps[0] <= gaps[1]:
        raise BadArgument(
            f"cannot show a segment of {length} tokens {repeats} times with gaps {gaps}: use at least 2 tokens, "
            "2 times, and gaps (low, high) with 0 <= low <= high."
        )
    ordinary = len(ordinary_tokens(model)[0])
    room = min((model.context or 10**9) - 1, ordinary) - (repeats - 1) * gaps[1]
    if room < 2 * repeats:
        raise BadArgument(
            f"cannot show a segment {repeats} times with up to {gaps[1]} other tokens before each repeat: the model "
            f"has a context of {model.context or 'any'} tokens and {ordinary} ordinary tokens that may occur once. "
            "Pass a smaller --gap or fewer repeats."
        )
    length = min(length, room // repeats)
    repeated = repeated_tokens(model, length=length, repeats=repeats, n=n, seed=seed, gaps=gaps)
    prose = natural(model, text=text, named=named, n=n, seed=seed, length=max(spoken, 2 * reach))
    if len(prose) < fewest:
        source = prose.made_by.get("text", named)
        raise PromptError(
            f"cannot detect heads on {source}: it gives {len(prose)} prompts of {prose.longest} tokens, and "
            f"at least {fewest} are needed. Give a longer text."
        )
    return DetectorPrompts(prose, repeated, without_repeats(model, repeated, seed=seed + 1))


def check_sizes(doing: str, *, n: int, seed: int, fewest: int = MIN_UNITS) -> None:
    """Raise BadArgument unless there are prompts enough (for intervals), and a seed that generators take."""
    if n < fewest:
        what = "intervals need" if fewest == MIN_UNITS else "naming heads asks for"
        raise BadArgument(
            f"cannot {doing} on {n} prompt{'' if n == 1 else 's'}: {what} at least {fewest}, better 50."
        )
    if not 0 <= seed <= LARGEST_SEED:
        raise BadArgument(f"cannot {doing} with seed {seed}: it lies between 0 and {LARGEST_SEED}.")


def check_reach(model: Model, reach: int) -> None:
    """Raise BadArgument if the model's context has no token `reach` back."""
    if model.context is not None and reach >= model.context:
        raise BadArgument(
            f"cannot look {reach} tokens back: the context of {model.name} holds {model.context}. "
            f"Ask for lookback:{model.context - 1} at most."
        )


def detect(
    model: Model,
    names: str | Iterable[str] = DEFAULT,
    *,
    prompts: DetectorPrompts | None = None,
    interventions: Sequence[Edit] = (),
    n: int = 50,
    seed: int = 0,
    text: str | None = None,
    progress: Progress = silent,
) -> Table:
    """Score every head on every named detector.

    `prompts` fixes the prompts (else `default_prompts` with `n`, `seed`, `text`); `interventions` are in
    force while heads are read, to see what others do when one is ablated; `progress` hears of each stage.

    >>> hs.detect(model, ["induction", "lookback:3"]).rows(named=True)     # doctest: +SKIP

    Raises:
        UnknownName: for a detector that does not exist.
        BadArgument: for fewer than 16 prompts (or fewer than five given ones), or prompts too short for a lookback.
    """
    wanted = detectors(names)
    if prompts is None:
        require_patterns(model)
        check_sizes("detect heads", n=n, seed=seed, fewest=NAMING_UNITS)
        prompts = default_prompts(model, n=n, seed=seed, text=text, reach=reach_of(wanted))
    names = [each.name for each in wanted]
    attention = head_attention(model, names, prompts=prompts, interventions=interventions, progress=progress)
    raised, why = None, ""
    if SIGNED in attention:
        raised, why = signed_raise(model, prompts, interventions=interventions, progress=progress)
    return heads_table(attention, raised=raised, unserved=why, progress=progress)


def signed_raise(
    model: Model, prompts: DetectorPrompts, *, interventions: Sequence[Edit] = (), progress: Progress = silent
) -> tuple[Samples | None, str]:
    """What every head writes on the token that an induction head attends to; None with a reason where not served."""
    try:
        keys = detector_named(SIGNED).key_sets(prompts.repeated)
        raised = copying(model, prompts.repeated, keys, interventions=interventions, progress=progress)
    except UnservedModel as error:
        return None, str(error)
    return (raised, "") if len(raised.values) else (None, "no query sees a key that counts from any layer")


def head_attention(
    model: Model,
    names: str | Iterable[str] = DEFAULT,
    *,
    prompts: DetectorPrompts,
    interventions: Sequence[Edit] = (),
    progress: Progress = silent,
) -> dict[str, dict[int, LayerMass]]:
    """What `detect` bounds: by detector, every layer's attention on its keys and its null, prompt by prompt."""
    wanted = detectors(names)
    require_patterns(model)
    for shown in (prompts.natural, prompts.repeated, prompts.unrepeated):
        check_sizes("detect heads", n=len(shown), seed=0)
    reach = reach_of(wanted)
    if reach >= prompts.natural.longest:
        raise BadArgument(
            f"cannot look {reach} tokens back: the natural prompts have {prompts.natural.longest} tokens. "
            "Give longer ones."
        )

    def read(stage: str, shown: Prompts, reading: MassReading, *sets: object) -> None:
        def run() -> list[Tensor]:
            ticks = Ticks(progress, f"reading attention on {stage}", len(shown), model.anatomy.attending)
            model.read(shown, [reading, ticks], interventions=interventions)
            return reading.tensors()

        reading.fill(kept("attention", model, (shown, sets, tuple(interventions)), run))

    attention: dict[str, dict[int, LayerMass]] = {}
    for kind in ("natural", "repeated"):
        group = [detector for detector in wanted if detector.prompts == kind]
        if not group:
            continue
        shown = prompts.natural if kind == "natural" else prompts.repeated
        reading = MassReading([detector.key_sets(shown) for detector in group])
        sets = (tuple(detector.name for detector in group), shown)  # what decides them
        read(f"{kind} prompts", shown, reading, *sets)
        null = reading.other
        if kind == "repeated":
            matched = MassReading(reading.sets)
            read("prompts in which nothing repeats", prompts.unrepeated, matched, *sets)
            null = matched.mass
        for index, detector in enumerate(group):
            attention[detector.name] = {
                layer: LayerMass(
                    mass[index],
                    null[layer][index],
                    reading.uniform[layer][index],
                    float(reading.hidden[layer][index]),
                )
                for layer, mass in sorted(reading.mass.items())
            }
    return {detector.name: attention[detector.name] for detector in wanted}


def heads_table(
    attention: Mapping[str, Mapping[int, LayerMass]],
    name: str = HEADS.name,
    *,
    raised: Samples | None = None,
    unserved: str = "",
    progress: Progress = silent,
) -> Table:
    """The detector table: a row for each head of each detector, with the signed raise where the sign decides."""
    rows = []
    for done, (detector, layers) in enumerate(attention.items()):
        progress("bounding scores", done, len(attention))
        signed = detector == SIGNED
        columns = written(raised) if signed else {}
        for row in rows_of(detector_named(detector), layers):
            own = columns.get(row["head"], NOTHING_READ)
            kind = (own["kind"] if signed else detector) if row["named"] else ""
            rows.append({**row, **own, "kind": kind, "reason": row["reason"] or (unserved if signed else "")})
    return replace(DETECTED, name=name).table(rows)


def reach_of(wanted: Iterable[Detector]) -> int:
    """How many tokens back the farthest of these detectors looks."""
    return max((detector.reach for detector in wanted), default=0)


def require_patterns(model: Model) -> None:
    """Raise UnservedSite unless the patterns of every attending layer can be read."""
    for layer in model.anatomy.attending:
        model.require_site("pattern", layer)
