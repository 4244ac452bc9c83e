"""Sweeps: many cells of interventions over the same prompts."""

from headscope.sweeps.execute import execute
from headscope.sweeps.generation import generate_many
from headscope.sweeps.grid import Cell, Grid, each_head, grid
from headscope.sweeps.naive import CellResult, evaluate
from headscope.sweeps.peel import Round, peel

__all__ = [
    "Cell",
    "CellResult",
    "Grid",
    "Round",
    "each_head",
    "evaluate",
    "execute",
    "generate_many",
    "grid",
    "peel",
]
