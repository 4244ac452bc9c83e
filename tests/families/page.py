"""The page for people about what is served on which model family, from the records of a survey.

In: one record per model type, as `survey` writes them. Out: Markdown text: counts, a row per opened type,
then by name what is refused and why, and what could not be tried. Nothing here runs a model.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from headscope.models.certificate import SERVICES
from headscope.models.checks import PROPERTIES
from headscope.vocabulary import SITES

Record = Mapping[str, Any]

# A column and the checks behind it. A check that stands in no column gets one of its own.
# What a study of heads needs, all of it without an approximation.
EXACT = ("pattern_rows", "z_is_pattern_times_v", "heads_sum", "residual_chain", "zero_head", "to_bos")
COLUMNS: dict[str, tuple[str, ...]] = {
    "bit-identical": ("logits_identical",),
    "padding": ("padding_right", "padding_left"),
    "pattern": ("pattern_rows", "pattern_eager"),
    "z": ("z_is_pattern_times_v", "z_enters_projection"),
    "head_out": ("heads_sum",),
    "residual": ("residual_chain", "resid_mid"),
    "edits": tuple(each.name for each in PROPERTIES if each.name.startswith("edits_of")),
    "zeroed head": ("zero_head",),
    "to_bos": ("to_bos",),
    "generation": ("generation",),
}
# What a column is about: where no layer has that site, its checks passed on nothing.
ABOUT = {"pattern": "pattern", "z": "z", "head_out": "head_out", "residual": "attn_out"}
ABSENT = "·"

_INTRODUCTION = """\
# Model families

One tiny random model of every causal language model type that transformers knows, opened by headscope and put
through every check of its certificate. A check that fails refuses the sites that depend on it, by name. What is
shown here holds for an architecture; `headscope check MODEL` shows the same for a checkpoint of yours.

