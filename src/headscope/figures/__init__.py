"""The pictures: grids of heads, bars, curves, and the attention view."""

from headscope.figures.bars import bars_with_intervals
from headscope.figures.curves import lines
from headscope.figures.grids import head_grid, layer_position_grid
from headscope.figures.theme import to_pdf, to_png

__all__ = ["bars_with_intervals", "head_grid", "layer_position_grid", "lines", "to_pdf", "to_png"]
