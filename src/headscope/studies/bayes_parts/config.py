"""Until every part is ported: the settings under their old name."""

from headscope.studies.bayes.settings import BayesSettings as Config

__all__ = ["Config"]
