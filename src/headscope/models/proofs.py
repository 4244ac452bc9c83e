"""What was proved on a model, and the rest of it proved when something first rests on it.

Opening a model proves that its un-edited logits are those of plain transformers, which everything rests on. A site or
a service is held to its own properties the first time that it is asked for: who reads patterns does not wait for
proofs about generation. What was proved is kept (models.certificate), so that nothing is proved twice.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from headscope.errors import HeadscopeError
from headscope.models.certificate import Certificate, Check, cached, remember
from headscope.models.checks import PROPERTIES, Property, said
from headscope.models.devices import on_one_thread
from headscope.models.tap import aside
from headscope.models.trial import Trial

if TYPE_CHECKING:
    from headscope.models.model import Model


class Proofs:
    """The properties of one model: those that were proved, and what the others say once they are asked for.

    `key` is under which they are kept for the next opening, `on_disk` whether in another process too.
    """

    def __init__(self, model: "Model", key: str | None = None, *, on_disk: bool = False) -> None:
        self._model, self._key, self._on_disk = model, key, on_disk
        self._state = model.weights_state
        self._settled: set[str] = set()
        self._lock = threading.RLock()
        self._busy = False
        known = cached(key) if key is not None else None
        self._identity = model.identity if known is None else known.identity
        self._keep({check.name: check for check in known.checks} if known is not None else {})

    @classmethod
    def begin(cls, model: "Model", key: str | None = None, *, on_disk: bool = False) -> None:
        """Hold a model to its properties from here on; the arguments are those of the class.

        Raises:
            UnservedModel: if its un-edited logits are not those of plain transformers.
        """
        model.proofs = proofs = cls(model, key, on_disk=on_disk)
        proofs._prove(PROPERTIES[:1])
        proofs.made.require_identical()

    def refusal(self, what: str, layer: int | None) -> str | None:
        """Why a site (in a layer) or a service is refused; None where what it rests on holds.

        What is asked while something is being proved is answered from what was proved before.
        """
        if what not in self._settled:
            with self._lock:
                if not self._busy:
                    self._prove(_under(what))
                    self._settled.add(what)
        return self._refused.get((what, layer)) or self._refused.get((what, None))

    def whole(self, progress: Callable[[int, int], None] = lambda done, total: None) -> Certificate:
        """All properties, proved now where they were not; `progress` is told how many of how many are."""
        with self._lock:
            self._prove(PROPERTIES, progress)
        return self.made

    def _prove(
        self, properties: Iterable[Property], progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        missing = [each for each in properties if each.name not in self._checks]
        if not missing:
            return
        self._busy = True
        try:
            with aside(), self._model.unedited(), on_one_thread(self._model.hf):
                trial = Trial(self._model)
                for count, each in enumerate(missing):
                    progress(count, len(missing))
                    # Logits that headscope moves prove nothing of anything else.
                    if self.made.checks and self.made.checks[0].passed is False:
                        break
                    self._keep(self._checks | {each.name: _tried(each, trial)})
        finally:
            self._busy = False
        # What is proved of weights that were changed since is not proved of the files.
        if self._key is not None:
            remember(self.made, self._key, on_disk=self._on_disk and self._state == self._model.weights_state)

    def _keep(self, checks: dict[str, Check]) -> None:
        self._checks = checks
        ordered = tuple(checks[each.name] for each in PROPERTIES if each.name in checks)
        self.made = Certificate(self._model.name, self._identity, ordered)
        self._refused = self.made.refusals()


def _under(what: str) -> list[Property]:
    """The properties that a site or service rests on, and those that their checks lean on, in order."""
    found = [each for each in PROPERTIES if what in each.refuses]
    for each in found:
        found += [other for one in each.leans_on for other in _under(one) if other not in found]
    return [each for each in PROPERTIES if each in found]


def _tried(each: Property, trial: Trial) -> Check:
    """The outcome of a check; whatever the model itself raises is a finding about that model."""
    began = time.process_time()
    try:
        check = each.check(trial)
    except HeadscopeError as error:
        check = Check("", False, detail=str(error))
    except Exception as error:
        check = Check("", False, detail=said(error))
    refuses = check.refuses or (() if check.passed is None else each.refuses)
    return replace(check, name=each.name, refuses=refuses, cpu_seconds=time.process_time() - began)
