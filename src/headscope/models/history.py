"""The checkpoints of one model in training, wherever they are: a zoo model, a folder, branches on the hub.

In: a source. Out: a `History`: the steps that there are, and the model at each of them, opened when it is asked for.
So a study of training is a loop over `steps`, and takes no more memory and disk than one model does: a checkpoint
that had to be fetched is removed again once it is in memory.

Names that are understood on the hub: `step1000` (Biderman et al. 2023, "Pythia"), `step-1000`, and
`stage1-step1000-tokens4B` (Groeneveld et al. 2024, "OLMo"), whose later stages are other data and left out.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, scan_cache_dir
from huggingface_hub.errors import CacheNotFound, HfHubHTTPError

from headscope import zoo
from headscope.errors import ModelNotFound, UnknownName, first_line
from headscope.models.loading import load
from headscope.models.model import Model
from headscope.zoo.checkpoints import checkpoints_in, tokens_per_step

_BRANCH = re.compile(r"(?:stage1-)?step-?(\d+)(?:-tokens(\d+)B)?")
# Tokens of one step, where the names of the branches do not say it: 1,024 sequences of 2,048 tokens.
_TOKENS_PER_STEP = {"EleutherAI/pythia-": 2**21}


@dataclass(frozen=True)
class History:
    """A model at the steps of its training: `open(step)` gives it as it was then.

    `steps` ascend. `revisions` has the revision of each step, `keep` leaves what was fetched on disk.
    """

    name: str
    steps: tuple[int, ...]
    revisions: Mapping[int, str] = field(repr=False)
    tokens_seen: Mapping[int, int] = field(default_factory=dict, repr=False)
    keep: bool = False

    def open(self, step: int, *, device: str = "auto") -> Model:
        """The model after `step` steps, in float32, so that no checkpoint differs from another by its precision.

        Raises:
            UnknownName: for a step that is not in `steps`.
        """
        if step not in self.revisions:
            raise UnknownName.among(f"step of {self.name}", step, map(str, self.steps))
        before = None if self.keep else _fetched(self.name)
        model = load(self.name, revision=self.revisions[step], device=device, dtype="float32")
        if before is not None:
            _remove(self.name, _fetched(self.name) - before)
        return model

    def tokens(self, step: int) -> int | None:
        """How many tokens the model had seen by then; None where nothing says it."""
        return self.tokens_seen.get(step)


def history_of(source: str | Path, *, steps: Sequence[int] | None = None, keep: bool = False) -> History:
    """The checkpoints of `source`: "zoo:NAME", a folder with sub-folders `step-N`, or a Hub id.

    `steps` takes some of them only. A revision that is not on this machine yet is fetched when it is opened and
    removed again once it is in memory, unless `keep`.

    Raises:
        ModelNotFound: where there are no checkpoints.
        UnknownName: for steps that are not among them; the message lists those that are.
    """
    name = str(source)
    found = _here(name) or _on_hub(name)
    for step in steps or ():
        if step not in found.revisions:
            raise UnknownName.among(f"step of {name}", step, map(str, found.steps))
    chosen = found.steps if steps is None else tuple(sorted(set(steps)))
    return History(name, chosen, {step: found.revisions[step] for step in chosen}, found.tokens_seen, keep)


def _here(name: str) -> History | None:
    """What is kept in a folder on this machine; None if there is no such folder."""
    shipped = name.startswith("zoo:")
    folder = zoo.path(name.removeprefix("zoo:")) if shipped else Path(name).expanduser()
    if not folder.is_dir():
        return None
    places, each = checkpoints_in(folder), tokens_per_step(folder)
    if not places:
        raise ModelNotFound(
            f"cannot follow the training of {name!r}: the folder holds no checkpoints (sub-folders step-N). Give "
            "the folder that training wrote, a zoo name (headscope models lists them) or a Hub id with a branch per "
            "step."
        )
    revisions = {step: f"step-{step}" for step in places}
    return History(name, tuple(places), revisions, {} if each is None else {step: step * each for step in places})


def _on_hub(name: str) -> History:
    """The branches of a model on the hub that are named after steps."""
    each = next((count for start, count in _TOKENS_PER_STEP.items() if name.startswith(start)), None)
    revisions, tokens = {}, {}
    for branch in _branches(name):
        if told := _BRANCH.fullmatch(branch):
            step = int(told[1])
            revisions[step] = branch
            if told[2] is not None:
                tokens[step] = int(told[2]) * 10**9
            elif each is not None:
                tokens[step] = step * each
    if not revisions:
        raise ModelNotFound(
            f"cannot follow the training of {name!r}: none of its branches is named after a step (step1000, "
            "step-1000, stage1-step1000-tokens4B). Give a model that keeps its checkpoints."
        )
    return History(name, tuple(sorted(revisions)), revisions, tokens)


def _branches(name: str) -> list[str]:
    """Branches and tags of a model on the hub; without a connection (HF_HUB_OFFLINE), those fetched before."""
    if constants.HF_HUB_OFFLINE:
        return [ref for repo in _cached(name) for revision in repo.revisions for ref in revision.refs]
    try:
        refs = HfApi().list_repo_refs(name)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ModelNotFound(
            f"cannot find {name!r}: it is no zoo name, no folder here, and no hub gave its branches "
            f"({first_line(error)})"
        ) from error
    return [ref.name for ref in (*refs.branches, *refs.tags)]


def _cached(name: str) -> list[Any]:
    """What the cache of the hub holds of a model."""
    try:
        return [repo for repo in scan_cache_dir().repos if repo.repo_id == name and repo.repo_type == "model"]
    except CacheNotFound:
        return []


def _fetched(name: str) -> set[str]:
    """The commits of a model that are on this machine."""
    return {revision.commit_hash for repo in _cached(name) for revision in repo.revisions}


def _remove(name: str, commits: set[str]) -> None:
    """Take commits off the disk; what other commits share stays. A file that is mapped lasts until unmapped."""
    if commits:
        scan_cache_dir().delete_revisions(*commits).execute()
