"""Sweeps: many cells of interventions over the same prompts."""

from headscope.sweeps.grid import Cell, Grid, each_head, grid
from headscope.sweeps.naive import CellResult, evaluate, execute

__all__ = ["Cell", "CellResult", "Grid", "each_head", "evaluate", "execute", "grid"]
