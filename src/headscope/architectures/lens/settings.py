"""The choices behind a state dict: from a person, the config, the tensors, or not known and asked for.

In: a `LensFile` and what a person states. Out: a `Setting` for each choice, with where it comes from. In this
order: what is stated; what the config says; what the tensors show (norm weights, tables of angles); and where
there is a config that leaves something out, what TransformerLens then takes. What is still open changes
logits, so it is asked for, never guessed: LayerNorms without weights look like no norms, and positions added
to the residual stream like positions added to queries and keys.
"""

import math
from collections.abc import Callable, Mapping
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
    """Every choice that the model has, by the names of `Stated`; what does not apply is left out.

    Raises:
        BadArgument: naming everything that is still open, and how to say it.
        UnknownName, UnservedModel: for a choice that our architecture does not have.
    """
    settings: dict[str, Setting] = {}
    wanted: list[tuple[str, str]] = []

    def settle(name: str, known: Setting | None, what: str, how: str) -> Any:
        if known is None:
            wanted.append((what, how))
            return None
        settings[name] = known
        return known.value

    norm = settle("norm", _norm(file, stated), "what its norms are", "--norm LNPre, RMSPre or none")
    if norm != "none":
        settle(
            "eps",
            _eps(file, stated),
            "the epsilon of its norms",
            f"--eps (TransformerLens takes {_DEFAULT_EPS:g} by default)",
        )
    how = "standard or shortformer" if POSITION_TABLE in file.tensors else "rotary or none"
    positions = settle("positions", _positions(file, stated), "how tokens know their positions", f"--positions {how}")
    context = settle("context", _context(file, sizes, stated), "how long its context is", "--context")
    if positions == "rotary":
        base = settle("rotary_base", _base(file, stated), "the base of its angles", "--rotary-base")
        pairs = _pairs(file, sizes, stated, base, context)
        settle("rotary_pairs", pairs, "which dimensions turn together", f"--rotary-pairs {' or '.join(PAIRS)}")
    if sizes.d_mlp:
        known = _activation(file, stated)
        settle("activation", known, "the activation of its MLPs", f"--activation {', '.join(ACTIVATIONS)}")
    if stated.bos is not None:
        settings["bos"] = Setting(_in_range(stated.bos, "bos", 0, sizes.d_vocab - 1), OPTION)
    if wanted:
        raise _open_questions(file, wanted)
    return settings


def _norm(file: LensFile, stated: Stated) -> Setting | None:
    keys = ("normalization", "normalization_type")
    said = _said(file, keys, lambda key, value: "none" if value is None else value)
    known = _first((stated.norm, OPTION), (said, CONFIG), (norms_in(file), TENSORS))
    return _known(file, "norm", known, NORMS)


def _eps(file: LensFile, stated: Stated) -> Setting | None:
    said = _said(file, ("eps", "ln_eps"))
    known = _first((stated.eps, OPTION), (said, CONFIG), (_default(file, _DEFAULT_EPS), DEFAULT))
    return None if known is None else Setting(_in_range(known.value, "eps", 0.0, 1.0), known.known_from)


def _positions(file: LensFile, stated: Stated) -> Setting | None:
    def read(key: str, value: Any) -> Any:
        return ("shortformer" if value else "standard") if key == "shortformer_pos" else value

    said = _said(file, ("positional_embedding_type", "shortformer_pos"), read)
    shown = "rotary" if has_rotary_tables(file) else None
    known = _first(
        (stated.positions, OPTION), (said, CONFIG), (shown, TENSORS), (_default(file, "standard"), DEFAULT)
    )
    return _known(file, "positions", known, POSITIONS)


def _context(file: LensFile, sizes: Sizes, stated: Stated) -> Setting | None:
    told = _first((stated.context, OPTION), (_said(file, ("n_ctx",)), CONFIG))
    if told is not None:
        told = Setting(_in_range(told.value, "context", 1, 2**31), told.known_from)
    if sizes.n_ctx is None or told is None:
        return told if sizes.n_ctx is None else Setting(sizes.n_ctx, TENSORS)
    if told.value != sizes.n_ctx:
        raise BadArgument(
            f"cannot import {file.name!r}: its {told.known_from} says a context of {told.value} tokens, and its "
            f"tensors have {sizes.n_ctx}. Leave --context out, or give the config that belongs to it."
        )
    return Setting(sizes.n_ctx, TENSORS)


