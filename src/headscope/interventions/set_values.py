"""Values that are written out: put in place of what a run has, or added to it, another for each example if need be.

In: a tensor with one row for each example, or one for all. Out: an intervention that holds it. A mean over the
prompts of one's own function, a task vector or a function vector is no activation of any single run, so it cannot
be patched from one (`Patch`), and it differs from example to example, so it is not one vector (`Add`).
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

from torch import Tensor

from headscope.errors import BadArgument
from headscope.interventions.base import Intervention
from headscope.interventions.targets import Target
from headscope.models.layout import Layout
from headscope.models.protocols import SiteEdit
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Rows

if TYPE_CHECKING:
    from headscope.models.model import Model


@dataclass(frozen=True, eq=False)
class SetValues(Intervention):
    """Put `values` at a target, or, with `added`, add them to what is there.

    `values` is [example, model] at a site of the residual stream, [example, head_dim] for heads (all named heads get
    the same); one row stands for all examples. Every position of an example gets the same.
    """

    values: Tensor = field(kw_only=True)
    added: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.values.ndim != 2 or not bool(self.values.isfinite().all()):
            raise BadArgument(
                f"cannot {self.verb} of shape {tuple(self.values.shape)}: expected finite ones [example, width]."
            )

    @property
    def verb(self) -> str:
        return "add values" if self.added else "set values"

    def rows(self, chosen: Rows) -> Self:
        return self if len(self.values) == 1 else replace(self, values=self.values[chosen])

    def edit_of(self, target: Target, model: "Model", prompts: Prompts) -> SiteEdit:
        if len(self.values) not in (1, len(prompts)):
            raise BadArgument(
                f"cannot {self.verb} for {len(self.values)} examples at {target}: the prompts are "
                f"{len(prompts)}. Give one row for each, or one for all."
            )
        values = self.values.to(model.device)

        def replacement(value: Tensor, _: Layout) -> Tensor:
            if values.shape[1] != value.shape[-1]:
                raise BadArgument(
                    f"cannot {self.verb} of width {values.shape[1]} at {target}: expected {value.shape[-1]}."
                )
            own = values.to(value).reshape(len(values), *[1] * (value.ndim - 2), -1)
            return value + own if self.added else own.expand_as(value)

        return self.site_edit(target, replacement)
