"""Do the heads that form the task attend from the token before each label to earlier labels?

In: the layers ablated first. Out: of each such layer the head whose ablation costs the task most, on the selection
half; its damage and its attention on the other; and the article's observation as a claim about those that clearly
matter to the task alone. The null (detectors.roles) keeps token kind and distance: the same queries on other numbers,
the same labels from other queries.
"""

import torch

from headscope.detectors.roles import role_attention
from headscope.evidence import claim, every, table
from headscope.measures.samples import Samples, over_heads
from headscope.results.example import attention_example
from headscope.results.study import Claim
from headscope.studies.context import Part
from headscope.studies.redundancy.damage import MATTERS_LOGITS, TaskDamage, important_heads
from headscope.studies.redundancy.experiment import Ctx, experiment
from headscope.studies.redundancy.patching import MARGIN, best_cell
from headscope.studies.redundancy.rounds import rounds
from headscope.studies.redundancy.self_repair import growth
from headscope.tables import Quantity
from headscope.tasks.source_and_target import TASK
from headscope.tasks.split import Split
from headscope.vocabulary import Head

ATTENTION = Quantity("attention", "from the token before each label to all earlier labels", within=(0.0, 1.0))
OTHERS = Quantity("null_attention", "to other numbers, from other queries, or as far: the largest", within=(0.0, 1.0))
MORE = Quantity("attention_excess", "attention to earlier labels minus the null's", within=(-1.0, 1.0))


def forming_heads(ctx: Ctx) -> Split[Samples] | None:
    """Damage to the task by heads of the layers ablated first: all, and the foremost of each; None without a task."""
    made, tried = ctx.once(rounds), ctx.once(experiment)
    clean = made[0].halves.selection
    _, layer = best_cell(clean.excess.only(answer=TASK))
    ablated = made[1].new if len(made) > 1 and clean.layers(*TASK) else ()
    before = tuple(head for head in ablated if head.layer < layer)
    if not before:
        return None
    selection = TaskDamage(tried, tried.prompts.selection, layer).each(before)
    foremost = [of_layer.best("head") for of_layer in selection.by("layer").values()]
    heads = tuple(sorted(map(Head.parse, foremost)))
    estimation = TaskDamage(tried, tried.prompts.estimation, layer).each(heads)
    return Split(selection, estimation)


def looks_back(attention: Samples | None) -> Claim:
    """`attention` of the heads that form the task, to earlier labels minus the null's."""
    why = "no single ablated head clearly lowers the task's logit"
    statement = (
        "The heads that matter most in ablated layers attend from before labels to earlier labels, "
        "more than to other numbers or from elsewhere."
    )
    what = "attention to earlier labels minus the null's"
    tables = () if attention is None else ("forming_heads", "label_attention")
    tests = [every(what, attention, above=MARGIN, reason=why)]
    return claim("looks_back", statement, tests=tests, tables=tables)


def attention_to_examples(ctx: Ctx) -> Part:
    """Where do the heads that form the task, and those that matter for the answer, attend?"""
    model, forming, asked = ctx.model, ctx.once(forming_heads), ctx.once(experiment).prompts.estimation.source
    read = role_attention(model, asked, seed=ctx.settings.seed)["example_to_example"]
    mass, null = (torch.cat([getattr(each, n) for _, each in sorted(read.items())], 1) for n in ("mass", "null"))
    attention, others = over_heads(ATTENTION, model.heads, mass), over_heads(OTHERS, model.heads, null)
    more = (attention - others).measured_as(MORE)
    roles, tables, sure = {str(head): "answer" for head in ctx.once(important_heads)}, [], []
    if forming is not None:
        tables.append(table(forming.estimation, "forming_heads"))
        foremost = forming.estimation.coordinates("head")
        roles |= dict.fromkeys(foremost, "task")
        sure = [
            each for each in forming.selection.named(above=MATTERS_LOGITS).coordinates("head") if each in foremost
        ]
    if roles:
        tables.append(table(more.only(head=set(roles)), "label_attention", beside=(attention, others)))
    roles |= {cell[-1]: "backup" for each in ctx.once(growth).values() for cell in each.backups}
    example = attention_example(
        model.run(asked.rows(slice(0, 1)), capture="pattern"),
        labels=roles,
        caption="A source prompt, and where each head attends. “answer”: ablating it lowers the source's answer; "
        "“task”: it matters most in a layer ablated first; “backup”: it grew once others were ablated.",
    )
    claims = [looks_back(more.only(head=sure) if sure else None)]
    return Part(tables=tables, claims=claims, attention=[example])
