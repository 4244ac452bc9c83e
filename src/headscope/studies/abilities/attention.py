"""Do induction heads attend to the counterpart of the token that comes next, and raise its logit?

In: the prompts of a behaviour. Out: for every head its attention to the counterpart beyond the nulls
(detectors.counterparts), and its direct effect on the logit of the right token, minus that where the counterpart is
missing. The selection half chooses the induction head that is judged.
"""

from collections.abc import Sequence

import numpy as np

from headscope.detectors import COPYING_MARGIN, NAMED_MARGIN, above_null
from headscope.detectors.counterparts import counterpart_attention
from headscope.evidence import Test, any_of, claim, table
from headscope.figures import head_grid
from headscope.measures.samples import Samples, over_heads
from headscope.results.example import attention_example
from headscope.results.study import AttentionExample, Claim
from headscope.studies.abilities.experiment import BEHAVIOUR, NO_HEADS, Ctx, named_heads, needed, prompts
from headscope.studies.context import Part
from headscope.studies.head_sets import first_few, named
from headscope.studies.self_repair import unserved_direct_effects
from headscope.sweeps.self_repair import direct_effects
from headscope.tables import Quantity
from headscope.tasks.counterparts import BEHAVIOURS, PREDICTING, Counterparts
from headscope.tasks.split import Split
from headscope.vocabulary import Head

ATTENTION = Quantity("attention", "attention on the counterpart, beyond the larger of both nulls", "", (-1.0, 1.0))
RAISED = Quantity("raised", "direct effect on the right token's logit, minus that without the counterpart", "logits")
COUNTERPARTS = {
    "literal_copying": "the next token of a copied passage",
    "translation": "the original of a translation's next word",
    "pattern_matching": "the labels of lines of the same kinds",
}


def attention(ctx: Ctx) -> Part:
    """Which heads attend to the counterpart of what comes next, and raise it?"""
    read, written, heads = ctx.once(attended), ctx.once(raised), ctx.once(named_heads)["induction"]
    why = unserved_direct_effects(ctx.model)
    none = why or ("no window reaches back to the counterpart" if heads else NO_HEADS)
    claims = [
        attends(each, *needed(ctx, each, none), heads, read.get(each), written.get(each)) for each in BEHAVIOURS
    ]
    halves = ({name: each.estimation for name, each in by.items()} for by in (read, written))
    shown, effects = ([each.labelled(BEHAVIOUR, name) for name, each in half.items()] for half in halves)
    listed = table(shown, "heads", bounded=effects)
    grid = head_grid(
        listed,
        "attention",
        facet="behaviour",
        diverging=True,
        title="Attention to the counterpart of what comes next",
        caption="From the position that predicts a token to its counterpart, beyond the larger of two nulls: what "
        f"stands beside it, and what stands there where it is missing. Mean over {ctx.settings.n} prompts.",
    )
    says, notes = [_in_words(name, each.estimation, heads) for name, each in read.items()], [why] if why else []
    return Part(tables=[listed], claims=claims, figures=[grid], says=says, attention=[_example(ctx)], notes=notes)


def attends(
    behaviour: str,
    does: Test,
    none: str,
    heads: Sequence[Head],
    above: Split[Samples] | None,
    written: Split[Samples] | None,
) -> Claim:
    """Whether some of these heads attends to the counterpart and raises the right token; both [prompt, head].

    The selection half chooses the head: of those that attend the one that raises most. `none`: why not known.
    """
    attending = raising = None
    some = None if above is None else above.map(lambda half: half.only(head=[str(head) for head in heads]))
    if some is not None and len(some.selection):
        bounds, first = some.selection.together(), some.selection.best("head")
        names = np.array(some.selection.coordinates("head"))
        may, does_attend = (names[each > NAMED_MARGIN].tolist() for each in (bounds.at_most, bounds.mean))
        if written is not None and may:
            first = written.selection.only(head=does_attend or [first]).best("head")
            raising = written.estimation.only(head=may).choosing(head=first)
        attending = some.estimation.choosing(head=first)
    tests = [any_of("attention on the counterpart beyond the nulls", attending, above=NAMED_MARGIN, reason=none)]
    # Where surely none attends, nothing else is left to be asked.
    if raising is not None or attending is None or written is None:
        what = "direct effect on the right token beyond that without its counterpart"
        tests.append(any_of(what, raising, above=COPYING_MARGIN, reason=none))
    return claim(
        behaviour,
        f"Some induction heads give over 10% of attention, beyond the nulls, to {COUNTERPARTS[behaviour]}, and raise "
        "the right token.",
        needs=[does],
        tests=tests,
        tables=["behaviours", "heads"],
    )


def attended(ctx: Ctx) -> dict[str, Split[Samples]]:
    """Attention beyond the nulls [prompt, (layer, head)] of every behaviour asked, on either half."""
    return {
        behaviour: split.map(lambda half: above_null(counterpart_attention(ctx.model, half)).measured_as(ATTENTION))
        for behaviour, split in ctx.once(prompts).items()
    }


def raised(ctx: Ctx) -> dict[str, Split[Samples]]:
    """Direct effects beyond the null [prompt, (layer, head)] of every behaviour asked, where they are served."""
    served = {} if unserved_direct_effects(ctx.model) else ctx.once(prompts)
    return {behaviour: split.map(lambda half: _raised(ctx, half)) for behaviour, split in served.items()}


def _raised(ctx: Ctx, half: Counterparts) -> Samples:
    clean, heads = direct_effects(ctx.model, half.both, PREDICTING).clean, ctx.model.heads
    there, missing = np.split(np.stack([clean.of(head) for head in heads], axis=1), 2)
    return over_heads(RAISED, heads, there - missing)


def _in_words(behaviour: str, above: Samples, induction: Sequence[Head]) -> str:
    """Heads that attend to the counterpart, and which of them are no induction heads."""
    found = named(above)
    other = first_few([head for head in found if head not in induction], 6)
    told = (
        f"In {behaviour.replace('_', ' ')} {first_few(found, 6) or 'no heads'} attend to the counterpart, by a bound"
    )
    return f"{told} for all at once{f'; {other} were not named induction heads' if other else ''}."


def _example(ctx: Ctx) -> AttentionExample:
    """Every head's pattern on a prompt: a translation where there is one."""
    shown, kinds = ctx.once(prompts), ctx.once(named_heads).items()
    one = shown.get("translation", shown["literal_copying"]).estimation.matched.rows(slice(0, 1))
    labels = {str(head): kind.replace("_", " ") for kind, heads in kinds for head in heads}
    caption = "A head that helps looks from where a word is predicted to the word's counterpart."
    return attention_example(ctx.model.run(one, capture="pattern"), labels=labels, caption=caption)
