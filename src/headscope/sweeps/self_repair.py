"""Self-repair: direct effects of all components before and after a head is ablated.

In: a model, prompts with a role whose next tokens are known, and ablations. Out: per prompt, the direct effect of
every head and MLP on the right token's logit in the clean and in each ablated run, and the change of that logit.
All norms keep the scale that they had in the *clean* run, so that an effect changes only where a component
writes something else; what rescaling does to the logit is the rest. *Self-repair* is the total change minus
the change that the loss of the head's direct effect alone would make, split into heads, MLPs and that rest
(McGrath et al. 2023; Rushing & Nanda 2024). A component that merely writes the same is not a backup: a
backup writes *more* once the head is ablated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from headscope.measures.direct_effect import effect_of_heads_logits, logit_direction
from headscope.models.direct_paths import DirectPaths, sites
from headscope.models.kept import kept
from headscope.models.model import Model
from headscope.models.protocols import Edit
from headscope.models.run import Run
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Head, Positions, PositionsLike, Progress, silent


@dataclass(frozen=True)
class Component:
    """A head, or the MLP of a layer (`head` None)."""

    layer: int
    head: int | None

    def __str__(self) -> str:
        return f"MLP {self.layer}" if self.head is None else f"{self.layer}.{self.head}"


@dataclass(frozen=True)
class Effects:
    """Direct effects in logits, means over the judged positions of each prompt.

    `direct` [prompt, component] in the order of `components`; `logit` [prompt], mean over the vocabulary
    subtracted.
    """

    components: tuple[Component, ...]
    direct: Tensor
    logit: Tensor

    def of(self, head: Head) -> Tensor:
        """Direct effect of one head, [prompt]."""
        return self.direct[:, self.components.index(Component(head.layer, head.index))]


@dataclass(frozen=True)
class AblatedEffects:
    """Effects in the clean run and, in their order, under each of the ablations."""

    clean: Effects
    ablated: tuple[Effects, ...]


def direct_effects(
    model: Model,
    prompts: Prompts,
    where: PositionsLike,
    *,
    ablations: Sequence[Edit] = (),
    progress: Progress = silent,
) -> AblatedEffects:
    """Direct effects of every head and MLP on the logit of the token that really follows.

    `where` are the predicting positions (a role, usually); each of `ablations` is in force by itself.

    Raises:
        UnservedModel: if something stands between residual stream and unembedding that is no norm.
    """
    model.require_direct_effects()
    widest = max(model.d_model, *(layer.heads * layer.head_dim for layer in model.anatomy.layers))
    # Logits, and of each layer z and what the MLP adds, both once more for the effects.
    of_token = 8 * model.vocab_size + 4 * model.n_layers * widest * model.dtype.itemsize
    batches = list(model.batches(len(prompts), bytes_each=2 * of_token * prompts.longest))
    parts: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(1 + len(ablations))]
    for done, chosen in enumerate(batches):
        some, edits = prompts.rows(chosen), [edit.rows(chosen) for edit in ablations]
        stage = _counted(progress, done * len(ablations), len(batches) * len(ablations))
        make = partial(_of_batch, model, some, where, edits, stage)
        read = kept("direct effects", model, (some, Positions.of(where), edits), make)
        for part, direct, own in zip(parts, read[::2], read[1::2], strict=True):
            part.append((direct, own))
    components = _components(model)
    clean, *ablated = (
        Effects(components, torch.cat([direct for direct, _ in part]), torch.cat([own for _, own in part]))
        for part in parts
    )
    return AblatedEffects(clean, tuple(ablated))


def _of_batch(
    model: Model, some: Prompts, where: PositionsLike, edits: Sequence[Edit], progress: Progress
) -> list[Tensor]:
    """Effects [prompt, component] and logit [prompt] in the clean run, then under each of the ablations."""
    run = _captured(model, some, ())
    unembedding = model.unembedding_matrix()
    paths = DirectPaths.of(run, partial(logit_direction, unembedding=unembedding, answers=_following(run)))
    read = [*_effects(run, where, paths)]
    del run  # captures of all layers, no longer needed
    for done, edit in enumerate(edits):
        progress("runs", done, len(edits))
        read += _effects(_captured(model, some, [edit]), where, paths)
    return read


def _captured(model: Model, some: Prompts, edits: Sequence[Edit]) -> Run:
    """A run without its logits, of which few are judged."""
    captured = model.activations(some, sites(model), interventions=edits)
    return Run(model, some, tuple(edits), torch.empty(len(some), some.longest, 0), captured)


def _counted(progress: Progress, before: int, of: int) -> Progress:
    """Steps of a part of a whole, told as those of the whole."""
    return lambda stage, done, _: progress(stage, before + done, of)


def compensation(model: Model, clean: Effects, ablated: Effects, layer: int) -> Tensor:
    """What comes after a layer's attention writes more once that (or a head of it) is ablated, in logits [prompt].

    The sum over later layers, and the layer's own MLP unless it is parallel, of the change of their direct effect
    at the clean run's scales: the Hydra effect (McGrath et al. 2023). As a share of what the ablated part wrote
    itself, 1 means made up for in full; an ablation of several layers is compensated for after the last of them.
    """
    after = Head(layer, 0)
    later = torch.tensor([runs_after(model, component, after) for component in clean.components])
    return (ablated.direct - clean.direct)[:, later].sum(1)


def runs_after(model: Model, component: Component, head: Head) -> bool:
    """Whether a component can read what a head writes: later layers, and its own layer's MLP unless parallel."""
    if component.layer != head.layer:
        return component.layer > head.layer
    return component.head is None and model.anatomy.layers[head.layer].has_mid


