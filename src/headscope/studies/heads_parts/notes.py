"""The notes of the heads study: the assumptions and limits that a reader must know to believe the rest.

In: the model, all prompts of the study, and how many were asked for. Out: sentences. Numbers are not here.
"""

from headscope.detectors import DetectorPrompts
from headscope.models.model import Model
from headscope.tasks.split import halves


def notes(model: Model, prompts: DetectorPrompts, n: int, gap: int) -> tuple[str, ...]:
    """Assumptions and limits that a reader must know to believe the rest."""
    source = prompts.natural.made_by
    found = [
        "Heads are named on the prompts of even number and estimated on those of odd number. The text and the "
        "groups go by the first; the column “named” of the table heads is judged on the second, so that the two "
        "can differ for heads near the margin. A head is "
        "named if a lower bound that holds for all heads of its detector at once (adjusted_low) exceeds the margin. "
        "All other intervals are 95% bootstrap intervals over prompts, one head at a time; they are not corrected "
        "for the number of heads.",
        f"Natural prompts: {source.get('text', source.get('task'))}. "
        f"Repeated prompts: {prompts.repeated.made_by['vocabulary']}.",
        "Mean ablation puts a head's mean over random tokens without repetition in its place, so that the mean "
        "holds nothing of the repetition. Zero ablation is farther from anything the model has seen.",
        "A recovered share is of the mean difference between clean and corrupted runs, which is taken as known.",
        "Direct effects hold the norms' scales fixed at their values in the clean run, before and after a cut: "
        "what changes is what a component writes. What rescaling does is the column by_norms of the table "
        "self_repair. Direct effects refer to logits before a soft-cap.",
    ]
    if model.bos_token_id is None:
        found.append("The model names no BOS token: “to BOS” means to the first token of the prompt here.")
    estimating = len(halves(prompts.natural).estimation)
    if estimating < n:
        found.append(
            f"The text is short: it gives {len(prompts.natural)} natural prompts in all, {estimating} instead of {n} "
            "for estimates."
        )
    if not gap:
        found.append(
            "Repeats follow at a fixed distance, so a head that looks that far back scores as induction; "
            "run again with --gap 8 to tell them apart."
        )
    return tuple(found)
