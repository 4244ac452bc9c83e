"""The learning rate of every step, as a function of the step alone.

Never of the time: a run that is interrupted, slowed down or repeated takes the same steps.
"""

import math

from headscope.training.definition import Recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """The learning rate of step 1, 2, ..., `recipe.steps`.

    It rises linearly to `recipe.learning_rate`, reached at step `warmup_steps`, and then stays there
    ("constant") or falls to 0 at the last step, linearly or along half a cosine.
    """
    if step < recipe.warmup_steps:
        return recipe.learning_rate * step / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    match recipe.decay:
        case "constant":
            return recipe.learning_rate
        case "linear":
            return recipe.learning_rate * (1 - progress)
        case "cosine":
            return recipe.learning_rate * (1 + math.cos(math.pi * progress)) / 2
