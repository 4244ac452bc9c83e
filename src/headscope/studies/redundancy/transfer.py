"""From which layer on does the source's final residual stream make the target do the source's task?

In: what the target answers with every layer patched, under every ablation. Out: tables of probabilities, of their
excess above both controls and of predicted numbers, and the article's first claim, judged at the answer and layer
that the selection half chose. Hendel et al. 2023 call such a patch a task vector.
"""

from collections.abc import Sequence

from headscope.evidence import Test, any_of, claim, lines, table
from headscope.measures.samples import Samples, stacked
from headscope.results.study import Claim
from headscope.studies.context import Part
from headscope.studies.redundancy.does_the_task import source_answered
from headscope.studies.redundancy.experiment import ANY_NUMBER, Ctx
from headscope.studies.redundancy.patching import ABLATED, MARGIN, best_cell
from headscope.studies.redundancy.rounds import rounds
from headscope.tables import Quantity
from headscope.tasks.source_and_target import CONTROLS, EXAMPLES, TASK
from headscope.tasks.split import Split

CONTROL_MEANS = {
    each: Quantity(each.replace("-", "_").replace(" ", "_"), f"the same from {each} sources") for each in CONTROLS
}


def transferred(excess: Split[Samples]) -> list[Test]:
    """Some answer of the task, at some layer, is likelier than under each control; chosen on the selection half."""
    answer, layer = best_cell(excess.selection.only(answer=TASK))
    judged = {
        c: excess.estimation.only(answer=TASK).at(control=c).choosing(answer=answer, layer=layer) for c in CONTROLS
    }
    what = "probability above {} sources"
    return [any_of(what.format(control), each, above=MARGIN) for control, each in judged.items()]


def carried(needs: Sequence[Test], excess: Split[Samples]) -> Claim:
    statement = "Some layer's residual stream transfers the task: a zero-shot prompt then answers with f(x)."
    return claim("carried", statement, needs=needs, tests=transferred(excess), tables=("transfer", "excess"))


def transfer(ctx: Ctx) -> Part:
    """What does the target answer with each layer patched?"""
    made = [each.patched for each in ctx.once(rounds)]
    probability, excess, accuracy = (
        stacked([getattr(each, name).labelled(ABLATED, each.name) for each in made])
        for name in ("probability", "excess", "accuracy")
    )
    examples = probability.at(source=EXAMPLES)
    controls = [probability.at(source=each).measured_as(CONTROL_MEANS[each]) for each in CONTROLS]
    whole = [each.whole.labelled(ABLATED, each.name) for each in made if each.whole is not None]
    tables = [table(examples, "transfer", beside=[*controls, *whole]), table(excess, "excess")]
    shown = examples.at(ablated="nothing").only(answer=lambda answer: answer != ANY_NUMBER)
    title = "What the zero-shot target answers with each layer patched"
    caption = "Mean probability over target prompts, patched before each layer (the last: after all)."
    return Part(
        tables=[*tables, table(accuracy.at(source=EXAMPLES), "predicted")],
        claims=[carried(source_answered(ctx), ctx.once(rounds)[0].excess)],
        figures=[lines(shown, "layer", colour="answer", name="transfer", title=title, caption=caption)],
    )
