"""The recipes that come with headscope, by name.

Their numbers were found by trying; each says what its model is for. `headscope train NAME` follows one.
"""

from headscope.errors import UnknownName
from headscope.tasks.phrases import PhraseLanguage
from headscope.training.definition import Recipe, powers_of_two_and_every

_INDUCTION_2L = Recipe(
    name="induction-2l",
    purpose="Two attention-only layers, just enough for induction heads, which form all at once in training.",
    architecture={
        "vocab_size": 128,
        "n_layers": 2,
        "d_model": 64,
        "n_heads": 4,
        "n_ctx": 128,
        "positions": "rotary",
        "norm": "layernorm",
    },
    data=PhraseLanguage(),
    batch_size=64,
    steps=1600,
    learning_rate=2e-3,
    checkpoint_steps=powers_of_two_and_every(50, steps=1600),
    selection=(
        "Positions, language and number of steps were picked among about eight variants, nearly all on this "
        "seed, by the same probes that this card reports; so its figures are those of a picked model, not of a "
        "typical one."
    ),
)

_RECIPES = {recipe.name: recipe for recipe in (_INDUCTION_2L,)}


def recipes() -> list[str]:
    """Names of the recipes that can be trained."""
    return sorted(_RECIPES)


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        UnknownName: if there is none; the message lists those that exist.
    """
    if name not in _RECIPES:
        raise UnknownName.among("recipe", name, recipes())
    return _RECIPES[name]
