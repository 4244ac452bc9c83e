"""A recipe: everything that decides the weights of a trained model, as plain data.

Architecture, language, optimiser, schedule, seed, and the steps at which a checkpoint is kept. A recipe is
frozen, goes to JSON and back, and has a hash: the same hash and the same machine give the same weights. What
does not decide the weights (folders, progress, the sentence that says what the model is for) is not in the
hash. Nothing runs here; `loop` does.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from headscope.errors import BadArgument
from headscope.hashing import digest
from headscope.tasks.language import Language, language_of, name_of, with_tuples
from headscope.tasks.pairs import PairLanguage
from headscope.training.clamping import Clamp

Decay = Literal["constant", "linear", "cosine"]

# Fields that older recipes lack: left out of the JSON at these values, so that those keep their hash.
_ADDED_LATER: dict[str, Any] = {
    "attention_drop": 0.0,
    "carried_at": (),
    "head_penalty": 0.0,
    "head_penalty_from": 0,
    "clamped": (),
}


@dataclass(frozen=True)
class Recipe:
    """How a model is made.

    `architecture` holds fields of `ToyConfig`; `data` is the language that sequences are drawn from. Weight
    decay acts on matrices only. The learning rate rises linearly over `warmup_steps` and then follows
    `decay` (see `schedule.learning_rate`). Gradients are clipped to a global norm of `clip_norm`. Metrics are
    computed every `evaluate_every` steps and wherever a checkpoint is kept. `selection` says how the recipe was
    picked, for the reader of its figures. `attention_drop` is the share of examples for which an attention layer
    is left out of a training step (see `dropping`). `carried_at` names layers, one drawn for each step, before which
    the answer position is taught to carry the hidden function into prompts without context (see `carrying`). From
    step `head_penalty_from` on, every head costs `head_penalty` times the norm of its weights (see `sparing`).
    `clamped` holds attention fixed from given steps on, in training and in what is measured (see `clamping`).

    Raises:
        BadArgument: for sizes below 1, or architecture and language that do not fit together.
    """

    name: str
    purpose: str
    architecture: Mapping[str, Any]
    data: Language
    batch_size: int
    steps: int
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    warmup_steps: int = 50
    decay: Decay = "constant"
    clip_norm: float = 1.0
    seed: int = 0
    threads: int = 1
    evaluate_every: int = 50
    checkpoint_steps: tuple[int, ...] = field(default=())
    selection: str = ""
    attention_drop: float = 0.0
    carried_at: tuple[int, ...] = ()
    head_penalty: float = 0.0
    head_penalty_from: int = 0
    clamped: tuple[Clamp, ...] = ()

    def __post_init__(self) -> None:
        for name in ("batch_size", "steps", "threads", "evaluate_every"):
            if getattr(self, name) < 1:
                raise BadArgument(
                    f"cannot train {self.name!r} with {name}={getattr(self, name)}: expected 1 or more."
                )
        if not 0 <= self.attention_drop < 1:
            raise BadArgument(
                f"cannot train {self.name!r} with attention_drop={self.attention_drop}: expected a share, "
                "at least 0 and below 1."
            )
        if self.head_penalty < 0:
            raise BadArgument(
                f"cannot train {self.name!r} with head_penalty={self.head_penalty}: expected 0 (none) or more."
            )
        if self.carried_at and not isinstance(self.data, PairLanguage):
            raise BadArgument(
                f"cannot train {self.name!r} with carried_at={self.carried_at}: only the language of pairs has "
                "hidden functions to carry. Leave it out."
            )
        layers = self.architecture.get("n_layers", 0)
        if not all(0 < layer < layers for layer in self.carried_at):
            raise BadArgument(
                f"cannot train {self.name!r} with carried_at={self.carried_at}: expected layers 1 to {layers - 1}, "
                "since nothing has been read before the first."
            )
        for clamp in self.clamped:
            clamp.require(layers, self.architecture.get("n_heads", 0), self.name)
        for ours, theirs in (("vocab_size", "vocab_size"), ("n_ctx", "length")):
            built, spoken = self.architecture.get(ours), getattr(self.data, theirs)
            if built != spoken:
                raise BadArgument(
                    f"cannot train {self.name!r}: its architecture has {ours}={built} and its language "
                    f"{theirs}={spoken}. Give both the same number."
                )

    @property
    def milestones(self) -> frozenset[int]:
        """Steps at which metrics are computed and the state is saved; the last step is always one."""
        regular = range(0, self.steps + 1, self.evaluate_every)
        kept = (step for step in self.checkpoint_steps if step <= self.steps)
        return frozenset((*regular, *kept, self.steps))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, from which `from_json` makes an equal recipe."""
        plain = asdict(self)
        plain["data"] = {"generator": name_of(self.data), **plain["data"]}
        kept = {key: value for key, value in plain.items() if key not in _ADDED_LATER or _ADDED_LATER[key] != value}
        listed: dict[str, Any] = json.loads(json.dumps(kept))
        return listed

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """The recipe that `to_json` wrote.

        Raises:
            UnknownName: for a language that does not exist.
            BadArgument: for missing or unknown fields.
        """
        data = dict(given.get("data", {}))
        generator = data.pop("generator", None)
        try:
            language = language_of(generator, data)
            architecture = dict(given["architecture"])
            clamps = tuple(Clamp(**with_tuples(each)) for each in given.get("clamped", ()))
            fields = with_tuples(given) | {"data": language, "architecture": architecture, "clamped": clamps}
            return cls(**fields)
        except (TypeError, KeyError) as error:
            raise BadArgument(
                f"cannot read a recipe from JSON: {error}. Compare with one that to_json wrote."
            ) from error

    def digest(self) -> str:
        """The hash of everything that decides the weights: 16 hexadecimal digits of a SHA-256."""
        plain, words = self.to_json(), ("name", "purpose", "selection")
        return digest({key: value for key, value in plain.items() if key not in words})


def powers_of_two_and_every(every: int, *, steps: int) -> tuple[int, ...]:
    """Checkpoint steps: 0, the powers of two below `every`, then an even grid to the end.

    An even grid, since one that is dense only where a change is expected would show the change by itself.

    >>> powers_of_two_and_every(50, steps=120)
    (0, 1, 2, 4, 8, 16, 32, 50, 100, 120)
    """
    powers = (2**exponent for exponent in range(every.bit_length()) if 2**exponent < every)
    return tuple(sorted({0, *powers, *range(every, steps + 1, every), steps}))
