"""The page: a Study record as one HTML file that needs nothing else."""

from headscope.report.page import render, write

__all__ = ["render", "write"]