Written by `make families` with {versions}."""

_LEGEND = """\
*yes*: every check of the column passed. *except 1, 3*: it fails in layers 1 and 3. *no*: it fails; the sections
below say what is refused for it. *·*: it does not apply (no such site in any layer, no reference)."""


def page(records: Mapping[str, Record]) -> str:
    """The whole page; `records` by model type.

    Raises:
        ValueError: if there are no records.
    """
    if not records:
        raise ValueError("cannot write a page about no families: survey some first.")
    named = sorted(records.items())
    opened = [(name, record) for name, record in named if record["opened"]]
    parts = [
        _INTRODUCTION.format(versions=_versions(records.values())),
        _counts(records),
        _table(opened) + "\n\n" + _LEGEND,
        _section("Opened, with something refused or absent", opened, _limits),
        _section("Not served", [(n, r) for n, r in named if _outcome(r) == "refused"], _reason),
        _section("Broken", [(n, r) for n, r in named if _outcome(r) == "broken"], _reason),
        _section("Could not be built", [(n, r) for n, r in named if _outcome(r) == "not built"], _reason),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _outcome(record: Record) -> str:
    """The one line of the counts that a type falls under."""
    if record["broke"]:
        return "broken"
    if not record["built"]:
        return "not built"
    if not record["opened"]:
        return "refused"
    if record["refused"] or any(check["passed"] is False for check in record["checks"]):
        return "in part"
    return "all it has" if record["absent"] else "whole"


def _counts(records: Mapping[str, Record]) -> str:
    outcomes = [_outcome(record) for record in records.values()]
    known = list(records.values())
    rows = [
        ("types in transformers' causal language model mapping", len(outcomes)),
        ("opened, every check passed, every site in every layer", outcomes.count("whole")),
        ("opened, every check passed, some sites absent", outcomes.count("all it has")),
        ("opened, some checks fail and refuse what depends on them", outcomes.count("in part")),
        ("not served, with the reason", outcomes.count("refused")),
        ("broken: an error that is no refusal, or no end", outcomes.count("broken")),
        ("no tiny model could be built", outcomes.count("not built")),
        ("un-edited logits bit-identical", sum(_holds(record, ("logits_identical",)) for record in known)),
        (
            "pattern, z, head_out, residual sites, zeroed head and to_bos all exact",
            sum(_holds(record, EXACT) and _sums_close(record) for record in known),
        ),
    ]
    return "\n".join(["| | types |", "|---|---:|", *(f"| {what} | {count} |" for what, count in rows)])


def _holds(record: Record, names: Iterable[str]) -> bool:
    """Whether all these checks were made and passed."""
    passed = {check["name"] for check in record.get("checks") or () if check["passed"]}
    return set(names) <= passed


def _sums_close(record: Record) -> bool:
    """Whether every layer with attention is the plain sum of the stream and its parts."""
    return not any(check["name"] == "residual_chain" and check["detail"] for check in record["checks"])


def _table(opened: Sequence[tuple[str, Record]]) -> str:
    if not opened:
        return "No type was opened."
    columns = dict(COLUMNS)
    known = {check for checks in columns.values() for check in checks}
    for _, record in opened:
        for check in record["checks"]:
            if check["name"] not in known:
                columns.setdefault(check["name"].replace("_", " "), (check["name"],))
    rows = [
        f"| {name} | " + " | ".join(_cell(record, column, checks) for column, checks in columns.items()) + " |"
        for name, record in opened
    ]
    return "\n".join([f"| type | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|", *rows])


def _cell(record: Record, column: str, names: Iterable[str]) -> str:
    checks = [check for check in record["checks"] if check["name"] in names]
    failed = [check for check in checks if check["passed"] is False]
    if not failed:
        applies = any(check["passed"] for check in checks) and ABOUT.get(column) not in _lost(record)
        return "yes" if applies else ABSENT
    layers = sorted({layer for check in failed for layer in check["layers"] or ()})
    everywhere = not layers or len(layers) == record["layers"]
    return "no" if everywhere else f"except {_listed(layers)}"


def _limits(record: Record) -> str:
    """What of an opened type fails, is refused or absent, with reasons, and what is left; empty if all is."""
    failed = [check for check in record["checks"] if check["passed"] is False]
    if not failed and not record["refused"] and not record["absent"]:
        return ""
    told = {name for check in failed for name in check["refuses"]}
    others = [refusal for refusal in record["refused"] if refusal["site"] not in told]
    return "\n".join(
        [
            *(_failure(check, record) for check in failed),
            *_missing("refuses", others, record),
            *_missing("has no", record["absent"], record),
            f"- still serves {_code(_served(record)) or 'plain runs alone'}",
        ]
    )


def _failure(check: Mapping[str, Any], record: Record) -> str:
    why = [check["detail"]] if check["detail"] else []
    if check["worst"] is not None and check["tolerance"] is not None:
        why.insert(0, f"error {check['worst']}, tolerance {check['tolerance']}")
    said = f" ({_one_line('; '.join(why))})" if why else ""
    refuses = f", and so refuses {_code(check['refuses'])}" if check["refuses"] else ""
    return f"- fails `{check['name']}`{_in_layers(check['layers'], record)}{said}{refuses}"


def _missing(verb: str, entries: Iterable[Mapping[str, Any]], record: Record) -> list[str]:
    """A line per reason, with the sites that share it."""
    sites: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry in entries:
        sites[_in_layers(entry["layers"], record), _one_line(entry["reason"])].append(entry["site"])
    return [f"- {verb} {_code(names)}{where}: {reason}" for (where, reason), names in sites.items()]


def _served(record: Record) -> list[str]:
    """The sites that at least one layer still has, and the services that are not refused."""
    lost = _lost(record)
    return [name for name in (*SITES, *SERVICES) if name not in lost]


def _lost(record: Record) -> set[str]:
    """Sites and services that are refused or absent in every layer."""
    layers: dict[str, set[int]] = defaultdict(set)
    every = set(range(record["layers"]))
    for entry in (*record["refused"], *record["absent"]):
        layers[entry["site"]] |= set(entry["layers"] or every)
    return {site for site, without in layers.items() if without == every}


def _reason(record: Record) -> str:
    return f"- {_one_line(record['reason'] or 'no reason given')}"


def _section(title: str, named: Iterable[tuple[str, Record]], tell: Callable[[Record], str]) -> str:
    """Types under what is told of them; those of which the same is told share it."""
    told: dict[str, list[str]] = defaultdict(list)
    for name, record in named:
        if text := tell(record):
            told[text].append(name)
    return "\n\n".join([f"## {title}", *(f"**{', '.join(n)}**\n{text}" for text, n in told.items())]) if told else ""


def _versions(records: Iterable[Record]) -> str:
    seen = {f"{package} {version}" for r in records for package, version in r["versions"].items()}
    return ", ".join(sorted(seen))


def _in_layers(layers: Sequence[int] | None, record: Record) -> str:
    if not layers or len(layers) == record["layers"]:
        return ""
    return f" in layer{'s' if len(layers) > 1 else ''} {_listed(sorted(layers))}"


def _listed(layers: Iterable[int]) -> str:
    return ", ".join(map(str, layers))


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
