"""Which heads does the model have?

In: attention of every head on natural prompts and on repeated random tokens. Out: the detector table on either half
of the prompts; whether there are induction heads (Olsson et al. 2022) and previous-token heads, beyond a null: the
same pairs where nothing repeats, or as many other keys. What a head does with what it attends to is asked by
ablation.
"""

from headscope.detectors import NAMED_MARGIN, above_null, heads_table
from headscope.evidence import any_of, claim
from headscope.figures import head_grid
from headscope.measures.samples import Samples
from headscope.results.example import attention_example
from headscope.results.study import AttentionExample, Claim
from headscope.studies.context import Part
from headscope.studies.heads.experiment import Ctx, attention, every_prompt, named_heads, prompts

WHERE = {"previous_token": "the token before", "induction": "the token after an earlier copy of the present one"}


def which_heads(ctx: Ctx) -> Part:
    """Which heads attend to the token before, to copies or what followed them, to their own token, or to BOS?"""
    read, shown = ctx.once(attention), prompts(ctx).estimation
    table = heads_table(read.estimation)
    grid = head_grid(
        table,
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
        tables=[table, heads_table(read.selection, "heads_selection")],
        claims=[presence(name, above_null(read.estimation[name])) for name in ("induction", "previous_token")],
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
