"""The certificate: what was proven on this very model, and what is refused because of it.

One record per property, with the worst error seen and its tolerance, and the sites and services that are refused
where it fails. A model whose un-edited logits are not those of plain transformers is not served at all. Certificates
are cached by the model's identity and by the versions of the libraries, so that nothing is proven twice. The
properties themselves are in models.checks; models.proofs proves them when something first rests on them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
import transformers

from headscope.errors import UnservedModel
from headscope.models import disk_cache

if TYPE_CHECKING:
    from headscope.models.model import Model

# What can be refused beside sites; the words are used in sentences.
NEXT_TOKEN_LOSS = "next-token loss"
SERVICES = (
    "to_bos",
    "prompts of unequal length",
    "generation in batches of unequal length",
    "generation",
    NEXT_TOKEN_LOSS,
)


def writing(site: str) -> str:
    """What is refused where a site can be read, but editing it is not proven to do anything."""
    return f"writing {site}"


@dataclass(frozen=True)
class Check:
    """One property: `passed` is None where it does not apply, or where the check could not be made (`made` is False).

    `layers` are those that fail, `worst` is the largest error seen (relative to the largest value, unless `detail`
    says otherwise), `refuses` are the sites or services that depend on the property, `cpu_seconds` is what it took.
    """

    name: str
    passed: bool | None
    worst: float | None = None
    tolerance: float | None = None
    layers: tuple[int, ...] = ()
    refuses: tuple[str, ...] = ()
    detail: str = ""
    made: bool = True
    cpu_seconds: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Certificate:
    """The checks of one model that were made."""

    model: str
    identity: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no property fails."""
        return not any(check.passed is False for check in self.checks)

    def refusals(self) -> dict[tuple[str, int | None], str]:
        """Why a site in a layer, or a service (layer None), is refused."""
        refused: dict[tuple[str, int | None], str] = {}
        failing = [check for check in self.checks if check.passed is False]
        for check, what in [(each, what) for each in failing for what in each.refuses]:
            for layer in check.layers or (None,):
                place = None if what in SERVICES and what != "to_bos" else layer
                refused.setdefault((what, place), f"the check {check.name} fails ({_why(check)})")
        return refused

    def require_identical(self) -> None:
        """Raise UnservedModel if un-edited logits differ from those of plain transformers."""
        for check in self.checks:
            if check.name == "logits_identical" and check.passed is False:
                raise UnservedModel(
                    f"cannot serve {self.model}: with headscope watching, its un-edited logits are not those of "
                    f"plain transformers ({_why(check)})."
                )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, the refusals spelled out."""
        refused: dict[tuple[str, str], list[int]] = {}
        for (what, layer), reason in self.refusals().items():
            refused.setdefault((what, reason), []).extend([] if layer is None else [layer])
        return {
            "model": self.model,
            "identity": self.identity,
            "passed": self.passed,
            "checks": [{**asdict(check), "layers": list(check.layers)} for check in self.checks],
            "refused": [
                {"site": what, "layers": sorted(layers), "reason": reason}
                for (what, reason), layers in refused.items()
            ],
            "versions": versions(),
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """The certificate that `to_json` wrote."""
        checks = tuple(
            Check(**{**check, "layers": tuple(check["layers"]), "refuses": tuple(check["refuses"])})
            for check in given["checks"]
        )
        return cls(given["model"], given["identity"], checks)


def versions() -> dict[str, str]:
    """The libraries on which a certificate depends."""
    return {"headscope": version("headscope"), "torch": torch.__version__, "transformers": transformers.__version__}


def cached(key: str) -> Certificate | None:
    """The certificate of an earlier opening, or None."""
    if key not in _seen:
        try:
            _seen[key] = Certificate.from_json(disk_cache.read("certificates", key))
        except (ValueError, KeyError, TypeError):
            return None  # nothing there, or not what we write now: it is made again
    return _seen[key]


def remember(certificate: Certificate, key: str, *, on_disk: bool) -> None:
    """Keep a certificate for the next opening."""
    _seen[key] = certificate
    if on_disk:
        disk_cache.write("certificates", key, certificate.to_json())


def key_of(model: "Model", identity: str) -> str:
    """What a certificate holds for: weights, libraries, device and precision, attention implementation."""
    kernel = getattr(model.config, "_attn_implementation", None)
    libraries = (sorted(versions().items()), code_of(Path(__file__).parent))
    parts = (identity, libraries, str(model.device.type), str(model.dtype), kernel)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


@cache
def code_of(folder: Path) -> str:
    """A hash of the code in a folder of ours: what older code proved or computed is not so of newer."""
    sha = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        sha.update(file.read_bytes())
    return sha.hexdigest()[:16]


_seen: dict[str, Certificate] = {}


def _why(check: Check) -> str:
    if check.worst is not None and check.tolerance is not None:
        error = f"error {check.worst:.1e}, tolerance {check.tolerance:.0e}"
        return f"{error}; {check.detail}" if check.detail else error
    return check.detail or "no detail"
