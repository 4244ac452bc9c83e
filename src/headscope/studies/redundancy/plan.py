"""The redundancy study: where a task learnt in context is formed, and which heads form it once those are ablated.

In: a model that reads pairs (x, y). Out: a Study. The final-token residual stream of a prompt with examples is
patched into one without, layer by layer: what that answers shows what had formed there. Then the attention that
formed it is ablated, and the same is asked again. The claims are those of `sources.REDUNDANT_HEADS` on Llama-3-8B
and one function; here with controls, intervals and many functions.
"""

from collections.abc import Mapping, Sequence

from headscope.evidence import in_words
from headscope.figures.words import joined
from headscope.results.study import Claim, Verdict
from headscope.studies.context import Part, Plan
from headscope.studies.gate import pairs_gate
from headscope.studies.pairs import described, over_lists
from headscope.studies.redundancy.attention_to_examples import attention_to_examples
from headscope.studies.redundancy.does_the_task import does_the_task, source_answered
from headscope.studies.redundancy.experiment import Ctx, RedundancySettings, experiment, problems
from headscope.studies.redundancy.forecast import stages
from headscope.studies.redundancy.iterative_ablation import iterative_ablation
from headscope.studies.redundancy.joint_ablation import joint_ablation, joint_layers
from headscope.studies.redundancy.parity import parity
from headscope.studies.redundancy.patching import MARGIN, Patched, best_cell
from headscope.studies.redundancy.repeats import repeats
from headscope.studies.redundancy.rounds import Round, rounds, seen
from headscope.studies.redundancy.self_repair import INPUTS, LABELS, WRITING, growth, self_repair
from headscope.studies.redundancy.transfer import transfer
from headscope.studies.sources import REDUNDANT_HEADS, TASK_VECTORS
from headscope.tasks.linear import functions_of, linear
from headscope.tasks.source_and_target import CONTROLS, EXAMPLES, TASK

POSITIONS = {"last": "the final position", "all": "all positions"}
GROWS = {LABELS: "attention to the labels", INPUTS: "attention to the inputs", WRITING: "the direct effect"}
QUESTIONS = (does_the_task, transfer, iterative_ablation, self_repair, joint_ablation, repeats, parity)


def answer(ctx: Ctx, claims: Mapping[str, Claim]) -> list[str]:
    """Where the task is formed, whether it forms elsewhere once that is ablated, and which heads grow."""
    clean = ctx.once(rounds)[0].patched
    n, shots = len(clean.prompts), clean.prompts.problems.source.x.shape[1]
    task = clean.prompts.problems.source.functions.single
    of = f" of {task}" if task else ""
    right = f"{round(clean.share('exact') * n)} of {n} prompts{of} right with {shots} examples"
    told = [f"{ctx.model.name} answers {right} (probability {in_words(clean.own)})."]
    if any(need.row("need").side != "yes" for need in source_answered(ctx)):
        controls = "with shuffled labels, or with another function's pairs"
        return [*told, f"That is not shown to be more than {controls}: the rest cannot be judged on this model."]
    told += [_transfer(ctx)]
    after = _ablations(ctx)
    layers, verdict = ctx.once(joint_layers), claims["layers_stand_in"].verdict
    if layers is not None:
        members = joined(layers.jointly.coordinates("ablated")[0].split())
        clearly = "" if verdict is Verdict.SUPPORTED else "not clearly "
        cost = f"{layers.jointly.mean[0]:.2f} logits, singly {layers.singly.mean[0]:.2f} in sum"
        after.append(f"Layers {members} are {clearly}redundant: ablated jointly they cost {cost}.")
    return [" ".join(told), " ".join([*after, *_backups(ctx)])]


def _transfer(ctx: Ctx) -> str:
    what = "Patching its final-position residual stream into a zero-shot target prompt"
    made = ctx.once(rounds)
    halves = made[0].halves
    named = _span(made, halves.estimation)
    answer, layer = best_cell(halves.selection.excess.only(answer=TASK))
    there = halves.estimation.probability.at(answer=answer, layer=layer).by("source")
    told = f"{what} transfers the task at {named}: at layer {layer} the target answers {answer} with probability"
    return f"{told} {in_words(there[EXAMPLES])} (label-shuffled source: {there[CONTROLS[0]].mean[0]:.2f})."


def _span(made: Sequence[Round], each: Patched) -> str:
    """The layers that are named, neighbours together."""
    layers = each.layers(*TASK, among=seen(made, *TASK))
    firsts = [layer for layer in layers if layer - 1 not in layers]
    lasts = [layer for layer in layers if layer + 1 not in layers]
    spans = [str(x) if x == y else f"{x} to {y}" for x, y in zip(firsts, lasts, strict=True)]
    return f"layer{'s' if layers[1:] else ''} {joined(spans)}" if layers else "no layer that can be named"


