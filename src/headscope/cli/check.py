"""`headscope check MODEL`: the certificate, what was proven on this very model and what is refused."""

from functools import partial
from typing import Any

from rich.table import Table

from headscope.cli.common import Json, ModelName, Quiet, opened, opens_model, print_json, stdout
from headscope.cli.progress import progress_bar
from headscope.errors import UnservedModel
from headscope.models.model import Model
from headscope.models.proofs import Proofs
from headscope.models.weights import withheld_weights

_WORDS = {True: "[green]holds[/green]", False: "[red]fails[/red]", None: "[dim]does not apply[/dim]"}


@opens_model
def run(model: ModelName, json: Json = False, quiet: Quiet = False, *, opening: dict[str, Any]) -> None:
    """Prove on this model that reading changes nothing, that edits bite, and that sums close."""
    with progress_bar(quiet) as progress:
        loaded = opened(model, opening, progress)
        Proofs.begin(loaded)  # anew: who asks for a check does not want what was kept
        assert loaded.proofs is not None
        certificate = loaded.proofs.whole(partial(progress, f"checking {loaded.name}"))
        refused = certificate.to_json()["refused"] + _refused_besides(loaded)
    if json:
        print_json({**certificate.to_json(), "refused": refused})
        return
    table = Table("property", "", "error", "tolerance", "CPU s", "", box=None, pad_edge=False)
    for check in certificate.checks:
        word = _WORDS[check.passed] if check.made else "[yellow]not made[/yellow]"
        table.add_row(
            check.name, word, _number(check.worst), _number(check.tolerance), f"{check.cpu_seconds:.1f}", check.detail
        )
    stdout.print(table)
    if not quiet:
        stdout.print()
    if not refused:
        stdout.print("Everything that this model has is served.")
    for refusal in refused:
        where = f" in layers {', '.join(map(str, refusal['layers']))}" if refusal["layers"] else ""
        stdout.print(f"Refused: {refusal['site']}{where}: {refusal['reason']}.", markup=False)


def _refused_besides(model: Model) -> list[dict[str, Any]]:
    """What is refused though every check passes: matrices that are none, direct effects through more than a norm."""
    refused: list[dict[str, Any]] = [
        {"site": name, "layers": layers, "reason": reason}
        for (name, reason), layers in withheld_weights(model).items()
    ]
    try:
        model.require_direct_effects()
    except UnservedModel as error:
        refused.append({"site": "direct effects", "layers": [], "reason": str(error).rstrip(".")})
    return refused


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0e}" if value else "0"
