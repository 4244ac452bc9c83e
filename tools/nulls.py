"""Every claim on models in which nothing is there, and on models that do the task in another way.

    python -m tools.nulls run [--out runs/nulls] [--workers 2] [--only heads,bayes] [--minutes 90]    (make nulls)
    python -m tools.nulls page [--out runs/nulls] [--page docs/truth.md]

Sixty models with random weights (`tests/truth/models.py`) are put through all studies, and each claim counts twice:
as shipped, and with its needs switched off, since a need that random weights fail would hide a test that they pass.
Claims of absence or equivalence keep their needs: nothing is surely absent from a model that has nothing. A claim
that five or more of the sixty support is put to 300 fresh ones (`run --fresh`). Where fewer than 20 models reach the
tests of a claim, simulated samples stand in (`tests/truth`): the nearest world in which the claim is false. The
shipped models, and a trained family that does the task in another way, stand beside.

What is done is kept, one file for each model and study, and not done again.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tests.truth.cases import CASES
from tests.truth.models import FRESH, RANDOM, SHIPPED, TRAINED, Spec, Wandering

import headscope as hs
from headscope.evidence.claim import without_needs
from headscope.measures.rates import clopper_pearson
from headscope.results.study import Claim, Verdict
from headscope.studies.registry import STUDIES

# Claims that something is not there, or makes no difference: random weights have nothing, so these keep their needs.
OF_ABSENCE = frozenset({"order", "near_exact", "edge_is_example"})
REACHED_BY = 20
SIMULATED_FOR_MODELS, SIMULATED_BESIDE = 100, 40  # where samples stand in for models, and where they stand beside
ALLOWED, ALLOWED_OVERALL = 4, 0.025


@dataclass(frozen=True)
class Judged:
    """One claim on one model."""

    study: str
    model: str
    claim: str
    shipped: str
    without_needs: str
    reached: bool
    because: str


def judged(study: str, model: str, claim: Claim) -> Judged:
    """Both verdicts; `reached` if every test has a number."""
    free = claim if claim.name in OF_ABSENCE else without_needs(claim)
    tests = [row for row in claim.evidence if row.role == "test"]
    reached = all(not math.isnan(row.estimate) for row in tests)
    # A claim of one suite, head or model ("changes:NAME") is one of its kind.
    return Judged(
        study, model, claim.name.split(":")[0], str(claim.verdict), str(free.verdict), reached, free.because
    )


def run_one(spec: Spec, studies: Sequence[str], out: Path) -> int:
    """These studies on one model as `--quick` runs them, each kept in a file and told in a line; how many failed."""
    torch.set_num_threads(1)
    model, failed = spec.open(out / "models"), 0
    for study in studies:
        started = time.perf_counter()
        try:
            claims = _claims(study, model)
        except Exception as error:  # the others go on: one line each, and the exit code tells
            failed += 1
            print(f"{study} {spec.name} FAILED: {error!r}", flush=True)
            continue
        rows = [asdict(judged(study, spec.name, claim)) for claim in claims]
        file = file_of(out, study, spec)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        part.replace(file)
        supported = [row["claim"] for row in rows if "supported" in (row["shipped"], row["without_needs"])]
        seconds = time.perf_counter() - started
        print(f"{study} {spec.name}: {seconds:.0f} s; supported: {' '.join(supported) or 'none'}", flush=True)
    return failed


def _claims(study: str, model: hs.Model) -> Sequence[Claim]:
    """What a study claims of a model, or, if it is about trainings, of one in which nothing is learnt."""
    plan = STUDIES[study]
    if not plan.suites:
        return hs.study(study, model=model, quick=True, force=True).claims
    return plan.run(plan.settings(force=True).quick(), model, histories=[Wandering.of(model)]).claims


def file_of(out: Path, study: str, spec: Spec) -> Path:
    return out / study / f"{spec.name}.json"


def run(out: Path, studies: Sequence[str], workers: int, minutes: float, specs: Sequence[Spec]) -> int:
    """These studies on all models, or on as many as the time allows: exit code 5 if something is left."""
    until, failed = time.monotonic() + 60 * minutes, 0
    todo = {spec: [s for s in studies if spec.asks(s) and not file_of(out, s, spec).exists()] for spec in specs}
    with ProcessPoolExecutor(workers) as pool:
        running = [pool.submit(run_one, spec, own, out) for spec, own in todo.items() if own]
        for number, done in enumerate(as_completed(running), start=1):
            failed += 0 if done.cancelled() else done.result()
            print(f"{number} of {len(running)} models", flush=True)
            if time.monotonic() > until:
                for other in running:
                    other.cancel()
    left = sum(not file_of(out, study, spec).exists() for spec, own in todo.items() for study in own)
    print(f"{left} of {sum(map(len, todo.values()))} left")
    return 1 if failed else 5 if left else 0


def kept(out: Path) -> Iterator[Judged]:
    """Everything that was kept."""
    for file in sorted(out.glob("*/*.json")):
        if file.parent.name in STUDIES:
            yield from (Judged(**row) for row in json.loads(file.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Count:
    """A claim over the models with random weights, of which `reached` have numbers in all of its tests."""

    models: int
    reached: int
    shipped: int
    without_needs: int

    @classmethod
    def of(cls, rows: Sequence[Judged]) -> "Count":
        supported = [[row.shipped, row.without_needs] for row in rows]
        shipped, free = (sum(each[way] == Verdict.SUPPORTED for each in supported) for way in (0, 1))
        return cls(len(rows), sum(row.reached for row in rows), shipped, free)

    @property
    def most(self) -> int:
        return max(self.shipped, self.without_needs)


def counts(rows: Sequence[Judged], specs: Sequence[Spec]) -> dict[tuple[str, str], Count]:
    """By study and claim."""
    names, by_claim = {spec.name for spec in specs}, dict[tuple[str, str], list[Judged]]()
    for row in rows:
        if row.model in names:
            by_claim.setdefault((row.study, row.claim), []).append(row)
    return {claim: Count.of(own) for claim, own in by_claim.items()}


def simulated(place: int, many: int) -> int:
    """In how many of so many nearest false worlds a claim (by its place among the cases) is supported."""
    torch.set_num_threads(1)
    return sum(CASES[place].make(seed, 0.0).verdict is Verdict.SUPPORTED for seed in range(many))


def page(rows: Sequence[Judged], workers: int) -> str:
    """The table of all claims, in Markdown."""
    found, fresh = counts(rows, RANDOM), counts(rows, FRESH)
    cases = {(case.study, case.claim): case for case in CASES}
    stands_in = {claim: count.reached < REACHED_BY for claim, count in found.items()}
    with ProcessPoolExecutor(workers) as pool:
        worlds = {
            claim: (many, pool.submit(simulated, CASES.index(cases[claim]), many))
            for claim, needed in stands_in.items()
            for many in [SIMULATED_FOR_MODELS if needed else SIMULATED_BESIDE]
        }
        false = {claim: f"{done.result()} of {many}" for claim, (many, done) in worlds.items()}
    shipped, trained = verdicts(rows, SHIPPED), verdicts(rows, TRAINED)
    pairs = sum(count.models for count in found.values())
    ways = [sum(getattr(count, way) for count in found.values()) for way in ("shipped", "without_needs")]
    lines = [*_HEAD, _overall(pairs, ways), "", *_COLUMNS]
    for (study, claim), count in sorted(found.items()):
        case = cases[study, claim]
        cells = [
            study,
            f"`{claim}`" + (" ¹" if claim in OF_ABSENCE else ""),
            f"{count.reached} of {count.models}",
            f"{count.shipped}",
            f"{count.without_needs}" + _fresh(fresh.get((study, claim))),
            false[study, claim] + (" (stand in)" if stands_in[study, claim] else ""),
            case.by,
            shipped.get((study, claim), ""),
            trained.get((study, claim), ""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_NOTES, ""])


def verdicts(rows: Sequence[Judged], specs: Sequence[Spec]) -> dict[tuple[str, str], str]:
    """What the claim is on these models, such as "supported" or "refuted 2, undetermined 1"."""
    names, told = {spec.name for spec in specs}, dict[tuple[str, str], list[str]]()
    for row in rows:
        if row.model in names:
            told.setdefault((row.study, row.claim), []).append(row.shipped)
    return {
        claim: own[0] if len(own) == 1 else ", ".join(f"{each} {own.count(each)}" for each in sorted(set(own)))
        for claim, own in told.items()
    }


def _overall(pairs: int, ways: Sequence[int]) -> str:
    shares = [f"{way} of {pairs} ({way / max(1, pairs):.4f})" for way in ways]
    return f"All claims and models together: supported {shares[0]} as shipped, {shares[1]} with needs off."


def _fresh(count: Count | None) -> str:
    if count is None:
        return ""
    upper = clopper_pearson(count.most, count.models, 0.9)[1]
    return f"; {count.most} of {count.models} fresh, at most {upper:.3f}"


_HEAD = [
    "# What each claim is worth",
    "",
    "`make nulls` puts every claim to 60 models with random weights, as shipped and with its needs switched off, and",
    "to simulated samples: in the nearest world in which it is false it may be supported in one of twenty. A claim",
    f"that random weights support is none: at most {ALLOWED} of 60 may, and {ALLOWED_OVERALL} of all claims and",
    "models. `tests/test_truth.py` holds, for each claim, a world that supports it and one that refutes it.",
    "",
]
_COLUMNS = [
    "| study | claim | random models that reach its tests | supported | with needs off | in the nearest false world "
    "| shown and refuted by | shipped model (`--quick`) | reads the last pair |",
    "|---|---|---|---|---|---|---|---|---|",
]
_NOTES = [
    "¹ A claim of absence or equivalence, which keeps its needs: nothing is surely absent from a model of nothing.",
    "",
    "*Reads the last pair*: three models trained to follow y = x + b by the last pair (`tests/truth/last_pair.py`).",
    "*Stand in*: fewer than 20 random models have numbers in all tests, mostly since nothing was selected.",
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("verb", choices=("run", "page"))
    parser.add_argument("--out", type=Path, default=Path("runs/nulls"))
    parser.add_argument("--page", type=Path, default=Path("docs/truth.md"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--only", default=",".join(STUDIES))
    parser.add_argument("--fresh", action="store_true", help="300 further models, for the studies that need them")
    args = parser.parse_args()
    if args.verb == "run":
        studies, specs = args.only.split(","), [*SHIPPED, *TRAINED, *RANDOM]
        if args.fresh:
            found = counts(list(kept(args.out)), RANDOM)
            studies = sorted({study for (study, _), count in found.items() if count.most > ALLOWED})
            specs = list(FRESH)
        return run(args.out, studies, args.workers, args.minutes, specs)
    args.page.write_text(page(list(kept(args.out)), args.workers), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
