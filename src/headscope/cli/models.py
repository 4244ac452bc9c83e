"""`headscope models`: the models that ship with headscope."""

from collections.abc import Sequence
from itertools import pairwise

from rich.table import Table

from headscope import zoo
from headscope.cli.common import Json, guarded, print_json, stdout


@guarded
def run(json: Json = False) -> None:
    """List the zoo: name, size, steps of training that can be opened (--revision step-N), purpose."""
    cards = [zoo.card(name) | {"checkpoints": zoo.steps(name)} for name in zoo.names()]
    if json:
        print_json(cards)
        return
    table = Table("model", "layers", "heads", "steps", "purpose", box=None, pad_edge=False)
    for card in cards:
        shape = card["architecture"]
        told = f"zoo:{card['name']}", str(shape["n_layers"]), str(shape["n_heads"]), _in_short(card["checkpoints"])
        table.add_row(*told, card["purpose"])
    stdout.print(table)


def _in_short(steps: Sequence[int]) -> str:
    """The steps of an even grid by its ends and its spacing.

    >>> _in_short([0, 20, 40, 60]), _in_short([1600])
    ('0 to 60 by 20', '1600')
    """
    gaps = {after - before for before, after in pairwise(steps)}
    return f"{steps[0]} to {steps[-1]} by {gaps.pop()}" if len(gaps) == 1 else ", ".join(map(str, steps))
