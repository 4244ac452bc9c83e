"""What every attention head does, and what happens without it.

>>> import headscope as hs
>>> hs.Head.parse("1.4")
Head(1, 4)
"""

from headscope import errors
from headscope.interventions import add, mean, patch, to_bos, zero
from headscope.models.loading import load
from headscope.models.model import Model
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Head
