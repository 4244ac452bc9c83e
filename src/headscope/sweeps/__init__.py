"""Sweeps: many cells of interventions over the same prompts, and random sets of heads beside picked ones."""

from headscope.sweeps.controls import AgainstRandom, Control, against_random_sets
from headscope.sweeps.grid import Cell, Grid, each_head, grid
from headscope.sweeps.naive import CellResult, evaluate, execute

__all__ = [
    "AgainstRandom",
    "Cell",
    "CellResult",
    "Control",
    "Grid",
    "against_random_sets",
    "each_head",
    "evaluate",
    "execute",
    "grid",
]
