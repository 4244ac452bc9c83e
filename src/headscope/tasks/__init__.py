"""Tasks: prompts with roles, answers and provenance."""

from headscope.tasks.files import read_prompts
from headscope.tasks.functions import Functions
from headscope.tasks.linear import linear, linear_pair
from headscope.tasks.natural import natural, random_tokens
from headscope.tasks.prompts import HasTokens, Prompts, PromptsLike
from headscope.tasks.repeated import induction_pairs, repeated_tokens, without_repeats
from headscope.tasks.shots import Shots, regimes
from headscope.tasks.split import halves
from headscope.tasks.text import text, windows

__all__ = [
    "Functions",
    "HasTokens",
    "Prompts",
    "PromptsLike",
    "Shots",
    "halves",
    "induction_pairs",
    "linear",
    "linear_pair",
    "natural",
    "random_tokens",
    "read_prompts",
    "regimes",
    "repeated_tokens",
    "text",
    "windows",
    "without_repeats",
]
