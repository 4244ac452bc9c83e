"""A Study record as one HTML file: opens offline, asks for nothing, and lasts as long as browsers do.

In: a Study. Out: a page, or a file. It shows and never computes: whatever it says was in the record.

Three rules make it safe to open and to pass on. Everything from the record is escaped by the template
(tokens are untrusted text; a prompt may hold `</script>`). A Content-Security-Policy allows the page's own
style and script, by their hashes, and images from data: URLs, and nothing else, so that even a mistake
could neither run nor fetch. Figures enter as images, not as markup: an SVG inside `<img>` runs no script
and loads nothing whatever its text says, while inline SVG would be parsed as part of the page.
"""

import base64
import hashlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from headscope.errors import UnknownName
from headscope.figures.attention import payload, script, script_json, stylesheet
from headscope.figures.theme import dark
from headscope.report.cells import MOST_WIDTH, TableView, cell_view, table_view
from headscope.report.claims import ClaimView, ComparisonView, roles, tally
from headscope.results.files import write_file
from headscope.results.study import Claim, Figure, Study

# What of the provenance stands under the title, where it is there; all of it stands at the end.
_HEADLINE = ("model", "prompts", "seed", "date")
_LONGEST_PHRASE = 120  # characters


@dataclass(frozen=True)
class FigureView:
    """A picture for either ground, with its words; `repeated`: an earlier figure already shows its table."""

    figure: Figure
    anchor: str
    light: str
    dark: str
    width: int
    height: int
    table: TableView
    repeated: bool


def render(study: Study) -> str:
    """The page of a study.

    Raises:
        UnknownName: if a figure or a claim names a table, or `lead` a figure, that the study does not have.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("headscope.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, code = _style(), _script()
    tables = {
        name: table_view(name, f"table-{place}-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}", table)
        for place, (name, table) in enumerate(study.tables.items(), start=1)
    }
    figures = _figures(study, tables)
    drawn = {view.table.name for view in figures}
    page = environment.get_template("page.html.j2").render(
        study=study,
        policy=_policy(style, code),
        style=Markup(style),
        script=Markup(code),
        headline=_headline(study.provenance),
        tally=tally(study.claims),
        roles=roles(study.claims),
        claims=[_claim(claim, study, tables) for claim in study.claims],
        figures=figures,
        attention=[(example, Markup(script_json(payload(example)))) for example in study.attention],
        tables=[view for name, view in tables.items() if name not in drawn],
        command=_command(study.provenance),
        provenance=[(name, _parts(value)) for name, value in study.provenance.items() if name != "command"],
    )
    # A lone surrogate in a token cannot be written as UTF-8; everything else passes unchanged.
    return page.encode("utf-8", "replace").decode("utf-8")


def write(study: Study, path: Path | str) -> Path:
    """Render the study into a file, which appears whole or not at all, and return its path.

    Raises:
        OutputExists, Unwritable: if no file can be written there.
    """
    page, target = render(study), Path(path)
    write_file(target, lambda fresh: fresh.write_text(page, encoding="utf-8", newline="\n"))
    return target


def _figures(study: Study, tables: Mapping[str, TableView]) -> list[FigureView]:
    """The figures in the order of the page, which begins with the leading one."""
    names = [figure.name for figure in study.figures]
    if study.lead and study.lead not in names:
        raise UnknownName.among(f"figure of the study {study.name!r}", study.lead, names)
    shown: set[str] = set()
    views = []
    ordered = sorted(study.figures, key=lambda figure: figure.name != study.lead)
    for place, figure in enumerate(ordered, start=1):
        table = tables[_table_named(figure.table, study)]
        images = (_image(figure.svg), _image(dark(figure.svg)))
        views.append(FigureView(figure, f"figure-{place}", *images, *_size(figure.svg), table, table.name in shown))
        shown.add(table.name)
    return views


def _image(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")


def _table_named(name: str, study: Study) -> str:
    """The key of a table, given as that key or as the name of its schema (as a figure knows it)."""
    named = [key for key, table in study.tables.items() if name in (key, table.name)]
    if not named:
        raise UnknownName.among(f"table of the study {study.name!r}", name, study.tables)
    return name if name in named else named[0]


def _claim(claim: Claim, study: Study, tables: Mapping[str, TableView]) -> ClaimView:
    named = tuple(tables[_table_named(name, study)] for name in claim.tables)
    return ClaimView(claim, tuple(map(ComparisonView.of, claim.evidence)), named)


def _size(svg: str) -> tuple[int, int]:
    """Width and height in CSS pixels, so that the page does not move while it loads."""
    found = [re.search(rf'<svg[^>]*?\s{name}="([\d.]+)', svg) for name in ("width", "height")]
    width, height = (round(float(match[1])) if match else 600 for match in found)
    return width, height


def _policy(style: str, code: str) -> str:
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(code)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    """How a Content-Security-Policy names an inline element: by the text between its tags."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _style() -> str:
    widths = "\n".join(f".w{count} {{ min-width: {count}ch; }}" for count in range(1, MOST_WIDTH + 1))
    page = files("headscope.report").joinpath("page.css").read_text(encoding="utf-8")
    return f"\n{page}\n{stylesheet()}\n{widths}\n"


def _script() -> str:
    page = files("headscope.report").joinpath("page.js").read_text(encoding="utf-8")
    return f"\n{script()}\n{page}\n"


def _headline(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What stands under the title: of each prompt set no more than its task and its size."""
    found = [(name, _phrase(provenance.get(name))) for name in _HEADLINE]
    return [(name, phrase) for name, phrase in found if phrase and len(phrase) <= _LONGEST_PHRASE]


def _phrase(value: Any) -> str:
    if isinstance(value, Mapping):
        size = f" (n={value['n']})" if "n" in value else ""
        return f"{value['task']}{size}" if "task" in value else ""
    if isinstance(value, list | tuple):
        return ", ".join(filter(None, map(_phrase, value)))
    return "" if value is None else cell_view(value).text


def _command(provenance: Mapping[str, Any]) -> str:
    """The command that makes this page again, as one types it; "" where the record has none."""
    command = provenance.get("command", "")
    return command if isinstance(command, str) else shlex.join(map(str, command))


def _parts(value: Any) -> str | list[tuple[str, Any]]:
    """A value for a definition list; what has parts becomes a list of its own."""
    if isinstance(value, Mapping) and value:
        return [(str(name), _parts(part)) for name, part in value.items()]
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        return [(str(place), _parts(item)) for place, item in enumerate(value, start=1)]
    return cell_view(value).text
