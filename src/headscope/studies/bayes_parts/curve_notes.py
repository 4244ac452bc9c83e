"""The notes of the curve over examples: assumptions and limits that a reader must know to believe the rest."""

from headscope.measures.curve_fits import TIED_NRMSE
from headscope.measures.updates import RESOLVED
from headscope.models.model import Model
from headscope.studies.bayes_parts.config import Config
from headscope.studies.bayes_parts.fits import NEAREST
from headscope.studies.bayes_parts.seen import Seen
from headscope.tasks.linear import functions_of


def notes(config: Config, model: Model, seen: Seen) -> tuple[str, ...]:
    """What was asked, what is compared with what, and what cannot be known here."""
    language = functions_of(model)
    found = [
        f"Problems: {seen.shots.functions.stated}; {seen.shots.x.shape[1]} pairs, {seen.shots.noise:.0%} of "
        "them with a "
        f"random y. The exact posterior expects {seen.noise:.0%}. Judged is the function's value, also where a "
        "shown y "
        "is not.",
        "Intervals are over prompts, each with a function and examples of its own; whole curves are resampled, "
        "since "
        "the shots of a prompt share its examples. Bounds of what is fitted are percentiles over resamples.",
        "The article prints (c - 1) where the update needs (1 - c); here it is mended. What an example adds to the "
        "log-odds, log(c / (1 - c)) = K log(gamma / beta), can be read off a curve; A_0, beta and K separately "
        "often "
        "cannot: a curve that has left its lower end no longer knows them.",
        f"Updates are fitted to log-odds averaged over prompts, p kept {NEAREST:g} away from 0 and 1. Shots at "
        "which p is "
        f"not between beta and gamma, or the belief not between {RESOLVED[0]} and {RESOLVED[1]}, tell no "
        "log-odds; they "
        "count in the misfit and are left out of the line.",
        f"Two families are tied if their errors differ by no more than {TIED_NRMSE} or the bounds of the "
        "difference "
        "include 0. Power is a limit of bounded and of logistic.",
        f"Least squares answers from two pairs on; ridge (strength {config.ridge:g}, slope towards 0, pairs "
        "centred) from "
        "one on. Neither knows of corrupted pairs.",
    ]
    if language is not None:
        found.append(
            "This model was trained on pairs like these, with a share of them corrupted, and so towards the exact "
            "posterior. That it comes near proves that the study can see a Bayesian where there is one; it says "
            "nothing "
            "about large models that were trained on text."
        )
    else:
        found.append(
            "In text not every number is scored: the divergence is over two outcomes, the right number or any "
            "other, which "
            "is a lower bound, and the model's own most likely number is not known."
        )
    if config.article:
        found.append(
            "All prompts show the article's own pairs and differ in the query alone: before the last shot they "
            "are one "
            "prompt, and no interval says how other examples would do."
        )
    return tuple(found)
