"""Results: the Study record, sweeps as tables, the run folder."""

from headscope.results.study import AttentionExample, Claim, Figure, Study, Verdict

__all__ = ["AttentionExample", "Claim", "Figure", "Study", "Verdict"]
