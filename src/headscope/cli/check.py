"""`headscope check MODEL`: the certificate, what was proven on this very model and what is refused."""

from typing import Any

from rich.table import Table

from headscope.cli.common import Json, ModelName, Quiet, opened, opens_model, print_json, stdout
from headscope.models.checks import certify

_WORDS = {True: "[green]holds[/green]", False: "[red]fails[/red]", None: "[dim]does not apply[/dim]"}


@opens_model
def run(model: ModelName, json: Json = False, quiet: Quiet = False, *, opening: dict[str, Any]) -> None:
    """Prove on this model that reading changes nothing, that edits bite, and that sums close."""
    loaded = opened(model, opening)
    loaded.refusals = {}
    certificate = certify(loaded)  # made anew: who asks for a check does not want a cached one
    if json:
        print_json(certificate.to_json())
        return
    table = Table("property", "", "error", "tolerance", "", box=None, pad_edge=False)
    for check in certificate.checks:
        word = _WORDS[check.passed] if check.made else "[yellow]not made[/yellow]"
        table.add_row(check.name, word, _number(check.worst), _number(check.tolerance), check.detail)
    stdout.print(table)
    refused = certificate.to_json()["refused"]
    if not quiet:
        stdout.print()
    if not refused:
        stdout.print("Everything that this model has is served.")
    for refusal in refused:
        where = f" in layers {', '.join(map(str, refusal['layers']))}" if refusal["layers"] else ""
        stdout.print(f"Refused: {refusal['site']}{where}: {refusal['reason']}.", markup=False)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0e}" if value else "0"
