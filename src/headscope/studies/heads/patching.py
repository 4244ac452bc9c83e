"""Does previous-token information reach the next position before the induction heads read it?

In: clean prompts `... A B ... A`, whose answer is B, and corrupted ones in which the first A is another token. Out:
how much of the answer's logit difference comes back when the clean residual stream is patched into the corrupted
run, by layer and position (Wang et al. 2023). In an induction circuit recovery moves from the match (the first A) to
the token after it, and later to the query.
"""

from headscope.evidence import Test, any_of, claim, table
from headscope.figures import layer_position_grid
from headscope.measures.samples import Samples
from headscope.results.study import Claim
from headscope.studies.context import Part
from headscope.studies.heads.experiment import Ctx
from headscope.sweeps.residual_patching import patched_residual
from headscope.tasks.repeated import induction_pairs
from headscope.tasks.split import Split, halves

MARGIN = 0.1


def patching(ctx: Ctx) -> Part:
    """Where does the clean residual stream bring back the answer?"""
    split, gap = ctx.once(recovery)
    listed = table(split.estimation, "patching")
    roles = {position: role or None for _, position, role in split.estimation.cells}
    grid = layer_position_grid(
        listed,
        "recovered",
        token_labels=list(roles.values()),
        diverging=True,
        low=-1.0,
        high=1.0,
        title="Where patching recovers the answer",
        caption="Share of the answer's logit difference that comes back at the last position when the clean residual "
        "stream before a layer (last row: the final one) is patched into the corrupted run at one position. Mean "
        f"over {len(gap.units)} pairs of prompts that differ in the token at the match.",
    )
    return Part(
        tables=[listed, table(split.selection, "patching_selection")],
        claims=[moves(split, gap)],
        figures=[grid],
        notes=["A recovered share is of the mean gap between clean and corrupted runs, which is taken as known."],
    )


def moves(split: Split[Samples], gap: Samples) -> Claim:
    """Whether patching after the match recovers the answer, from [pair, (layer, position, role)] on both halves."""
    after = after_the_match(split)
    chosen = after.estimation.choosing(layer=after.selection.best("layer"))
    what = "share recovered by patching the token after the match"
    return claim(
        "moves",
        "Previous-token information reaches the next position before the induction heads read it: patching there "
        "recovers over 10% of the logit difference.",
        needs=[Test("logit difference, clean minus corrupted", gap, above=0.0)],
        tests=[any_of(what, chosen, above=MARGIN)],
        tables=["patching", "patching_selection"],
    )


def after_the_match(split: Split[Samples]) -> Split[Samples]:
    """By layer, past the embedding, which holds nothing of the token before."""
    past = split.map(lambda half: half.only(layer=lambda each: each > 0))
    return past.map(lambda half: half.at(role="answer", position=half.only(role="answer").cells[0][1]))


def recovery(ctx: Ctx) -> tuple[Split[Samples], Samples]:
    """Shares recovered, on the selection half after the match alone; and the gap of the estimation half."""
    room = (ctx.model.context or 10**9) - 1
    length = max(5, min(8, room // 2))
    clean, corrupted = induction_pairs(ctx.model, length=length, n=2 * ctx.settings.n, seed=ctx.settings.seed)
    half, stage = (zip(halves(clean), halves(corrupted), strict=True), ctx.stage("patching the residual stream"))
    chosen, _ = patched_residual(ctx.model, *next(half), clean.roles["answer"][0], progress=stage)
    judged, gap = patched_residual(ctx.model, *next(half), range(clean.longest), progress=stage)
    return Split(chosen, judged), gap
