"""Does previous-token information reach the next position before the induction heads read it?

In: clean prompts `... A B ... A`, whose answer is B, and corrupted ones in which the first A is another token. Out:
how much of the answer's logit difference comes back when the clean residual stream is patched into the corrupted
run, by layer and position (Wang et al. 2023), or in a large model by layer and role: match, answer, query, and all
others after the match at once. In an induction circuit recovery moves from the match (the first A) to the token after
it, and later to the query.
"""

from headscope.evidence import Test, any_of, claim, lines, table
from headscope.figures import layer_position_grid
from headscope.measures.samples import Samples
from headscope.results.study import Claim, Figure
from headscope.studies.context import Part
from headscope.studies.heads.experiment import Ctx
from headscope.studies.heads.screening import screened
from headscope.sweeps.residual_patching import patched_residual
from headscope.tables import Table
from headscope.tasks.repeated import induction_pairs
from headscope.tasks.split import Split, halves

MARGIN = 0.1
TITLE = "Where patching recovers the answer"


def patching(ctx: Ctx) -> Part:
    """Where does the clean residual stream bring back the answer?"""
    split, gap = ctx.once(recovery)
    listed = table(split.estimation, "patching")
    averaged = f"Mean over {len(gap.units)} pairs of prompts that differ in the token at the match."
    draw = _by_role if screened(ctx) else _by_position
    return Part(
        tables=[listed, table(split.selection, "patching_selection")],
        claims=[moves(split, gap)],
        figures=[draw(split.estimation, listed, averaged)],
        notes=["A recovered share is of the mean gap between clean and corrupted runs, which is taken as known."],
    )


def _by_position(recovered: Samples, listed: Table, averaged: str) -> Figure:
    roles = {position: role or None for _, position, role in recovered.cells}
    return layer_position_grid(
        listed,
        "recovered",
        token_labels=list(roles.values()),
        diverging=True,
        low=-1.0,
        high=1.0,
        title=TITLE,
        caption="Share of the answer's logit difference that comes back at the last position when the clean residual "
        "stream before a layer (last row: the final one) is patched into the corrupted run at one position. "
        f"{averaged}",
    )


def _by_role(recovered: Samples, listed: Table, averaged: str) -> Figure:
    cells = {(layer, role): recovered.values[:, place] for place, (layer, _, role) in enumerate(recovered.cells)}
    layer, _, role = recovered.axes
    return lines(
        Samples.of(recovered.quantity, (layer, role), cells, over=recovered.over),
        "layer",
        colour="role",
        name=listed.name,
        title=TITLE,
        caption="Share of the answer's logit difference that comes back at the last position when the clean residual "
        "stream before a layer (last: the final one) is patched into the corrupted run at the match, the token after "
        f"it (answer), the last token (query), or all others after the match together. {averaged}",
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
    where, others = list(range(clean.longest)), list[int]()
    if screened(ctx):
        where = [clean.roles[role][0][0] for role in ("match", "answer", "query")]
        others = [position for position in range(where[0], clean.longest) if position not in where]
    judged, gap = patched_residual(ctx.model, *next(half), where, others=others, progress=stage)
    return Split(chosen, judged), gap
