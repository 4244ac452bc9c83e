"""Who takes over when a head is cut: direct effects of all components before and after.

In: a model, prompts with a role whose next tokens are known, and a head. Out: per prompt, the direct effect
of every head and MLP on the right token's logit in the clean and in the cut run (each with its own frozen
norm scale), and the total change of that logit. *Self-repair* is the total change minus the change that the
loss of the head's direct effect alone would make (McGrath et al. 2023; Rushing & Nanda 2024). A component
that merely writes the same is not a backup: a backup writes *more* once the head is cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headscope.measures.direct_effect import effect_logits, effect_of_heads_logits, logit_direction
from headscope.models.model import Model
from headscope.models.norms import FrozenNorm
from headscope.models.protocols import Edit
from headscope.models.run import Run
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Head, PositionsLike


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


def direct_effects(
    model: Model, prompts: Prompts, where: PositionsLike, interventions: Sequence[Edit] = (), *, rows: int = 8
) -> Effects:
    """Direct effects of every head and MLP on the logit of the token that really follows.

    `where` are the predicting positions (a role, usually); `rows` prompts are run at a time.

    Raises:
        UnservedModel: if something stands between stream and unembedding that is no norm.
    """
    parts = [
        _effects(model, prompts.rows(slice(start, start + rows)), where, interventions)
        for start in range(0, len(prompts), rows)
    ]
    direct = torch.cat([direct for direct, _ in parts])
    return Effects(_components(model), direct, torch.cat([logit for _, logit in parts]))


def _components(model: Model) -> tuple[Component, ...]:
    found: list[Component] = []
    for index, layer in enumerate(model.anatomy.layers):
        found += [Component(index, head) for head in range(layer.heads)]
        if layer.mlp_term is not None:
            found.append(Component(index, None))
    return tuple(found)


def _effects(
    model: Model, prompts: Prompts, where: PositionsLike, interventions: Sequence[Edit]
) -> tuple[Tensor, Tensor]:
    model.require_direct_effects()
    last = model.n_layers - 1
    sites = [("z", index) for index, layer in enumerate(model.anatomy.layers) if layer.heads]
    sites += [("mlp_out", index) for index, layer in enumerate(model.anatomy.layers) if layer.mlp_term]
    run = model.run(prompts, interventions=interventions, capture=[*sites, ("resid_post", last)])
    unembedding = model.hf.get_output_embeddings().weight  # type: ignore[operator,union-attr]
    # The last token of a prompt predicts nothing that we know: it takes part with its own id, unjudged.
    ids = prompts.ids.to(model.device)
    following = torch.cat([ids[:, 1:], ids[:, -1:]], dim=1)
    judged = prompts.where(where).to(model.device)
    judged[:, -1] = False
    stream = run["resid_post", last].nan_to_num()
    with torch.inference_mode():
        frozen = FrozenNorm.at(model.anatomy.final_norm, stream)
        direction = logit_direction(frozen, unembedding, following)
        columns = []
        for layer in range(model.n_layers):
            columns += _of_layer(model, run, layer, direction)
        effects = _mean_where(torch.stack(columns, dim=-1), judged)
        logits = run.logits.nan_to_num()
        own = logits.gather(-1, following[..., None]).squeeze(-1) - logits.mean(-1)
    return effects.double().cpu(), _mean_where(own[..., None], judged)[:, 0].double().cpu()


def _of_layer(model: Model, run: Run, layer: int, direction: Tensor) -> list[Tensor]:
    """Effects [batch, position] of each head of a layer, then of its MLP."""
    anatomy, columns = model.anatomy.layers[layer], []
    if anatomy.heads:
        z, matrix = run["z", layer].nan_to_num(), model.output_matrix(layer)
        assert anatomy.attention_term is not None
        assert anatomy.projection is not None
        read = direction * anatomy.attention_term.scale
        if not anatomy.projection_is_term:
            # A norm stands between the projection and the stream: linear too once its scale is frozen.
            projected = anatomy.projection(z.flatten(2))
            read = FrozenNorm.at(anatomy.attention_term.module, projected).pull_back(read)
        columns += list(effect_of_heads_logits(z, matrix, read).unbind(-1))
    if anatomy.mlp_term is not None:
        columns.append(effect_logits(run["mlp_out", layer].nan_to_num(), direction))
    return columns


def _mean_where(values: Tensor, judged: Tensor) -> Tensor:
    """Mean over judged positions: [batch, position, column] -> [batch, column]; NaN where none is."""
    total = torch.where(judged[..., None], values, 0.0).sum(1)
    count = judged.sum(1)[:, None]
    return torch.where(count > 0, total / count.clamp(min=1), float("nan"))
