"""What the words of `headscope sweep` mean: interventions, axes, prompts and measures, as plain values.

In: the options as they were written. Out: batches of prompts with their cells, and a measure. What is taken from
elsewhere (a mean, a resample, a patch) comes from the counterpart of the prompts: `repeated` from prompts in which
nothing repeats, `pairs` from the clean prompt of each corrupted one, `natural` from random tokens, a file from the
file named with --reference.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headscope import measures
from headscope.cli.common import option
from headscope.detectors.detect import LARGEST_SEED
from headscope.errors import BadArgument, UnknownName
from headscope.interventions import Intervention, mean, patch, resample, to_bos, zero
from headscope.measures import Measure
from headscope.models.model import Model
from headscope.sweeps import grid
from headscope.sweeps.sweep import Sweep
from headscope.tasks import (
    Prompts,
    induction_pairs,
    natural,
    random_tokens,
    read_prompts,
    repeated_tokens,
    without_repeats,
)

Ablation = Callable[[str, Prompts, int], Intervention]

ABLATIONS: dict[str, Ablation] = {
    "zero": lambda at, other, seed: zero(at),
    "mean": lambda at, other, seed: mean(at, over=other),
    "resample": lambda at, other, seed: resample(at, over=other, seed=seed),
    "to_bos": lambda at, other, seed: to_bos(at),
    "to_bos_beyond_window": lambda at, other, seed: to_bos(at, beyond_window=True),
    "patch": lambda at, other, seed: patch(at, source=other),
}
_FROM_ELSEWHERE = ("mean", "resample", "patch")
# Kinds of prompts that are generated, and what is measured on them unless something else is asked for.
PROMPTS = {"repeated": "loss:predictable", "pairs": "logit_difference", "natural": "loss"}
_AXIS = "'all', or numbers and spans by commas: 0,2,5-7."
MEASURES = ("loss", "next_logit", "probability", "log_probability", "rank", "logit_difference")


@dataclass(frozen=True)
class SweepOptions:
    """What a sweep is asked for, as it was written; the command's options come from these fields.

    Refused here as far as that can be seen.
    """

    do: str = option("zero", f"What is done: {', '.join(ABLATIONS)}.")
    at: str = option("z", "Where: z (heads), or a site such as resid_pre, attn_out, mlp_out.")
    layers: str = option("all", f"Layers: {_AXIS}")
    heads: str | None = option(None, f"Heads: {_AXIS} Without it whole layers (for z: all heads).")
    positions: str | None = option(None, f"Positions, one cell each: {_AXIS} Without it all at once.")
    prompts: str = option("repeated", f"{', '.join(PROMPTS)}, or a .json file of examples.")
    reference: Path | None = option(None, "With a file: the .json file that mean, resample or patch take from.")  # noqa: RUF009
    measure: str = option("", "Measure, perhaps with a role: loss:predictable.")
    n: int = option(50, "Prompts, or prompts of one batch with --precision.")
    length: int = option(12, "Tokens of a generated segment or window.")
    seed: int = option(0, "Seed of everything random.")

    def __post_init__(self) -> None:
        if self.do not in ABLATIONS:
            raise UnknownName.among("intervention", self.do, ABLATIONS)
        if self.n < 1:
            raise BadArgument(f"cannot sweep over {self.n} prompts: ask for at least 1, better 50.")
        if not self.given and self.prompts not in PROMPTS:
            raise UnknownName.among("kind of prompts", self.prompts, [*PROMPTS, "FILE.json"])
        if self.given and self.do in _FROM_ELSEWHERE and self.reference is None:
            raise BadArgument(
                f"cannot {self.do} on prompts from a file: from where? Name a .json file with --reference."
            )
        if not 0 <= self.seed <= LARGEST_SEED:
            raise BadArgument(f"cannot sweep with seed {self.seed}: it lies between 0 and {LARGEST_SEED}.")
        measure_of(self)
        axes(self)

    @property
    def given(self) -> bool:
        """Whether the prompts are those of a file."""
        return self.prompts.endswith(".json")


def check_approximate(approximate: bool, verify_top: int, exact_only: Mapping[str, object]) -> None:
    """Refuse options that do not go together.

    Raises:
        BadArgument: if --verify-top comes alone, or an option of exact sweeps with --approximate.
    """
    if verify_top and not approximate:
        raise BadArgument("cannot use --verify-top without --approximate: all cells are run anyway.")
    for name, given in exact_only.items():
        if approximate and given:
            raise BadArgument(
                f"cannot use {name} with --approximate: it is for exact values. Leave one of them away."
            )


def measure_of(options: SweepOptions) -> Measure:
    """The measure that was named, or the usual one for these prompts."""
    written = options.measure or PROMPTS.get(options.prompts, "loss")
    name, _, role = written.partition(":")
    if name not in MEASURES:
        raise UnknownName.among("measure", name, MEASURES)
    make: Callable[..., Measure] = getattr(measures, name)
    return make(role) if role else make()


def axis(written: str | None, option: str) -> Sequence[int] | str | None:
    """Numbers from "0,2,5-7"; "all" and None stay.

    >>> axis("0,2,5-7", "--layers")
    [0, 2, 5, 6, 7]
    """
    if written is None or written == "all":
        return written
    indices: list[int] = []
    for part in written.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise BadArgument(f"cannot read {option} {written!r}: write 'all', or numbers and spans as in 0,2,5-7.")
        indices += range(int(match[1]), int(match[2] or match[1]) + 1)
    return indices


def axes(options: SweepOptions) -> dict[str, Any]:
    """The axes of the grid by name, as `grid` takes them."""
    return {name: axis(getattr(options, name), f"--{name}") for name in ("layers", "heads", "positions")}


def batches(model: Model, options: SweepOptions) -> Callable[[int], Sweep]:
    """The batch of any number: prompts of a seed of its own, and the cells of the grid on them."""
    measure = measure_of(options)

    def batch(number: int) -> Sweep:
        shown, other = _prompts(model, options, options.seed + 1000 * number)
        if options.given and number:
            raise BadArgument("cannot add prompts to those of a file: leave --precision away, or use generated ones.")
        template = ABLATIONS[options.do](options.at, other, options.seed)
        prompts = model.prompts(shown)
        cells = grid(template, **axes(options)).cells(model.n_layers, model.heads, min(prompts.lengths))
        return Sweep(model, prompts, cells, measure)

    return batch


def _prompts(model: Model, options: SweepOptions, seed: int) -> tuple[Prompts, Prompts]:
    """Prompts and their counterpart."""
    if options.given:
        shown = read_prompts(model, Path(options.prompts))
        return shown, shown if options.reference is None else read_prompts(model, options.reference)
    if options.prompts == "pairs":
        clean, corrupted = induction_pairs(model, length=options.length, n=options.n, seed=seed)
        return corrupted, clean
    if options.prompts == "natural":
        spoken = natural(model, length=options.length, n=options.n, seed=seed)
        return spoken, random_tokens(model, length=spoken.longest, n=options.n, seed=seed + 1)
    repeated = repeated_tokens(model, length=options.length, repeats=3, n=options.n, seed=seed)
    return repeated, without_repeats(model, repeated, seed=seed + 1)
