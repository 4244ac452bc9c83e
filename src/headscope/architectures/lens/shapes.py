"""What the tensors alone decide: sizes, layers, which biases exist; and whether each tensor fits.

In: a `LensFile`. Out: its `Sizes`. A tensor that is missing, has another shape, or has no place in our
architecture is refused by name.

Conventions of TransformerLens: row vectors times matrices, so that W_E is [vocab, model], W_Q, W_K and W_V
are [head, model, head_dim], W_O [head, head_dim, model], W_in [model, mlp], W_out [mlp, model], W_U [model,
vocab]; b_Q, b_K, b_V [head, head_dim]. Causal masks and rotary tables come along as buffers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from headscope.architectures.lens.file import EMBEDDING, LensFile
from headscope.errors import BrokenWeights, UnservedModel

Shape = tuple[int, ...]

POSITION_TABLE = "pos_embed.W_pos"
ROTARY_TABLES = ("rotary_sin", "rotary_cos")
UNEMBED_BIAS = "unembed.b_U"

# Names that other architectures have, and what they mean.
_FOREIGN = (
    (r"\._[Wb]_[KV]$", "keys and values shared by several heads"),
    (r"mlp\.W_gate|mlp\.b_gate", "a gated MLP"),
    (r"mlp\.experts|mlp\.W_router", "a mixture of experts"),
    (r"attn\.[qk]_(norm|ln)", "norms of queries and keys"),
    (r"ln[12]_post", "norms after attention and MLP"),
    (r"^embed\.ln|^ln_embed", "a norm after the embedding"),
    (r"(^|\.)norm\d?\.", "the naming of the oldest SoLU models, which also store matrices the other way around"),
)


@dataclass(frozen=True)
class Sizes:
    """Sizes by TransformerLens' names; `d_mlp` 0: attention only; `n_ctx` None: no tensor says it."""

    n_layers: int
    d_model: int
    n_heads: int
    d_head: int
    d_vocab: int
    d_mlp: int
    n_ctx: int | None
    attention_bias: bool
    mlp_bias: bool
    unembed_bias: bool


def sizes_of(file: LensFile) -> Sizes:
    """The sizes that the shapes of a few tensors give."""
    d_vocab, d_model = file.shape(EMBEDDING, 2)
    n_layers = _layers(file)
    n_heads, width, d_head = file.shape("blocks.0.attn.W_Q", 3)
    if width != d_model and d_head == d_vocab:
        why = (
            "its matrices are stored the other way around, as [out, in], which only the oldest files do. Swap the "
            "last two axes of every W_ tensor and save it again."
        )
        raise UnservedModel.importing(file.name, why)
    has_mlp = any(".mlp." in name for name in file.tensors)
    return Sizes(
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        d_head=d_head,
        d_vocab=d_vocab,
        d_mlp=file.shape("blocks.0.mlp.W_in", 2)[1] if has_mlp else 0,
        n_ctx=_context(file),
        attention_bias=_any_ends(file, ".attn.b_Q", ".attn.b_K", ".attn.b_V", ".attn.b_O"),
        mlp_bias=_any_ends(file, ".mlp.b_in", ".mlp.b_out"),
        unembed_bias=UNEMBED_BIAS in file.tensors,
    )


def norms_in(file: LensFile) -> str | None:
    """The kind of norm whose weights the file holds: "LN", "RMS", or None where norms have no weights."""
    if "blocks.0.ln1.w" not in file.tensors:
        return None
    return "LN" if "blocks.0.ln1.b" in file.tensors else "RMS"


def has_rotary_tables(file: LensFile) -> bool:
    """Whether the angles of rotary positions are stored in the file."""
    return _any_ends(file, *(f".attn.{table}" for table in ROTARY_TABLES))


def check_tensors(file: LensFile, expected: Mapping[str, Shape], *, rotary: bool, taken: str) -> None:
    """Every expected tensor is there with its shape, and no other one is but buffers.

    `rotary`: whether tables of angles are among them. `taken` is what the model is taken for, in words.
    """
    for name in sorted(set(file.tensors) - set(expected)):
        buffer = re.fullmatch(r"blocks\.\d+\.attn\.(mask|IGNORE|rotary_sin|rotary_cos)", name)
        if buffer is None or (buffer[1] in ROTARY_TABLES and not rotary):
            means = next((f" ({word})" for pattern, word in _FOREIGN if re.search(pattern, name)), "")
            why = f"its tensor {name!r} has no place{means} in a model taken for {taken}."
            raise UnservedModel.importing(file.name, why)
    missing = sorted(set(expected) - set(file.tensors))
    if missing:
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        why = f"it has no tensor {missing[0]!r}{others}, which a model taken for {taken} needs."
        raise BrokenWeights.importing(file.name, why)
    for name, shape in expected.items():
        file.require_shape(name, shape)


def check_masks(file: LensFile, n_ctx: int) -> None:
    """Stored masks hide the future and nothing else."""
    for name, mask in file.tensors.items():
        if not name.endswith(".attn.mask"):
            continue
        file.require_shape(name, (n_ctx, n_ctx))
        if not torch.equal(mask.bool(), torch.ones(n_ctx, n_ctx, dtype=torch.bool).tril()):
            why = (
                f"{name!r} is no plain causal mask, so a query sees fewer keys than all before it (local attention) "
                "or more, and our architecture has neither."
            )
            raise UnservedModel.importing(file.name, why)


def _layers(file: LensFile) -> int:
    numbers = {int(match[1]) for name in file.tensors if (match := re.match(r"blocks\.(\d+)\.", name))}
    for layer in range(max(numbers, default=0) + 1):
        if layer not in numbers:
            raise BrokenWeights.importing(file.name, f"it has no tensors of block {layer}.")
    return len(numbers)


def _context(file: LensFile) -> int | None:
    telling = (POSITION_TABLE, *(f"blocks.0.attn.{name}" for name in ("mask", *ROTARY_TABLES)))
    return next((file.shape(name, 2)[0] for name in telling if name in file.tensors), None)


def _any_ends(file: LensFile, *endings: str) -> bool:
    return any(name.endswith(endings) for name in file.tensors)
