"""Tasks: prompts with roles, answers and provenance."""

from headscope.tasks.files import read_prompts
from headscope.tasks.natural import natural, random_tokens
from headscope.tasks.prompts import Prompts, PromptsLike, Speaker
from headscope.tasks.repeated import induction_pairs, repeated_tokens, without_repeats
from headscope.tasks.split import halves
from headscope.tasks.text import text, windows

__all__ = [
    "Prompts",
    "PromptsLike",
    "Speaker",
    "halves",
    "induction_pairs",
    "natural",
    "random_tokens",
    "read_prompts",
    "repeated_tokens",
    "text",
    "windows",
    "without_repeats",
]
