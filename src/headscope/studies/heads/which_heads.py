"""Which heads does the model have?

In: attention of every head on natural prompts and on repeated random tokens. Out: the detector table on either half
of the prompts; whether there are induction heads (Olsson et al. 2022) and previous-token heads, beyond a null: the
same pairs where nothing repeats, or as many other keys. An induction head also raises the logit of what it attends
to: one that lowers it is an anti-induction head, one that does neither has the pattern only (detectors.copying). What
else a head does is asked by ablation.
"""

from headscope.detectors import COPYING_MARGIN, NAMED_MARGIN, above_null, heads_table, kinds
from headscope.evidence import any_of, claim
from headscope.figures import head_grid
from headscope.measures.samples import Samples
from headscope.results.example import attention_example
from headscope.results.study import AttentionExample, Claim
from headscope.studies.context import Part
from headscope.studies.head_sets import named
from headscope.studies.heads.experiment import Ctx, attention, every_prompt, named_heads, prompts, raised
from headscope.tasks.split import Split

WHERE = {"previous_token": "the token before", "induction": "the token after an earlier copy of the present one"}


def which_heads(ctx: Ctx) -> Part:
    """Which heads attend to the token before, to copies or what followed them, to their own token, or to BOS?"""
    read, written, shown = ctx.once(attention), ctx.once(raised), prompts(ctx).estimation
    above = read.map(lambda half: above_null(half["induction"]))
    unserved = written.estimation[1]
    tables = [
        heads_table(attending, name, raised=signed, unserved=unserved)
        for name, attending, (signed, _) in zip(("heads_selection", "heads"), read, written, strict=True)
    ]
    grid = head_grid(
        tables[1],
        "score",
        facet="detector",
        low=0.0,
        high=1.0,
        title="Where each head attends",
        caption="Mean attention on each detector's keys. Induction and duplicate token: over the queries with an "
        f"earlier copy in {len(shown.repeated)} sequences of repeated random tokens. Previous token, current token "
        f"and BOS: over all queries of {len(shown.natural)} natural prompts. These are different queries, so that "
        "the scores of a head need not sum to one.",
    )
    return Part(
        tables=tables[::-1],
        claims=[
            induction(above, written.map(lambda half: half[0]), unserved),
            presence("previous_token", above_null(read.estimation["previous_token"])),
        ],
        figures=[grid],
        attention=[_example(ctx)],
        notes=_notes(ctx),
    )


def presence(detector: str, above: Samples) -> Claim:
    """Whether some head is of the detector's kind, by its attention above the null, [prompt, head]."""
    kind = detector.replace("_", "-")
    few = "bounds for all heads at once need more prompts"
    return claim(
        detector,
        f"Some heads are {kind} heads: over 10% of their attention, beyond the null, goes to {WHERE[detector]}.",
        tests=[any_of(f"{kind} score beyond the null", above, above=NAMED_MARGIN, reason=few)],
        tables=["heads", "heads_selection"],
    )


def induction(above: Split[Samples], written: Split[Samples | None], unserved: str = "") -> Claim:
    """Whether some head is an induction head, by attention above the null and signed raise, both [prompt, head].

    The selection half chooses the head. The raise is asked of the heads that may have the pattern, so that neither a
    head with the pattern alone nor one with the sign alone stands for one with both.
    """
    sign = kinds(above.selection, written.selection)
    # No head of a model whose windows are shorter than the repetition: nothing is selected.
    may = above.selection.together().at_most > NAMED_MARGIN if len(above.selection) else ()
    patterned = [head for (_, head), each in zip(above.selection.cells, may, strict=True) if each]
    strongest = [str(head) for head in named(above.selection)]
    copies = [head for head in strongest if sign[head] == "induction"]
    head = next(iter((*copies, *strongest)), above.selection.best("head"))
    tests = [any_of("induction score beyond the null", above.estimation.choosing(head=head), above=NAMED_MARGIN)]
    if patterned:
        raises = written.estimation and written.estimation.only(head=patterned).choosing(head=head)
        tests.append(any_of("signed raise of what it attends to", raises, above=COPYING_MARGIN, reason=unserved))
    return claim(
        "induction",
        "Some heads are induction heads: over 10% of attention, beyond the null, goes to the token after an "
        "earlier copy, and they raise its logit.",
        tests=tests,
        tables=["heads", "heads_selection"],
    )


def _example(ctx: Ctx) -> AttentionExample:
    """Every head's pattern on the first prompt, as far as it can be read on a page."""
    labels: dict[str, list[str]] = {}
    for detector, heads in ctx.once(named_heads).items():
        for head in heads:
            labels.setdefault(str(head), []).append(detector.replace("_", " "))
    return attention_example(
        ctx.model.run(prompts(ctx).estimation.repeated.rows(slice(0, 1)), capture="pattern"),
        labels={head: ", ".join(kinds) for head, kinds in labels.items()},
        caption="Repeated random tokens: an induction head attends to what followed earlier copies of the token.",
    )


def _notes(ctx: Ctx) -> list[str]:
    every = ctx.once(every_prompt)
    source = every.natural.made_by
    notes = [
        "Heads are named and ordered on the prompts of even number (heads_selection); all estimates are of the "
        "others (heads). A head is named by a bound that holds for all heads of its detector at once; all other "
        "intervals are 95% bootstrap intervals over prompts, one head at a time.",
        f"{len(every.natural)} natural prompts: {source.get('text', source.get('task'))}. "
        f"Repeated prompts: {every.repeated.made_by['vocabulary']}.",
    ]
    if ctx.model.bos_token_id is None:
        notes.append("The model names no BOS token: “to BOS” means to the first token of the prompt here.")
    if not ctx.settings.gap:
        notes.append(
            "Repeats follow at a fixed distance, so a head that looks that far back scores as induction; "
            "run again with --gap 8 to tell them apart."
        )
    return notes
