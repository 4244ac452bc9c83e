"""What an opened model *does*: run it, capture any site, edit any site, generate, hand its attention to readings.

In: a causal language model of transformers and its anatomy. Out: runs in the shapes of `vocabulary.SITES`.
The model itself is never converted or rewritten; without interventions and captures, `run` is its plain
forward pass. What this model does not have is refused by name (models.opened).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from headscope.errors import BadArgument, PromptError
from headscope.models.execution import edited, gradients
from headscope.models.generation import Generation, check_options, decode
from headscope.models.layout import Layout
from headscope.models.opened import OpenedModel
from headscope.models.protocols import CallEdit, Edit, Reading, SiteEdit
from headscope.models.recomputed import RecomputedEdits
from headscope.models.run import Run, blank_padding
from headscope.models.tap import holding
from headscope.models.unembedding import read_only_at, worth_it
from headscope.models.weights import HeadWeights, head_weights
from headscope.tasks.prompts import Prompts, PromptsLike
from headscope.vocabulary import Positions, site_named

Capture = str | tuple[str, int] | tuple[str, Sequence[int]]
Edits = Edit | Sequence[Edit]

# Interventions of enclosing `editing` blocks of this thread, by model.
_editing: ContextVar[tuple[tuple["Model", tuple[Edit, ...]], ...]] = ContextVar("headscope_editing", default=())
# Which examples of a larger whole are being run, for edits of enclosing blocks that hold one value per example.
_rows: ContextVar[slice | None] = ContextVar("headscope_rows", default=None)


class Model(OpenedModel):
    """A causal language model whose heads can be read, ablated and patched; made by `headscope.load`."""

    def run(
        self,
        prompts: PromptsLike,
        *,
        attention_mask: Any = None,
        interventions: Edits = (),
        capture: Capture | Sequence[Capture] = (),
        grad: bool = False,
    ) -> Run:
        """One forward pass over all prompts; what `attention_mask` [batch, position] marks with 0 is left out.

        `capture` names sites ("pattern"), or sites in layers (("z", 3), ("z", [3, 4])); nothing else is
        kept. With `grad` the logits and captures carry gradients; a captured `pattern` then takes the kernel's
        place, which moves logits by rounding.

        >>> run = model.run([[0, 5, 6]], capture=["z"])     # doctest: +SKIP
        """
        checked = self.prompts(prompts, attention_mask)
        if checked.ragged:
            self.require_service("prompts of unequal length")
        edits, given = self.prepare(checked, interventions)
        wanted = list(self._wanted(capture))
        ids = checked.ids.to(self.device)
        with gradients(grad):
            if not edits and not wanted:
                logits, captured = self.hf(ids, use_cache=False).logits, {}
            else:
                layout = Layout.of(checked, self.device)
                with edited(self.hf, self.anatomy, layout, edits=edits, wanted=wanted) as captured:
                    logits = self.hf(ids, use_cache=False).logits
            if checked.ragged:
                logits = blank_padding("logits", logits, checked.real)
                captured = {key: blank_padding(key[0], value, checked.real) for key, value in captured.items()}
        return Run(self, checked, given, logits, captured)

    def logits_at(self, prompts: Prompts, where: Tensor, *, interventions: Edits = ()) -> Tensor:
        """Logits [batch, position, vocab] of one pass at the positions `where` [batch, position]; others are any."""
        if not worth_it(where):
            return self.run(prompts, interventions=interventions).logits
        with read_only_at(self.anatomy.unembedding, where.to(self.device)):
            return self.run(prompts, interventions=interventions).logits

    def generate(
        self,
        prompts: PromptsLike,
        *,
        attention_mask: Any = None,
        max_new_tokens: int = 20,
        interventions: Edits = (),
        seed: int = 0,
        **options: Any,
    ) -> Generation:
        """Generate under interventions, cached, greedily unless `do_sample=True`.

        Interventions at all positions hold for generated tokens too; negative positions count from the
        end of the prompt, positive ones may lie beyond it.

        Raises:
            BadArgument: for options under which positions lose their meaning (beams, assistants).
        """
        check_options(options)
        checked = self.to_continue(self.prompts(prompts, attention_mask), max_new_tokens)
        edits, given = self.prepare(checked, interventions, growing=True)
        if edits:
            self.require_service("generation")
        recomputed = any(edit.footprint().recompute_each_token for edit in given)
        follower = RecomputedEdits(self, checked, given, edits) if recomputed else None
        layout = Layout.of(checked, self.device, growing=True)
        with edited(
            self.hf,
            self.anatomy,
            layout,
            edits=follower.edits if follower else edits,
            before=follower.before if follower else None,
        ):
            return decode(self.hf, self.tokenizer, checked, max_new_tokens=max_new_tokens, seed=seed, options=options)

    def to_continue(self, prompts: PromptsLike, max_new_tokens: int) -> Prompts:
        """Prompts that so many tokens can be generated after.

        Raises:
            BadArgument: for less than one token.
            PromptError: if the context is too short for so many.
            UnservedModel: if the prompts differ in length and the model does not serve that.
        """
        if max_new_tokens < 1:
            raise BadArgument(f"cannot generate {max_new_tokens} tokens: ask for at least 1.")
        checked = self.prompts(prompts)
        if self.context is not None and checked.longest + max_new_tokens > self.context:
            raise PromptError(
                f"cannot generate {max_new_tokens} tokens after {checked.longest} with {self.name}: its context "
                f"holds {self.context}. Ask for at most {self.context - checked.longest}, or use shorter prompts."
            )
        if checked.ragged:
            self.require_service("generation in batches of unequal length")
        return checked

    def read(self, prompts: PromptsLike, readings: Sequence[Reading], *, interventions: Edits = ()) -> None:
        """Let readings see every attention call on these prompts, in batches; the unembedding is not computed."""
        checked = self.prompts(prompts)
        widest = max(layer.heads for layer in self.anatomy.layers)
        patterns = 16 * widest * checked.longest**2  # of one layer, with their float32 softmax
        body: nn.Module = self.hf.base_model  # type: ignore[assignment]
        given = _listed(interventions)
        for rows in self.batches(len(checked), bytes_each=patterns):

            def reader(call: Any, rows: slice = rows) -> None:
                for reading in readings:
                    reading.read(call, rows)

            some = checked.rows(rows)
            with self.batch_rows(rows):
                edits, _ = self.prepare(some, [edit.rows(rows) for edit in given])
            layout = Layout.of(some, self.device)
            with torch.no_grad(), edited(body, self.anatomy, layout, edits=edits, reader=reader):
                body(some.ids.to(self.device), use_cache=False)

    def activations(
        self, prompts: PromptsLike, sites: Sequence[tuple[str, int]], *, interventions: Edits = ()
    ) -> Mapping[tuple[str, int], Tensor]:
        """Sites (site, layer) of a run without its logits; what is kept is on the model's device.

        In the shapes of `Run`; padded cells hold whatever the model computes there.
        """
        checked = self.prompts(prompts)
        if checked.ragged:
            self.require_service("prompts of unequal length")
        edits, _ = self.prepare(checked, interventions)
        body: nn.Module = self.hf.base_model  # type: ignore[assignment]
        layout = Layout.of(checked, self.device)
        with torch.no_grad(), edited(body, self.anatomy, layout, edits=edits, wanted=sites) as captured:
            body(checked.ids.to(self.device), use_cache=False)
        return captured

    def key_heads(self, layer: int) -> int:
        """How many key/value heads a layer has; query head h reads key/value head h // (heads / key_heads)."""
        return int(
            self.cached(
                f"key_heads {layer}", lambda: self.activations(Prompts.of([0]), [("v", layer)])["v", layer].shape[2]
            )
        )

    def batch_rows(self, rows: slice) -> AbstractContextManager[None]:
        """What runs in the block is these rows of a larger whole (of the block around, if any); see `editing`."""
        start = 0 if (around := _rows.get()) is None else around.start
        return holding(_rows, slice(start + rows.start, start + rows.stop))

    @contextmanager
    def unedited(self) -> Iterator[None]:
        """What runs in the block is not edited by enclosing `editing` blocks."""
        with holding(_editing, ()), holding(_rows, None):
            yield

    @property
    def active_edits(self) -> tuple[Edit, ...]:
        """The interventions of the `editing` blocks around, the outermost first."""
        return tuple(edit for model, edits in _editing.get() if model is self for edit in edits)

    def prepare(
        self, prompts: Prompts, interventions: Edits, *, growing: bool = False
    ) -> tuple[list[SiteEdit | CallEdit], tuple[Edit, ...]]:
        """The edits of single sites for these prompts, and the interventions that they are made from.

        Those of enclosing `editing` blocks come first. `growing` is for generation.
        """
        rows = _rows.get()
        outer = self.active_edits
        given = (*(outer if rows is None else (edit.rows(rows) for edit in outer)), *_listed(interventions))
        for edit in given:
            positions = edit.footprint().positions
            if growing and positions.indices:  # positions beyond the prompt will exist
                positions = Positions(tuple(index for index in positions.indices if index < 0))
            prompts.check(positions)
        changes = self.changes_of(given, prompts)
        if growing and any(isinstance(change, SiteEdit) and change.site == "pattern" for change in changes):
            self.require_service("editing patterns in generation")
        return changes, given

    @contextmanager
    def editing(self, interventions: Edits) -> Iterator["Model"]:
        """Apply these interventions to every run, generation and reading of this model in the block.

        Blocks nest: the outermost interventions are applied first, those of a call last.
        """
        with holding(_editing, (*_editing.get(), (self, _listed(interventions)))):
            yield self

    def head_weights(self, layer: int, *, fold_norm: bool = True) -> HeadWeights:
        """W_Q, W_K, W_V and W_O of every head of a layer; see `models.weights`."""
        self.follow_changes()
        self.layer(layer, "read weights")
        return head_weights(self, layer, fold_norm=fold_norm)

    def changes_of(self, given: Sequence[Edit], prompts: Prompts) -> list[SiteEdit | CallEdit]:
        """What these interventions change on these prompts, in the order given.

        Runs that an intervention needs of its own are not edited by the blocks around this one.
        """
        with self.unedited():
            return [change for edit in given for change in edit.prepare(self, prompts)]

    def _wanted(self, capture: Capture | Sequence[Capture]) -> Iterator[tuple[str, int]]:
        for name, layers in _captures(capture):
            site = site_named(name)
            if name == "logits":
                continue
            every = range(self.n_layers) if site.per_layer else (0,)
            chosen = [index for index in every if self.has(name, index)] if layers is None else layers
            if not chosen:
                self.require_site(name, 0)  # says why no layer has it
            for layer in chosen:
                self.require_site(name, layer)
                yield ("z" if name == "head_out" else name), layer


