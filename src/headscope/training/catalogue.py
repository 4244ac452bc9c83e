"""The recipes that come with headscope, by name.

Their numbers were found by trying; each says what its model is for. `headscope train NAME` follows one.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from headscope.errors import UnknownName
from headscope.tasks.pairs import PairLanguage
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


def _sibling(name: str, purpose: str, *, steps: int, every: int, n_layers: int, **fields: Any) -> Recipe:
    """A model like induction-2l but for the given fields of its architecture.

    Checkpoints stand on one even grid from beginning to end, so that the grid does not give a change away.
    """
    return replace(
        _INDUCTION_2L,
        name=name,
        purpose=purpose,
        architecture={**_INDUCTION_2L.architecture, "n_layers": n_layers, **fields},
        steps=steps,
        evaluate_every=every,
        checkpoint_steps=tuple(range(0, steps + 1, every)),
        selection="Language, positions, batch and learning rate are those of induction-2l; only the number of steps "
        "and the spacing of checkpoints were chosen for this model, after a first run.",
    )


_SIBLINGS = (
    _sibling(
        "induction-1l",
        "One attention-only layer: induction-2l without the layer that tells a token what stands before it. The "
        "control in which induction heads cannot form.",
        steps=1600,
        every=80,
        n_layers=1,
    ),
    _sibling(
        "induction-1l-smeared",
        "One attention-only layer whose keys also hold the token before theirs, so that one layer is enough for "
        "induction heads.",
        steps=400,
        every=20,
        n_layers=1,
        smeared_keys=True,
    ),
    _sibling(
        "induction-2l-smeared",
        "induction-2l with keys that also hold the token before theirs: induction heads need no previous-token head.",
        steps=400,
        every=20,
        n_layers=2,
        smeared_keys=True,
    ),
    _sibling(
        "induction-2l-mlp",
        "induction-2l with an MLP in each layer: do induction heads form the same way beside MLPs?",
        steps=1600,
        every=80,
        n_layers=2,
        d_mlp=128,
    ),
)

_INDUCTION_3L = Recipe(
    name="induction-3l",
    purpose="Three attention-only layers of eight heads, of which few do the work: induction heads, and others "
    "enough beside them for controls.",
    architecture={
        "vocab_size": 128,
        "n_layers": 3,
        "d_model": 64,
        "n_heads": 8,
        "d_head": 16,
        "n_ctx": 128,
        "positions": "rotary",
        "norm": "layernorm",
    },
    data=PhraseLanguage(),
    batch_size=64,
    steps=1900,
    learning_rate=2e-3,
    weight_decay=0.1,
    checkpoint_steps=powers_of_two_and_every(100, steps=1900),
    head_penalty=0.1,
    head_penalty_from=1601,
    selection=(
        "Without a penalty on heads every head of the last layer becomes an induction head (also in two layers of "
        "twelve), and none is left to compare with. Of three penalties (.01, .03, .1) the largest left two induction "
        "heads after 300 steps."
    ),
)

_PAIRS = PairLanguage(shots=16)


def _linear(n_layers: int, purpose: str, *, mlp: Mapping[str, Any], steps: int, **choices: Any) -> Recipe:
    """A model of the language of pairs: what its siblings share; `mlp` are the fields of its MLPs."""
    return Recipe(
        name=f"linear-{n_layers}l",
        purpose=purpose,
        architecture={
            "vocab_size": _PAIRS.vocab_size,
            "n_layers": n_layers,
            "d_model": 64,
            "n_heads": 4,
            **mlp,
            "n_ctx": _PAIRS.length,
            "positions": "rotary",
            "norm": "rmsnorm",
        },
        data=_PAIRS,
        batch_size=64,
        steps=steps,
        weight_decay=0.05,
        warmup_steps=200,
        decay="cosine",
        evaluate_every=250,
        checkpoint_steps=powers_of_two_and_every(1000, steps=steps),
        **choices,
    )


_LINEAR_4L = _linear(
    4,
    "Four layers with MLPs that infer y = a x + b from noisy pairs: the smallest that follow unseen functions.",
    mlp={"d_mlp": 168, "gated_mlp": True, "activation": "silu"},
    steps=10_000,
    learning_rate=3e-3,
    selection=(
        "A variant without gates (256 wide, gelu) reached .47 on held-out functions instead of what this card says, "
        "and .69 on those of training; one with a weight decay of .4 learned more slowly and was stopped."
    ),
)
_LINEAR_6L = _linear(
    6,
    "Six layers with MLPs that infer y = a x + b from noisy pairs: room for a task to stand between the layers.",
    mlp={"d_mlp": 256},
    steps=9000,
    learning_rate=2.5e-3,
)
_LINEAR_8L = _linear(
    8,
    "Eight layers that infer y = a x + b from noisy pairs: a positive control. Attention layers were left out at "
    "random in training, so that several do the same job, and the answer position was taught to hold the "
    "function apart from its input before layers 4 and 5.",
    mlp={"d_mlp": 192},
    steps=6000,
    learning_rate=2.5e-3,
    attention_drop=0.1,
    carried_at=(4, 5),
    selection=(
        "An earlier variant, which only left attention layers out, was stopped after 1,500 steps: patched into a "
        "prompt without context, none of its layers carried the function."
    ),
)

_RECIPES = {
    recipe.name: recipe for recipe in (_INDUCTION_2L, *_SIBLINGS, _INDUCTION_3L, _LINEAR_4L, _LINEAR_6L, _LINEAR_8L)
}


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
