"""What the curve over examples says of the article's claim that models update like Bayesians.

Rules are stated once, here. A claim is *supported* if a bound lies beyond its margin on the right side, *refuted*
if the other bound lies beyond it on the wrong one, *undetermined* otherwise, and where there is nothing to judge: a
curve that does not rise has no updates. The positive control of every claim is the exact posterior on the same
prompts.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from headscope.measures import Side, side
from headscope.results.study import Claim, Verdict
from headscope.studies.bayes_parts.curve_rows import AFTER, MODEL
from headscope.studies.bayes_parts.fits import BELIEF, DIFFERENCE, LOGIT_P
from headscope.studies.bayes_parts.seen import PRIOR_NAMES
from headscope.studies.words import number, undetermined, with_bounds
from headscope.tables import Table

RISE_MARGIN = 0.05
EXACT_MARGIN = 0.1
ORDER_MARGIN = 0.05
# By how much worse than the exact posterior a line may fit, and from where on that one is no line either.
MISFIT_MARGIN = 0.02
CONTROL_MISFIT = 0.05

EXACT = PRIOR_NAMES["grid"]
_NO_RISE = (
    "the curve does not clearly rise with examples beyond its control, so there are no updates to judge."
)
_ONE_LIST = "all prompts show the article's own pairs, so there is one curve and nothing to generalise from."
_POWERS = ("power", "bounded")

Tables = Mapping[str, Table]


def all_claims(found: Tables, *, article: bool) -> tuple[Claim, ...]:
    """The claims of this part; `article`: all prompts show the same pairs."""
    rises = _rises(found)
    nothing = "" if rises.verdict is Verdict.SUPPORTED else _NO_RISE
    one_list = nothing or (_ONE_LIST if article else "")
    if article:
        rises = replace(
            rises,
            verdict=Verdict.UNDETERMINED,
            because=f"{rises.because} But {_ONE_LIST} Bounds are over queries.",
        )
    claims = (
        rises,
        _line(found, one_list),
        _families(found, one_list),
        _near_exact(found, _ONE_LIST if article else ""),
        _no_order(found, one_list),
    )
    return claims


def _rises(found: Tables) -> Claim:
    statement = (
        f"The probability of the right answer rises with examples, by over {RISE_MARGIN} more than where their "
        "labels "
        "are shuffled."
    )
    beyond, plain, shuffled, exact = (
        _check(found, name)
        for name in (
            "rise beyond shuffled labels",
            "rise",
            "rise, labels shuffled",
            "rise, exact posterior",
        )
    )
    verdict = Verdict.of(side(beyond["low"], beyond["high"], RISE_MARGIN))
    first, *_, last = found["curve"].rows(learner=MODEL)
    because = (
        f"from no pairs to {last['shots']}, it goes from {number(first['p'])} to {number(last['p'])}, a change of "
        f"{with_bounds(plain, 'value')}; with shuffled labels it changes by {with_bounds(shuffled, 'value')}, "
        f"which leaves {with_bounds(beyond, 'value')}. The exact posterior rises by {_or_reason(exact)}."
    )
    return Claim("rises", statement, verdict, because, ("curve", "checks"))


def _line(found: Tables, nothing: str) -> Claim:
    statement = (
        "Every example adds the same to the log-odds of the task (the article's Bayesian update): a straight line "
        "describes them as well as it does the exact posterior's."
    )
    tables = ("updates", "log_odds")
    rows = {row["learner"]: row for row in found["updates"].rows()}
    own, control, gap = rows.get(MODEL), rows.get(EXACT), rows.get(DIFFERENCE)
    if nothing or own is None or own["reason"]:
        because = nothing or "there is no fit: " + (own["reason"] if own else "nothing was fitted") + "."
        return undetermined("linear_log_odds", statement, because, *tables)
    because = (
        f"with p = beta + (gamma - beta) A, a straight line in logit A misses the model's curve by "
        f"{_three(own, 'misfit')} of its mean; {_step(own)}. Log-odds read off p at the {own['points']} shots "
        "that allow "
        f"it have r2 = {number(own['r2'])} and bend by {number(own['bend'])} of their slope."
    )
    if control is None or gap is None:
        why = "the exact posterior, the positive control, is undefined on these prompts."
        return undetermined("linear_log_odds", statement, f"{because} But {why}", *tables)
    because += (
        f" The exact posterior, the positive control, is missed by {_three(control, 'misfit')}, "
        f"{_step(control)}; the "
        f"difference is {_three(gap, 'misfit')} (margin {MISFIT_MARGIN}).{_ideal(rows)}"
    )
    if not control["high"] < CONTROL_MISFIT:
        because += (
            f" The control itself does not stay under {CONTROL_MISFIT}: here even Bayes is no such line."
        )
        return undetermined("linear_log_odds", statement, because, *tables)
    verdict = _below(side(gap["low"], gap["high"], MISFIT_MARGIN))
    return Claim("linear_log_odds", statement, verdict, because, tables)


def _ideal(rows: Mapping[str, Mapping[str, Any]]) -> str:
    belief, of_p = rows[BELIEF], rows[LOGIT_P]
    if belief["points"] < 4 or of_p["points"] < 4:
        return ""
    return (
        f" Its belief in the true function, not read off p, gains {number(belief['slope'])} nats per example with "
        f"r2 = {number(belief['r2'])}; the log-odds of its p, which are not what the update is about, have r2 = "
        f"{number(of_p['r2'])} and bend by {number(of_p['bend'])}."
    )


def _families(found: Tables, nothing: str) -> Claim:
    statement = "A Bayesian curve extrapolates better than power laws (power and bounded), to more examples."
    tables = ("extrapolation", "against", "predicted")
    rows = [row for row in found["against"].rows(learner=MODEL) if row["other"] in _POWERS]
    judged = [row for row in rows if row["worse"] == row["worse"]]
    if nothing or not judged:
        because = nothing or "no prefix of so few shots has enough points for a fit and others to predict."
        return undetermined("bayesian_extrapolates", statement, because, *tables)
    clear = [row for row in judged if not row["tied"]]
    if any(row["worse"] < 0 for row in clear):
        verdict = Verdict.REFUTED
    else:
        verdict = Verdict.SUPPORTED if len(clear) == len(judged) else Verdict.UNDETERMINED
    errors = "; ".join(
        f"{_who(learner)}, " + ", ".join(f"{row['family']} {row['error']:.3f}" for row in own)
        for learner in (MODEL, EXACT)
        if (own := [r for r in found["extrapolation"].rows(learner=learner) if r["error"] == r["error"]])
    )
    pairs = "; ".join(
        f"{row['other']} is worse by {_three(row, 'worse')}{' (tied)' if row['tied'] else ''}"
        for row in judged
    )
    shares = ", ".join(f"{share:.0%}" for share in dict.fromkeys(row["share"] for row in judged))
    because = (
        f"fitted to the first {shares} of the shots, errors on the rest (NRMSE) are, of {errors}. Against the "
        f"Bayesian curve, {pairs}."
    )
    return Claim("bayesian_extrapolates", statement, verdict, because, tables)


def _near_exact(found: Tables, nothing: str) -> Claim:
    statement = (
        f"From {AFTER} examples on, the model's probability of the right answer stays within {EXACT_MARGIN} of "
        "the exact "
        "posterior's, on average over prompts."
    )
    row, signed = (
        _check(found, name) for name in ("distance from exact after 8", "model minus exact after 8")
    )
    ideal = _check(found, "rise, exact posterior")
    if not nothing and not row["reason"] and not ideal["low"] > RISE_MARGIN:
        nothing = "the exact posterior itself does not clearly rise with these examples: there is nothing to follow."
    if nothing or row["reason"]:
        because = nothing or f"{row['reason']}."
        return undetermined("near_exact", statement, because, "checks", "distances")
    verdict = _below(side(row["low"], row["high"], EXACT_MARGIN))
    last = max(each["shots"] for each in found["distances"].rows())
    told = ", ".join(
        f"{number(each['kl'])} nats from the {each['reference']}"
        for each in found["distances"].rows(shots=last, over="numbers")
        if not each["reason"]
    )
    because = (
        f"prompt by prompt they differ by {with_bounds(row, 'value')} (margin {EXACT_MARGIN}); the model's minus "
        f"the exact one is {with_bounds(signed, 'value')} on average."
    )
    if told:
        because += f" Over all numbers, after {last} pairs it is {told}."
    return Claim("near_exact", statement, verdict, because, ("checks", "distances"))


def _no_order(found: Tables, nothing: str) -> Claim:
    statement = (
        "Updates do not depend on the order of the examples: in another order the answer's probability changes "
        "by less "
        f"than {ORDER_MARGIN}, up or down."
    )
    row, exact = (_check(found, name) for name in ("change with order", "change with order, exact posterior"))
    if nothing:
        return undetermined("order", statement, nothing, "checks")
    verdict = _below(side(row["low"], row["high"], ORDER_MARGIN))
    because = (
        f"after all pairs in a random other order it differs by {with_bounds(row, 'value')}, the exact "
        "posterior's by "
        f"{_or_reason(exact)}."
    )
    return Claim("order", statement, verdict, because, ("checks",))


def summary(found: Tables) -> tuple[str, ...]:
    """The curve in a sentence, beside what an ideal observer would do."""
    beyond, exact = _check(found, "rise beyond shuffled labels"), _check(found, "rise, exact posterior")
    first, *_, last = found["curve"].rows(learner=MODEL)
    if not beyond["low"] > RISE_MARGIN:
        return (
            "The model does not clearly learn from examples: the probability of the right answer is "
            f"{number(first['p'])} "
            f"without any and {number(last['p'])} after {last['shots']}, {with_bounds(beyond, 'value')} more "
            "than with "
            "shuffled labels. There is nothing here to call an update.",
        )
    return (
        f"The model learns from examples: the probability of the right answer goes from {number(first['p'])} to "
        f"{number(last['p'])} over {last['shots']} pairs, while the exact posterior rises by {_or_reason(exact)}.",
    )


def _check(found: Tables, quantity: str) -> dict[str, Any]:
    return found["checks"].rows(quantity=quantity)[0]


def _below(where: Side) -> Verdict:
    """For a claim that something stays under its margin."""
    if where is Side.UNDETERMINED:
        return Verdict.UNDETERMINED
    return Verdict.SUPPORTED if where is Side.BELOW else Verdict.REFUTED


def _three(row: Mapping[str, Any], name: str) -> str:
    """A small number with its bounds, to three decimals."""
    return f"{row[name]:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _step(row: Mapping[str, Any]) -> str:
    return f"{number(row['step'])} nats per example [{number(row['step_low'])}, {number(row['step_high'])}]"


def _or_reason(row: Mapping[str, Any]) -> str:
    return f"an unknown amount ({row['reason']})" if row["reason"] else with_bounds(row, "value")


def _who(learner: str) -> str:
    return f"the {learner}"
