"""Sweeps: many cells of interventions over the same prompts, random sets beside picked ones, redundancy."""

from headscope.sweeps.attribution import attribute
from headscope.sweeps.controls import AgainstRandom, Control, against_random_sets
from headscope.sweeps.execute import execute
from headscope.sweeps.forecast import Forecast, forecast
from headscope.sweeps.generation import generate_many
from headscope.sweeps.grid import Cell, Grid, each_head, grid
from headscope.sweeps.iterative_ablation import Round, iterative_ablation
from headscope.sweeps.naive import CellResult, evaluate
from headscope.sweeps.redundancy import head_redundancy

__all__ = [
    "AgainstRandom",
    "Cell",
    "CellResult",
    "Control",
    "Forecast",
    "Grid",
    "Round",
    "against_random_sets",
    "attribute",
    "each_head",
    "evaluate",
    "execute",
    "forecast",
    "generate_many",
    "grid",
    "head_redundancy",
    "iterative_ablation",
]
