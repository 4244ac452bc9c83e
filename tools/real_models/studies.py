"""What the page says of the studies: answers, claims with their verdicts, and the article's claims side by side.

In: per model what `headscope study` left in its folder (without its tables), with the command and processor time.
Out: Markdown. The verdicts and numbers are the study's; which comparison decided is found again from its sentence.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from tools.real_models.commands import STUDIES
from tools.real_models.markdown import NOT_RUN, TITLES, Printed, Run, bounded, section, table

from headscope.evidence.claim import told as in_words
from headscope.results.study import EvidenceRow

Claim = Mapping[str, Any]
# The claims of the article that the study of redundancy judges, by their names in the record.
ARTICLES = (
    "carried",
    "redundant",
    "forms_later",
    "survives",
    "backups",
    "layers_stand_in",
    "heads_stand_in",
    "repeats",
    "parity",
    "looks_back",
)
GATE = "does_the_task"
JUDGED = {"redundancy": "y = x + 1", "redundancy-past-tense": "past tense"}
ARTICLES_OWN = "redundancy-article"


def studied(name: str, own: Printed) -> list[str]:
    """A section for every study of a model: its answer, what it took, its claims."""
    return [section(own[what], partial(_study, name, own[what].get("cpu_seconds"))) for what in STUDIES]


def _study(name: str, seconds: float, told: Mapping[str, Any]) -> str:
    # Studies tell of a model by the place that it was opened from.
    answer = " ".join(filter(None, told["answer"])).replace(told["provenance"]["model"], TITLES[name])
    budget = told["provenance"].get("budget", {})
    reduced = f", made smaller to fit: {'; '.join(budget['reduced'])}" if budget.get("reduced") else ""
    cost = f"{seconds:.0f} CPU-seconds; n = {told['provenance']['settings']['n']}{reduced}."
    rows = [(claim["name"], claim["verdict"], claim["because"], _judged_on(claim)) for claim in told["claims"]]
    return f"> {answer}\n\n{cost}\n\n{table(('claim', 'verdict', 'what decided', 'n'), rows)}"


def _judged_on(claim: Claim) -> str:
    """The fewest prompts behind a test; none where nothing was tested."""
    counts = [row["n"] for row in claim["evidence"] if row["role"] == "test" and row["n"]]
    return str(min(counts)) if counts else ""


def decided_by(claim: Claim) -> EvidenceRow | None:
    """The comparison that the claim's sentence tells of; None where it tells of none."""
    said = claim["because"].lower()
    rows = [
        EvidenceRow(**{key: math.nan if each is None else each for key, each in row.items()})
        for row in claim["evidence"]
    ]
    return next((row for row in rows if in_words(row).lower() in said), None)


def article(printed: Mapping[str, Printed]) -> str:
    """The claims of the article on redundant heads, one row each, on every model and task."""
    runs = {(name, what): own[what] for name, own in printed.items() for what in (*JUDGED, ARTICLES_OWN)}
    done = [run["told"] for run in runs.values() if "told" in run]
    heading = "## What the article says of Llama-3-8B, here"
    if not done:
        return f"{heading}\n\n{NOT_RUN}"
    source = done[0]["sources"][0]
    gates = [
        f"{TITLES[name]}: {_cell(_claims(runs[name, ARTICLES_OWN]).get(GATE), runs[name, ARTICLES_OWN])}"
        for name in printed
    ]
    columns = [(name, what) for name in printed for what in JUDGED]
    rows = [
        (statement, *(_cell(_claims(runs[column]).get(claim), runs[column]) for column in columns))
        for claim in (GATE, *ARTICLES)
        if (statement := _statement(claim, [runs[column] for column in columns]))
    ]
    headings = ("what is claimed", *(f"{TITLES[name]}, {JUDGED[what]}" for name, what in columns))
    return (
        f"{heading}\n\nThe claims of [{source['title']}]({source['url']}) ({source['authors']} {source['year']}), as "
        "`headscope study redundancy` judges them, each with the number that decided. On the article's own pairs, "
        f"y = 2x + 3, whether examples teach the task: {'; '.join(gates)}. On tasks that these models do:\n\n"
        + table(headings, rows)
    )


def _claims(run: Run) -> dict[str, Claim]:
    return {claim["name"]: claim for claim in run["told"]["claims"]} if "told" in run else {}


def _statement(name: str, runs: Sequence[Run]) -> str:
    """`name`: what it says, without the task it was asked of; empty where no study has it."""
    found = next((claims[name]["statement"] for claims in map(_claims, runs) if name in claims), "")
    said = found.partition(" alone, ")[2] if found.startswith("On ") else found
    return f"`{name}`: {said[:1].upper()}{said[1:]}" if said else ""


def _cell(claim: Claim | None, run: Run) -> str:
    if claim is None:
        return "not asked" if "told" in run else "not run"
    row = decided_by(claim)
    if row is None or math.isnan(row.estimate):
        return f"{claim['verdict']}{f': {row.reason}' if row is not None and row.reason else ''}"
    unit = f" {row.unit}" if row.unit and row.unit not in ("share", "probability") else ""
    role = "" if row.role == "test" else f"{row.role} "
    return f"{claim['verdict']}: {role}{bounded([row.estimate, row.low, row.high])}{unit}"
