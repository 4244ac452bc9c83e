"""The choices behind a state dict: from a person, the config, the tensors, or not known and asked for.

In: a `LensFile` and what a person states. Out: a `Setting` for each choice, with where it comes from. In this
order: what is stated; what the config says; what the tensors show (norm weights, tables of angles); and where
there is a config that leaves something out, what TransformerLens then takes. What is still open changes
logits, so it is asked for, never guessed: LayerNorms without weights look like no norms, and positions added
to the residual stream like positions added to queries and keys.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from headscope.architectures.lens.file import LensFile
from headscope.architectures.lens.rotary import DEFAULT_BASE, PAIRS, pairs_in
from headscope.architectures.lens.shapes import POSITION_TABLE, Sizes, has_rotary_tables, norms_in
from headscope.errors import BadArgument, UnknownName, UnservedModel

# TransformerLens' names, and the toy's.
NORMS = {"LN": "layernorm", "LNPre": "layernorm_no_weights", "RMS": "rmsnorm", "RMSPre": "rmsnorm", "none": "none"}
POSITIONS = {"standard": "learned", "shortformer": "shortformer", "rotary": "rotary", "none": "none"}
ACTIVATIONS = ("relu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "silu", "solu", "solu_ln")
_CHOICES = {"norm": NORMS, "positions": POSITIONS, "activation": ACTIVATIONS, "rotary_pairs": PAIRS}
_RANGES = {"eps": (0.0, 1.0), "context": (1, 2**31), "rotary_base": (1e-6, 1e12)}
_DEFAULT_EPS = 1e-5

OPTION, CONFIG, TENSORS, DEFAULT = "option", "config", "tensors", "default of TransformerLens"


def _option(text: str) -> Any:
    return field(default=None, metadata={"help": text})


@dataclass(frozen=True)
class Stated:
    """What a person says of a model, over its config and tensors; None: nothing is said."""

    activation: str | None = _option(f"Activation of the MLPs: {', '.join(ACTIVATIONS)}.")
    norm: str | None = _option(f"Kind of norm: {', '.join(NORMS)}.")
    positions: str | None = _option(f"Kind of positions: {', '.join(POSITIONS)}.")
    eps: float | None = _option("Epsilon of the norms.")
    rotary_base: float | None = _option("Base of the angles of rotary positions.")
    rotary_pairs: str | None = _option(f"Which dimensions of a head turn together: {', '.join(PAIRS)}.")
    context: int | None = _option("Longest input in tokens.")
    bos: int | None = _option("Token id that begins every text, where no tokenizer says it.")


NOTHING = Stated()


@dataclass(frozen=True)
class Setting:
    """A choice and where it comes from."""

    value: Any
    known_from: str


def settings_of(file: LensFile, sizes: Sizes, stated: Stated) -> dict[str, Setting]:
    """Every choice that the model has, by the names of `Stated`; what does not apply is left out."""
    settings: dict[str, Setting] = {}
    wanted: list[tuple[str, str]] = []

    def settle(name: str, known: Setting | None, what: str, how: str) -> Any:
        if known is None:
            wanted.append((what, how))
            return None
        settings[name] = known
        return known.value

    def known(name: str, *keys: str, **others: Any) -> Setting | None:
        return _known(file, name, getattr(stated, name), keys, **others)

    def kind_of_positions(key: str, value: Any) -> Any:
        return ("shortformer" if value else "standard") if key == "shortformer_pos" else value

    keys = ("normalization", "normalization_type")
    norm = known("norm", *keys, read=lambda key, value: "none" if value is None else value, shown=norms_in(file))
    if settle("norm", norm, "what its norms are", "--norm LNPre, RMSPre or none") != "none":
        how = f"--eps (TransformerLens takes {_DEFAULT_EPS:g} by default)"
        settle("eps", known("eps", "eps", "ln_eps", default=_DEFAULT_EPS), "the epsilon of its norms", how)
    has_tables = has_rotary_tables(file)
    placed = known(
        "positions",
        "positional_embedding_type",
        "shortformer_pos",
        read=kind_of_positions,
        shown="rotary" if has_tables else None,
        default="standard",
    )
    how = "standard or shortformer" if POSITION_TABLE in file.tensors else "rotary or none"
    positions = settle("positions", placed, "how tokens know their positions", f"--positions {how}")
    length = _context(file, sizes, known("context", "n_ctx"))
    context = settle("context", length, "how long its context is", "--context")
    if positions == "rotary":
        # Whatever is taken here is compared with the stored angles, where there are any.
        shown = DEFAULT_BASE if has_tables else None
        base = known("rotary_base", "rotary_base", shown=shown, default=DEFAULT_BASE)
        base = settle("rotary_base", base, "the base of its angles", "--rotary-base")
        # No default here: releases of TransformerLens differ in it. Their stored angles show what was used.
        pairs = known("rotary_pairs", "rotary_adjacent_pairs", read=lambda key, value: PAIRS[bool(value)])
        if has_tables and base is not None and context is not None:
            pairs = _confirmed(file, pairs, pairs_in(file, sizes, base=base, n_ctx=context))
        settle("rotary_pairs", pairs, "which dimensions turn together", f"--rotary-pairs {' or '.join(PAIRS)}")
    if sizes.d_mlp:
        how = f"--activation {', '.join(ACTIVATIONS)}"
        settle("activation", known("activation", "act_fn"), "the activation of its MLPs", how)
    if stated.bos is not None:
        settings["bos"] = Setting(_in_range(stated.bos, "bos", 0, sizes.d_vocab - 1), OPTION)
    if wanted:
        raise _open_questions(file, wanted)
    return settings


def _known(
    file: LensFile,
    name: str,
    stated: Any,
    keys: tuple[str, ...],
    *,
    read: Callable[[str, Any], Any] = lambda key, value: value,
    shown: Any = None,
    default: Any = None,
) -> Setting | None:
    """The choice `name` as it is stated, as the config says it under `keys`, as tensors show it, or by default.

    `default` is what TransformerLens takes where a config is silent; without a config nothing is taken.
    """
    said = _said(file, keys, read)
    candidates = {OPTION: stated, CONFIG: said, TENSORS: shown, DEFAULT: default if file.config is not None else None}
    known = next((Setting(value, source) for source, value in candidates.items() if value is not None), None)
    if known is None or name in _RANGES:
        return known and Setting(_in_range(known.value, name, *_RANGES[name]), known.known_from)
    if known.value in _CHOICES[name]:
        return known
    if known.known_from == OPTION:
        raise UnknownName.among(f"choice for --{name.replace('_', '-')}", known.value, _CHOICES[name])
    has = f"our architecture has {', '.join(_CHOICES[name])}."
    raise UnservedModel.importing(file.name, f"its config says {known.value!r} for {name}, and {has}")


def _context(file: LensFile, sizes: Sizes, told: Setting | None) -> Setting | None:
    """The context that the tensors have, which must be the one that is told."""
    if sizes.n_ctx is None:
        return told
    if told is not None and told.value != sizes.n_ctx:
        why = (
            f"its {told.known_from} says a context of {told.value} tokens, and its tensors have {sizes.n_ctx}. Leave "
            "--context out, or give the config that belongs to it."
        )
        raise BadArgument.importing(file.name, why)
    return Setting(sizes.n_ctx, TENSORS)


def _confirmed(file: LensFile, told: Setting | None, shown: Sequence[str]) -> Setting:
    """The kind of pairs that is told, if the stored angles are of that kind; else the one that they are of."""
    if told is not None and told.value not in shown:
        why = f"its {told.known_from} says that rotary pairs are {told.value}, and its stored angles are those of"
        raise BadArgument.importing(file.name, f"{why} {shown[0]} pairs.")
    return told or Setting(shown[0], TENSORS)


def _said(file: LensFile, keys: tuple[str, ...], read: Callable[[str, Any], Any]) -> Any:
    """What the config says under these names, under two of them the same; None: nothing."""
    given = {key: file.told[key] for key in keys if key in file.told}
    words = " and ".join(f"{key}={value!r}" for key, value in given.items())
    if not all(value is None or isinstance(value, str | int | float) for value in given.values()):
        raise BadArgument.importing(file.name, f"its config says {words}. Mend it, or give another one.")
    values = {read(key, value) for key, value in given.items()} - {None}
    if len(values) > 1:
        raise BadArgument.importing(file.name, f"its config says both {words}. Give another one with --config.")
    return next(iter(values), None)


def _in_range(value: Any, what: str, low: float, high: float) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high:
        raise BadArgument(f"cannot import with {what}={value!r}: give a number from {low} to {high}.")
    return value


def _open_questions(file: LensFile, wanted: list[tuple[str, str]]) -> BadArgument:
    has = "it has no config" if file.config is None else "its config does not say all"
    questions, options = (list(dict.fromkeys(words)) for words in zip(*wanted, strict=True))
    why = f"{has}, and its tensors do not show {', nor '.join(questions)}."
    return BadArgument.importing(file.name, f"{why} Give --config FILE, or {'; '.join(options)}.")
