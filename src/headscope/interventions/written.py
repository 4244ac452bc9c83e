"""Interventions as JSON and back: what a run folder keeps, a command reads, and two people exchange.

In: interventions. Out: plain JSON in the canonical form whose hash is their identity (hashing), so that what
is read back is equal to what was written. Tensors (a steering vector, a pattern) stand in it with their
content, or, where a `store` is given, by their hash alone; a run that is a source stands as its recipe, and
is run again on the same model when it is read.
"""

import base64
import json
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headscope.errors import BadArgument, UnknownName
from headscope.hashing import canonical
from headscope.interventions.ablations import Mean, Resample, Zero
from headscope.interventions.base import Intervention
from headscope.interventions.freezing import Freeze, PathPatch
from headscope.interventions.routing import FixedOffset, KnockOut, SetPattern, ToBOS
from headscope.interventions.set_values import SetValues
from headscope.interventions.targets import Target
from headscope.interventions.writes import Add, Patch
from headscope.models.run import Run
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Positions

if TYPE_CHECKING:
    from headscope.models.model import Model

KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        Zero, Mean, Resample, ToBOS, FixedOffset, SetPattern, KnockOut, Freeze, PathPatch, Patch, Add, SetValues,
    )
}  # fmt: skip
_PARTS: dict[str, Any] = {kind.__name__: kind for kind in (Target, Positions, Prompts)}
_DTYPES = {str(dtype): dtype for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)}


def to_json(
    interventions: Intervention | Iterable[Intervention], *, store: MutableMapping[str, Tensor] | None = None
) -> str:
    """One intervention, or several in their order, as JSON.

    >>> from headscope.interventions import zero
    >>> from_json(to_json(zero("0.2"))) == (zero("0.2"),)
    True
    """
    listed = (interventions,) if isinstance(interventions, Intervention) else tuple(interventions)
    tensors = {} if store is None else store
    for edit in listed:
        tensors.update(tensors_of(edit))
    data = [canonical(edit) for edit in listed]
    if store is None:
        data = _with_content(data, tensors)
    return json.dumps(data, sort_keys=True, ensure_ascii=False)


def from_json(
    text: str, *, model: "Model | None" = None, tensors: Mapping[str, Tensor] | None = None
) -> tuple[Intervention, ...]:
    """Interventions from what `to_json` wrote.

    `tensors` holds, by hash, those that were put into a store; `model` is needed where a run is a source.

    Raises:
        BadArgument: if the text is no such JSON, a tensor is missing or is another, or the model is.
        UnknownName: for a kind of intervention that does not exist.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadArgument(f"cannot read interventions: the text is no JSON ({error}).") from error
    reader = _Reader(model, tensors or {})
    listed = data if isinstance(data, list) else [data]
    try:
        return tuple(reader.intervention(item) for item in listed)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadArgument(
            f"cannot read interventions: {type(error).__name__} {error}. Give what to_json wrote."
        ) from error


def tensors_of(value: Any) -> dict[str, Tensor]:
    """The raw tensors of an intervention by the hash under which its JSON names them."""
    if isinstance(value, Tensor):
        return {canonical(value)["sha256"]: value.detach().cpu().contiguous()}
    if isinstance(value, Intervention):
        value = [getattr(value, field.name) for field in fields(value)]
    tensors: dict[str, Tensor] = {}
    for item in value if isinstance(value, list | tuple) else ():
        tensors |= tensors_of(item)
    if isinstance(value, Run):  # its recipe holds interventions
        for edit in value.interventions:
            tensors |= tensors_of(edit)
    return tensors


def _with_content(data: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The same data with the content of every tensor beside its hash."""
    if isinstance(data, list):
        return [_with_content(item, tensors) for item in data]
    if not isinstance(data, dict):
        return data
    if data.get("kind") == "tensor":
        raw = tensors[data["sha256"]].flatten().view(torch.uint8).numpy().tobytes()
        return {**data, "base64": base64.b64encode(raw).decode()}
    return {key: _with_content(item, tensors) for key, item in data.items()}


@dataclass(frozen=True)
class _Reader:
    """Rebuilds values from their canonical form: what a dataclass is made of is read off its fields."""

    model: "Model | None"
    tensors: Mapping[str, Tensor]

    def intervention(self, data: Mapping[str, Any]) -> Intervention:
        if data["kind"] not in KINDS:
            raise UnknownName.among("intervention", data["kind"], KINDS)
        built: Intervention = self._value(data)
        return built

    def _value(self, data: Any, targets: Iterable[Target] = ()) -> Any:
        if isinstance(data, list):
            return tuple(map(self._value, data))
        if not isinstance(data, dict):
            return data
        match data.get("kind"):
            case "tensor":
                return self._tensor(data)
            case "Run":
                return self._run(data, targets)
            case str(name):
                return self._built((KINDS | _PARTS)[name], data)
        return {name: self._value(item) for name, item in data.items()}

    def _built(self, kind: Any, data: Mapping[str, Any]) -> Any:
        names = [field.name for field in fields(kind) if field.name in data]
        if unknown := sorted(set(data) - {"kind", *names}):
            raise BadArgument(f"cannot read a {data['kind']}: it has no {unknown[0]!r}.")
        built: dict[str, Any] = {}
        for name in names:  # targets come first, and a run is made again at those
            free = name == "made_by"  # whatever the maker of prompts wrote down
            built[name] = data[name] if free else self._value(data[name], built.get("targets", ()))
        return kind(**built)

    def _tensor(self, data: Mapping[str, Any]) -> Tensor:
        if "base64" in data:
            raw = bytearray(base64.b64decode(data["base64"]))
            tensor = torch.frombuffer(raw, dtype=_DTYPES[data["dtype"]]).reshape(data["shape"])
        elif data["sha256"] in self.tensors:
            tensor = self.tensors[data["sha256"]]
        else:
            raise BadArgument(
                f"cannot read interventions: the tensor {data['sha256'][:12]} is not among tensors=. "
                "Pass the store that was written with them."
            )
        if canonical(tensor)["sha256"] != data["sha256"]:
            raise BadArgument(f"cannot read interventions: the tensor {data['sha256'][:12]} has other content.")
        return tensor

    def _run(self, data: Mapping[str, Any], targets: Iterable[Target]) -> Run:
        """A run that is a source, made again with the sites that the patch takes."""
        if self.model is None or self.model.identity != data["model"]:
            got = "none" if self.model is None else self.model.identity
            raise BadArgument(
                f"cannot read a patch whose source is a run: it was made on the model {data['model']}, got {got}. "
                "Pass that model as model=."
            )
        wanted = [(own.site, own.layer) for target in targets for own in target.within(self.model)]
        prompts, interventions = self._value(data["prompts"]), self._value(data["interventions"])
        return self.model.run(prompts, interventions=interventions, capture=wanted)  # type: ignore[arg-type]
