"""The notes of the vectors study: the assumptions and limits that a reader must know to believe the rest."""

from headscope.models.model import Model
from headscope.studies.vectors_parts.heads import EXAMPLES
from headscope.studies.vectors_parts.problems import Problems
from headscope.tasks.linear import functions_of
from headscope.zoo import card


def notes(model: Model, sources: int, half: Problems, top: int, judged: str) -> tuple[str, ...]:
    """What was done, in sentences; results are not here."""
    shots = half.few
    found = [
        f"Functions: {shots.functions.stated}. {shots.x.shape[1]} pairs before each "
        f"query, a share of {shots.noise:g} of them with a random y. {half.functions} functions choose layers and "
        f"heads, {half.functions} others, with {len(half)} problems, give every number that is claimed.",
        attainable(model),
        "Functions are the unit: outcomes are averaged over the problems of a function first, and bounds are 95% "
        "bootstrap bounds over functions, one quantity at a time; adjusted_low alone holds for all heads at once. "
        "What pairs add to accuracy is taken as known where a share of it is given.",
        "The read-out is the last token of a prompt: the separator after the query. A task vector is the stream "
        "there, before a layer, in a prompt that asks a dummy query; it takes the stream's place at the read-out of "
        "the prompt that asks something else and shows no pairs. Inputs are split once, so that no dummy query is "
        "ever asked. The stream after the last layer is left out: put there, it gives the dummy query's answer by "
        "construction.",
        f"Mean vectors and function vectors average {sources} further prompts of the function with dummy queries; "
        "some of these show, as one pair of many, an input that is asked elsewhere.",
        f"A function vector is the sum of the mean outputs of the {top} heads with the largest causal indirect "
        "effect on the selecting functions, through W_O, without the projection's bias.",
        "Accuracy counts an answer as right if each of its tokens is the single most likely one; probability is that "
        "of the whole answer.",
    ]
    if judged == EXAMPLES:
        found.append(
            "Induction heads are taken by example-to-example attention (from where a y is predicted to earlier y). "
            "In this model's language an input never comes twice, so nothing rewards matching repeated random "
            "tokens; earlier y are what followed earlier copies of the comma. Prefix matching stands beside it in "
            "the tables."
        )
    else:
        found.append(
            "Induction heads are taken by prefix matching on repeated random tokens; example-to-example attention, "
            "measured on the prompts of the task, stands beside it in the tables."
        )
    found.append(
        "Resampling adds noise to rankings of heads with like scores, which lowers both the common share and the "
        "rank correlation: their bounds lie rather too low than too high."
    )
    found.append(
        "A head's mean in an ablation is over all positions of label-shuffled prompts about other functions, which "
        "hold the form of the task but no function."
    )
    return (*found, *filter(None, [of_card(model)]))


def attainable(model: Model) -> str:
    """What a model that knew the function for sure would reach, in a language with corrupted answers."""
    language = functions_of(model)
    if language is None or not language.noise:
        return (
            "No noise is known of, so a model that knew the function for sure could reach a probability of 1."
        )
    best = 1 - language.noise + language.noise / language.n_numbers
    return (
        f"This model was trained on pairs of which a share of {language.noise:g} has a random y. Knowing the "
        f"function for sure, the best probability of the right answer is 1 - {language.noise:g} + {language.noise:g} "
        f"/ {language.n_numbers} = {best:.2f}; accuracy can reach 1."
    )


def of_card(model: Model) -> str:
    """How far a shipped model can stand for others, by what its card says of it; empty for other models."""
    if not model.name.startswith("zoo:"):
        return ""
    told = card(model.name.removeprefix("zoo:"))
    carried = told.get("recipe", {}).get("carried_at") or ()
    said = f"The card of this model says: {told.get('purpose', 'nothing')} "
    if carried:
        layers = " and ".join(map(str, carried))
        return (
            f"{said}It was trained to hold the function apart before layers {layers}: that a vector carries the task "
            "there is so by construction. It shows that this study finds what is there, not that other models have "
            "it."
        )
    return (
        f"{said}It is a small model of one synthetic task: it shows that this study works, not what large language "
        "models do."
    )