def _components(model: Model) -> tuple[Component, ...]:
    return tuple(
        Component(index, head)
        for index, layer in enumerate(model.anatomy.layers)
        for head in (*range(layer.heads), *([] if layer.mlp_term is None else [None]))
    )


def _following(run: Run) -> Tensor:
    # The last token of a prompt predicts nothing that we know: it takes part with its own id, unjudged.
    ids = run.prompts.ids.to(run.model.device)
    return torch.cat([ids[:, 1:], ids[:, -1:]], dim=1)


@torch.no_grad()
def _effects(run: Run, where: PositionsLike, paths: DirectPaths) -> tuple[Tensor, Tensor]:
    """[prompt, component] and the logit itself [prompt], means over the judged positions."""
    judged = run.prompts.where(where).to(run.model.device)
    judged[:, -1] = False
    columns = []
    for layer in range(run.model.n_layers):
        columns += _of_layer(run, layer, paths)
    effects = _mean_where(torch.stack(columns, dim=-1), judged)
    # What a model does to its scores after the unembedding (a scale, a soft-cap) is no part of this.
    stream = run["resid_post", run.model.n_layers - 1][judged]
    norm = run.model.anatomy.final_norm
    logits = run.model.anatomy.unembedding(stream if norm is None else norm(stream)).float()
    own = torch.zeros(judged.shape, device=logits.device)
    own[judged] = logits.gather(-1, _following(run)[judged][..., None]).squeeze(-1) - logits.mean(-1)
    return effects.double().cpu(), _mean_where(own[..., None], judged)[:, 0].double().cpu()


def _of_layer(run: Run, layer: int, paths: DirectPaths) -> list[Tensor]:
    """Effects [batch, position] of each head of a layer, then of its MLP."""
    model, columns = run.model, []
    if model.anatomy.layers[layer].heads:
        z, matrix = run["z", layer].nan_to_num(), model.output_matrix(layer)
        columns += list(effect_of_heads_logits(z, matrix, paths.to_heads(model, layer)).unbind(-1))
    if model.anatomy.layers[layer].mlp_term is not None:
        read = paths.to_mlp(model, layer)
        columns.append((run["mlp_out", layer].nan_to_num().to(read) * read).sum(-1))
    return columns


def _mean_where(values: Tensor, judged: Tensor) -> Tensor:
    """Mean over judged positions: [batch, position, column] -> [batch, column]; NaN where none is."""
    total = torch.where(judged[..., None], values, 0.0).sum(1)
    count = judged.sum(1)[:, None]
    return torch.where(count > 0, total / count.clamp(min=1), float("nan"))
