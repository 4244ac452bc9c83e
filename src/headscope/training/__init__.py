"""Small models by recipe: `train(recipe("induction-2l"), out)`, then `export` into the zoo.

`recipes()` lists what can be trained; `history(out)` reads what was measured on the way.
"""

from headscope.training.catalogue import recipe, recipes
from headscope.training.definition import Recipe
from headscope.training.evaluation import Evaluation
from headscope.training.export import add_history, export
from headscope.training.loop import history, train
from headscope.training.milestone import Milestone
from headscope.training.pair_evaluation import PairEvaluation

__all__ = [
    "Evaluation",
    "Milestone",
    "PairEvaluation",
    "Recipe",
    "add_history",
    "export",
    "history",
    "recipe",
    "recipes",
    "train",
]
