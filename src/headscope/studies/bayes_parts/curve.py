"""First part of the study `bayes`: does the probability of the right answer grow with examples as Bayes' rule says?

In: settings and a model. Out: the model's curve over the number of examples beside the exact posterior under one
or two priors, two regressions and its own curve on label-shuffled prompts; its distance to each, per shot; the
article's update fitted and tested for the straight line that it predicts, with the exact posterior as positive
control; four families of curves judged by extrapolation; and what the order of the examples does. Prompts are
the unit of all intervals: shots of a prompt share its examples.
"""

from headscope.models.model import Model
from headscope.studies.bayes_parts import curve_claims as claims
from headscope.studies.bayes_parts import curve_figures as figures
from headscope.studies.bayes_parts import curve_notes as notes
from headscope.studies.bayes_parts import curve_rows as rows
from headscope.studies.bayes_parts.config import Config
from headscope.studies.bayes_parts.fits import fit_tables
from headscope.studies.bayes_parts.seen import Progress, look
from headscope.studies.parts import Part


def curve(config: Config, model: Model, progress: Progress) -> Part:
    """The curve over examples, what it is near to, and what it is made of."""
    seen = look(config, model, progress)
    tables = {
        "curve": rows.curve_table(seen),
        "answers": rows.answers_table(seen),
        "distances": rows.distances_table(seen),
        "checks": rows.checks_table(seen),
        **fit_tables(seen, config, progress),
    }
    found = claims.all_claims(tables, article=config.article)
    return Part(
        tables=tables,
        claims=found,
        figures=figures.all_figures(tables),
        notes=notes.notes(config, model, seen),
        summary=claims.summary(tables),
    )