def _ablations(ctx: Ctx) -> list[str]:
    made = ctx.once(rounds)
    rest = [each.patched for each in made[1:]]
    where = "with {} ablated, the task is transferred at {} (the source's answer: {:.2f})"
    told = [where.format(each.name, _span(made, each), each.own.mean[0]) for each in rest]
    return ["; ".join(told).capitalize() + "."] if told else []


def _backups(ctx: Ctx) -> list[str]:
    heads: dict[tuple[str, str], list[str]] = {}
    for kind, each in ctx.once(growth).items():
        for ablated, _, head in each.backups:
            heads.setdefault((GROWS[kind], ablated), []).append(head)
    told = [f"with {ablated} ablated, {what} grows at {joined(each)}" for (what, ablated), each in heads.items()]
    return [f"Backup heads, beyond shuffled labels: {'; '.join(told)}."] if told else []


def limits(ctx: Ctx) -> Part:
    """What a reader must know to believe the rest."""
    settings = ctx.settings
    own_language = functions_of(ctx.model) is not None
    tried, drawn = ctx.once(experiment), ctx.once(problems)
    functions, several = drawn.source.functions, tried.prompts.estimation.longest_answer > 1
    are_numbers, near = functions.is_number, "near" in tried.readings
    alone = bool(functions.single) and not settings.article
    asked = "The target's x is neither shown nor asked in the source"
    notes = {
        f"{described(drawn.source)} Left out are a < 2 and b < 1 where there are others, and problems with two equal "
        f"answers. {asked}.": drawn.slopes,
        f"{described(drawn.source)} Left out are problems in which f(x) and x of source and target are not four "
        f"different answers. {asked}; few inputs are shown again and again.": not drawn.slopes,
        f"All prompts are of one task ({functions.single}), and so are bounds and verdicts: nothing is said of "
        f"other tasks. Sources of “{CONTROLS[1]}” show the same inputs, each with itself.": alone,
        "Prompts go on to the first token that tells their four answers apart, with what these share, and are "
        "patched and read there. Left out are problems whose answers do not part at one token, and, where "
        "there are enough others, sources that are longer or shorter than most.": not own_language,
        "Unpatched: the token that the target finds most likely without a patch. Of random ablations the source's "
        "own answer is asked alone.": not own_language,
        "Answers are words: slope, parity, numbers near the answer and any number are not asked.": not are_numbers,
        "A telling token is no whole number here: parity and numbers near the answer are not asked.": are_numbers
        and not near,
        "Slopes are not asked: a x begins with the same token as f(x), or is x.": are_numbers and not drawn.slopes,
        "Layers and heads are selected on one half of the problems; all that is shown is measured on the other. "
        "Bounds are 95% over problems, one number at a time; where layers or heads are named, for all at once.": True,
        f"A layer transfers an answer if its probability exceeds, by a lower bound above {MARGIN}, that of the same "
        "patch from a source with shuffled labels and from one about another function, paired by problem.": True,
        f"Ablations are by {settings.ablation}, at {POSITIONS[settings.positions]} of the source. Heads that matter "
        "are found by their mean over label-shuffled prompts; self-repair is measured by zero ablation.": True,
        "Any number: with number tokens the probability of all of them together, in text the share of prompts whose "
        "most likely next token begins a number.": are_numbers,
        "All prompts share the article's twelve pairs: nothing is known of other functions.": settings.article,
        "Answers have several tokens: a patch decides the first that differs; “whole” (with nothing ablated) is the "
        "probability of all of them, of which a target without examples writes the rest.": several,
        "This model was trained on nothing but such pairs: linear-8l to have redundant layers and to form the task "
        "before its layers 4 and 5, linear-4l on noisy pairs. It is a positive control.": own_language,
    }
    return Part(notes=[note for note, holds in notes.items() if holds])


PLAN = Plan(
    name="redundancy",
    help="Where a task learnt from pairs is formed, and which heads form it once those are ablated.",
    title="In-context learning of y = f(x)",
    question="Where is a task learnt in context formed, and do other heads form it once those are ablated?",
    settings=RedundancySettings,
    shown_on="zoo:linear-8l",
    questions=(*map(over_lists, (*QUESTIONS, attention_to_examples)), limits),
    answer=answer,
    gate=pairs_gate,
    stages=stages,
    prompts=lambda ctx: [linear(ctx.model, ctx.once(problems).source)],
    lead="task",
    sources=(REDUNDANT_HEADS, TASK_VECTORS),
    terms={
        "source prompt": "Shows pairs of x and f(x), and asks for f of another x.",
        "target prompt": "Asks for f of yet another x, without any pairs (zero-shot).",
        "iterative ablation": "Ablate the attention just before the first layer that transfers the task, and again.",
    },
)
