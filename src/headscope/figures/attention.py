"""The attention view's data: patterns of every head, small enough to travel inside a page.

In: an AttentionExample. Out: plain JSON data that `attention.js` (an ES module beside this file) turns into the view.
Of each causal pattern only the lower triangle is kept, as uint8 of sqrt(p), deflated and written as base64: 8 bits of
sqrt(p) keep weak attention, which 8 bits of p would round to zero, and no value is off by more than `MAX_ERROR`,
which the view says. Scores and tables are computed from the float32 patterns, never from these.

Not done here: choosing what to show. Where everything would be too large, heads that carry a label come
first, then the others in order, and the view says how many it lacks.
"""

import base64
import itertools
import json
import zlib
from collections.abc import Container
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from headscope.errors import BadArgument, OutOfRange
from headscope.figures.theme import CIVIDIS
from headscope.figures.tokens import LEGEND, legible, visible
from headscope.results.study import AttentionExample
from headscope.vocabulary import Head

# Half a step of 1/255 at the upper end, where squaring stretches it most: 1/255 = .0039.
MAX_ERROR = 0.004

# Characters of base64 in one page; beyond it a page opens slowly and no longer fits a mail.
MAX_ENCODED = 6_000_000

# In the order in which they depend on each other.
_MODULES = ("attention_data.js", "attention_atlas.js", "attention_matrix.js", "attention.js")

# How far a float32 softmax strays: more is not a rounding error but another quantity.
_TOLERANCE = 1e-4


def encode(patterns: npt.ArrayLike) -> str:
    """Patterns [..., query, key] as text: lower triangles, uint8 of sqrt(p), deflate, base64.

    Raises:
        BadArgument: if the last two axes differ, a value is no probability, or a query attends to a
            later key, which the lower triangle cannot hold.
    """
    values = np.asarray(patterns, dtype=np.float32)
    if values.ndim < 2 or values.shape[-1] != values.shape[-2] or values.shape[-1] == 0:
        raise BadArgument(
            f"cannot encode patterns of shape {list(values.shape)}: expected [..., query, key] "
            "with as many keys as queries, at least one."
        )
    if not (np.all(values >= -_TOLERANCE) and np.all(values <= 1 + _TOLERANCE)):
        raise BadArgument(
            "cannot encode patterns with values outside 0 to 1 (or not a number): "
            "pass attention probabilities, after the softmax."
        )
    if np.any(np.triu(values, k=1) > _TOLERANCE):
        raise BadArgument(
            "cannot encode patterns in which a query attends to a later key: the view shows causal "
            "attention, whose upper triangle is 0."
        )
    rows, columns = np.tril_indices(values.shape[-1])
    roots = np.sqrt(np.clip(values[..., rows, columns], 0.0, 1.0))
    raw = np.rint(roots * 255).astype(np.uint8).tobytes()
    return base64.b64encode(zlib.compress(raw, level=9)).decode("ascii")


def payload(example: AttentionExample, *, limit: int = MAX_ENCODED) -> dict[str, Any]:
    """What `attention.js` mounts: plain JSON data with at most about `limit` characters of patterns.

    `heads` lists [layer, index] of the embedded heads in the order of their triangles in `data`.

    Raises:
        BadArgument: if patterns and tokens disagree in length, or a pattern cannot be encoded.
        OutOfRange: if a label names a head that the patterns do not have.
    """
    shape = example.patterns.shape
    if len(shape) != 4 or shape[2] != len(example.tokens):
        raise BadArgument(
            f"cannot show the patterns of {example.name!r}: shape {list(shape)} for "
            f"{len(example.tokens)} tokens; expected [layer, head, query, key] with one query per token."
        )
    layers, heads, queries = shape[:3]
    labelled = {Head.parse(name): legible(label) for name, label in example.labels.items()}
    for head in labelled:
        if head.layer >= layers:
            raise OutOfRange.index(f"label head {head}", "layer", head.layer, layers, example.name)
        if head.index >= heads:
            raise OutOfRange.index(f"label head {head}", "head", head.index, heads, "each layer")
    chosen = _chosen(example, labelled, limit)
    picked = np.stack([example.patterns[head.layer, head.index] for head in chosen])
    return {
        "name": example.name,
        "title": example.title,
        "tokens": [visible(token) for token in example.tokens],
        "tokenLegend": LEGEND,
        "shape": [layers, heads, queries],
        "heads": [[head.layer, head.index] for head in chosen],
        "labels": {str(head): label for head, label in labelled.items()},
        "ramp": list(CIVIDIS),
        "maxError": MAX_ERROR,
        "data": encode(picked),
    }


def script_json(value: Any) -> str:
    """JSON that can stand inside a `<script>` element, whatever text it holds.

    A token may be `</script>` or `<!--`; U+2028 and U+2029 end a line in older JavaScript.

    >>> script_json({"token": "</script>"})
    '{"token":"\\\\u003c/script\\\\u003e"}'
    """
    # ensure_ascii writes U+2028, U+2029 and lone surrogates as escapes.
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def script() -> str:
    """The view as one ES module, for a page or a notebook that cannot import from beside it.

    The files import from each other by name; put together in order they need no imports.
    """
    sources = [files(__package__).joinpath(name).read_text(encoding="utf-8") for name in _MODULES]
    kept = [line for source in sources for line in source.splitlines() if not line.startswith("import ")]
    return "\n".join(kept) + "\n"


def stylesheet() -> str:
    """The view's CSS; it takes its colours from the page's `--ink`, `--muted`, `--line` and `--accent`."""
    return files(__package__).joinpath("attention.css").read_text(encoding="utf-8")


def _chosen(example: AttentionExample, labelled: Container[Head], limit: int) -> list[Head]:
    """The heads to embed, in order of layer and index: all, or labelled ones first up to `limit`."""
    layers, heads = example.patterns.shape[:2]
    every = itertools.starmap(Head, itertools.product(range(layers), range(heads)))
    kept: list[Head] = []
    size = 0
    for head in sorted(every, key=lambda head: (head not in labelled, head)):
        size += len(encode(example.patterns[head.layer, head.index]))
        # One head is shown even where it alone is too large: a view without any says nothing.
        if kept and size > limit:
            break
        kept.append(head)
    return sorted(kept)