def _listed(interventions: Edits) -> tuple[Edit, ...]:
    listed = tuple(interventions) if isinstance(interventions, Iterable) else (interventions,)
    for edit in listed:
        if not hasattr(edit, "prepare"):
            raise BadArgument(f"cannot apply {edit!r} as an intervention: build one, for example hs.zero('0.1').")
    return listed


def _names_layers(given: Any) -> bool:
    """Whether this is a layer, or layers, rather than another site."""
    return not isinstance(given, str) and not (isinstance(given, tuple) and any(isinstance(i, str) for i in given))


def _captures(capture: Capture | Sequence[Capture]) -> Iterator[tuple[str, Sequence[int] | None]]:
    """Each asked site with its layers; None for all layers."""
    if not isinstance(capture, str | Sequence):
        raise BadArgument(f"cannot capture {capture!r}: name sites, for example capture=['pattern'].")
    items: Sequence[Any] = [capture] if isinstance(capture, str) else list(capture)
    if len(items) == 2 and isinstance(items[0], str) and _names_layers(items[1]):
        items = [tuple(items)]  # one site and its layer or layers
    for item in items:
        match item:
            case str(name):
                yield name, None
            case (str(name), int(layer)):
                yield name, (layer,)
            case (str(name), [*layers]) if all(isinstance(layer, int) for layer in layers):
                yield name, tuple(layers)
            case _:
                raise BadArgument(
                    f"cannot capture {item!r}: name a site ('pattern'), a site in a layer (('z', 3)), or several."
                )