def _base(file: LensFile, stated: Stated) -> Setting | None:
    # Whatever is taken here is compared with the stored angles, where there are any.
    known = _first((stated.rotary_base, OPTION), (_said(file, ("rotary_base",)), CONFIG))
    if known is not None:
        return Setting(_in_range(known.value, "rotary_base", 1e-6, 1e12), known.known_from)
    if has_rotary_tables(file):
        return Setting(DEFAULT_BASE, TENSORS)
    return _first((_default(file, DEFAULT_BASE), DEFAULT))


def _pairs(file: LensFile, sizes: Sizes, stated: Stated, base: float | None, context: int | None) -> Setting | None:
    # No default here: releases of TransformerLens differ in it. Their stored angles show what was used.
    said = _said(file, ("rotary_adjacent_pairs",), lambda key, value: PAIRS[bool(value)])
    known = _known(file, "rotary_pairs", _first((stated.rotary_pairs, OPTION), (said, CONFIG)), PAIRS)
    if not has_rotary_tables(file) or base is None or context is None:
        return known
    shown = pairs_in(file, sizes, base=base, n_ctx=context)
    if known is not None and known.value not in shown:
        raise BadArgument(
            f"cannot import {file.name!r}: its {known.known_from} says that rotary pairs are {known.value}, and its "
            f"stored angles are those of {shown[0]} pairs."
        )
    return known or Setting(shown[0], TENSORS)


def _activation(file: LensFile, stated: Stated) -> Setting | None:
    known = _first((stated.activation, OPTION), (_said(file, ("act_fn",)), CONFIG))
    return _known(file, "activation", known, ACTIVATIONS)


def _said(file: LensFile, keys: tuple[str, ...], read: Callable[[str, Any], Any] = lambda key, value: value) -> Any:
    """What the config says under one of these names; None: nothing.

    Raises:
        BadArgument: if it says different things under two of them.
    """
    config: Mapping[str, Any] = {} if file.config is None else file.config
    given = {key: config[key] for key in keys if key in config}
    words = " and ".join(f"{key}={value!r}" for key, value in given.items())
    if not all(value is None or isinstance(value, str | int | float) for value in given.values()):
        raise BadArgument(f"cannot import {file.name!r}: its config says {words}. Mend it, or give another one.")
    values = {read(key, value) for key, value in given.items()} - {None}
    if len(values) > 1:
        raise BadArgument(
            f"cannot import {file.name!r}: its config says both {words}. Give another one with --config."
        )
    return next(iter(values), None)


def _default(file: LensFile, value: Any) -> Any:
    """What TransformerLens takes where a config is silent; without a config nothing is taken."""
    return None if file.config is None else value


def _first(*candidates: tuple[Any, str]) -> Setting | None:
    return next((Setting(value, source) for value, source in candidates if value is not None), None)


def _known(file: LensFile, what: str, known: Setting | None, ours: Any) -> Setting | None:
    if known is None or known.value in ours:
        return known
    if known.known_from == OPTION:
        raise UnknownName.among(f"choice for --{what.replace('_', '-')}", known.value, ours)
    raise UnservedModel(
        f"cannot import {file.name!r}: its config says {known.value!r} for {what}, and our architecture has "
        f"{', '.join(ours)}."
    )


def _in_range(value: Any, what: str, low: float, high: float) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high:
        raise BadArgument(f"cannot import with {what}={value!r}: give a number from {low} to {high}.")
    return value


def _open_questions(file: LensFile, wanted: list[tuple[str, str]]) -> BadArgument:
    has = "it has no config" if file.config is None else "its config does not say all"
    questions, options = (list(dict.fromkeys(words)) for words in zip(*wanted, strict=True))
    return BadArgument(
        f"cannot import {file.name!r}: {has}, and its tensors do not show {', nor '.join(questions)}. Give "
        f"--config FILE, or {'; '.join(options)}."
    )
