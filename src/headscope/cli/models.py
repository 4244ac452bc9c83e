"""`headscope models`: the models that ship with headscope."""

from rich.table import Table

from headscope import zoo
from headscope.cli.common import Json, guarded, print_json, stdout


@guarded
def run(json: Json = False) -> None:
    """List the zoo: name, size, purpose."""
    cards = [zoo.card(name) for name in zoo.names()]
    if json:
        print_json(cards)
        return
    table = Table("model", "layers", "heads", "purpose", box=None, pad_edge=False)
    for card in cards:
        shape = card["architecture"]
        table.add_row(f"zoo:{card['name']}", str(shape["n_layers"]), str(shape["n_heads"]), card["purpose"])
    stdout.print(table)
