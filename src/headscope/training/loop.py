"""The training loop: draw, predict, step, and now and then look.

In: a recipe and a folder. Out: that folder, with the recipe, one line of metrics per milestone, checkpoints
that `from_pretrained` loads, and a state from which an interrupted run goes on to the very weights that an
uninterrupted one reaches (on the same machine and number of threads; tests hold it). On the CPU: what is
trained here takes minutes. Nothing is printed; whoever wants to watch passes `progress`.

    recipe.json           what is being made            step-0/, step-50/ ...   checkpoints
    log.jsonl             one `Milestone` per line      state.safetensors       where to go on
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from headscope.architectures import ToyConfig, ToyForCausalLM
from headscope.architectures.saving import save_quietly
from headscope.errors import OutputExists, Partial, Unwritable, system_errors
from headscope.tasks.functions import Ints
from headscope.tasks.pairs import PairLanguage
from headscope.training.carrying import carried_loss_nats, entering
from headscope.training.clamping import clamped
from headscope.training.definition import Recipe
from headscope.training.dropping import attention_dropped
from headscope.training.initialising import initialise
from headscope.training.milestone import Milestone
from headscope.training.schedule import learning_rate
from headscope.training.sparing import head_norms
from headscope.training.state import Stage, load_state, save_state, saved_stage, write_whole
from headscope.training.tokenizer import word_tokenizer
from headscope.training.watches import watch

RECIPE_FILE, LOG_FILE = "recipe.json", "log.jsonl"


def train(
    recipe: Recipe, out: str | Path, *, resume: bool = True, progress: Callable[[Milestone], None] | None = None
) -> Path:
    """Train a model by `recipe` in the folder `out`, and return that folder.

    A folder that holds an unfinished run of the same recipe is continued, a finished one returned as it is;
    with `resume=False` neither is touched. `progress` is called with each `Milestone`.

    Raises:
        OutputExists: if the folder holds anything else.
        Unwritable: if nothing can be written there.
        Partial: if the disk is full half-way; the same call goes on from the last milestone.
    """
    folder = Path(out)
    _claim(folder, recipe, resume)
    with _threads(recipe.threads), _going_on(folder):
        model = untrained(recipe)
        optimizer = _optimizer(recipe, model)
        stage = saved_stage(folder)
        if stage is None:
            stage = Stage(step=-1, cpu_seconds=0.0, recipe_digest=recipe.digest())
        else:
            load_state(folder, model, optimizer)
        _keep_log_until(folder, stage.step)
        _run(recipe, folder, model, optimizer, stage, progress)
    return folder


def untrained(recipe: Recipe) -> ToyForCausalLM:
    """The model before its first step; the generator of the caller's own random numbers is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = ToyForCausalLM(ToyConfig(**recipe.architecture))
        initialise(model, recipe.data)
        return model


def history(folder: str | Path) -> list[Milestone]:
    """The milestones of a run, in order of steps."""
    log = Path(folder) / LOG_FILE
    if not log.exists():
        return []
    row = watch(recipe_in(Path(folder)).data).row
    # A line without its end is one that a full disk or a stop cut off.
    lines = log.read_text(encoding="utf-8").split("\n")[:-1]
    return [row(**json.loads(line)) for line in lines]


def recipe_in(folder: Path) -> Recipe:
    """The recipe of the run in a folder."""
    return Recipe.from_json(json.loads((folder / RECIPE_FILE).read_text(encoding="utf-8")))


def _run(
    recipe: Recipe,
    folder: Path,
    model: ToyForCausalLM,
    optimizer: torch.optim.Optimizer,
    stage: Stage,
    progress: Callable[[Milestone], None] | None,
) -> None:
    """Take the steps that are left. Step 0 takes none: it is the milestone of the untrained model."""
    watching = watch(recipe.data)
    probes = watching.probes(recipe.data, recipe.seed)
    began = time.process_time() - stage.cpu_seconds
    for step in range(stage.step + 1, recipe.steps + 1):
        with clamped(model, recipe.clamped, step):
            train_loss_nats = float("nan") if step == 0 else _take_step(recipe, model, optimizer, step)
            if step not in recipe.milestones:
                continue
            metrics = watching.measure(model, probes)
        cpu_seconds = time.process_time() - began
        if step in recipe.checkpoint_steps or step == recipe.steps:
            # A folder that `AutoModelForCausalLM` and `AutoTokenizer` load.
            save_quietly(model, folder / f"step-{step}")
            word_tokenizer(recipe.data.words, model.config.n_ctx).save_pretrained(folder / f"step-{step}")
        row = watching.row(
            step=step,
            tokens=step * recipe.batch_size * recipe.data.length,
            learning_rate=learning_rate(recipe, step),
            train_loss_nats=train_loss_nats,
            cpu_seconds=cpu_seconds,
            **metrics,
        )
        # First the line, then the state: a stop in between leaves a line too many, which resuming removes.
        with (folder / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        save_state(folder, model, optimizer, Stage(step, cpu_seconds, recipe.digest()))
        if progress is not None:
            progress(row)


def _take_step(recipe: Recipe, model: ToyForCausalLM, optimizer: torch.optim.Optimizer, step: int) -> float:
    """One batch, one update; the batch depends on seed and step alone. Returns the loss in nats before it."""
    generator = np.random.default_rng([recipe.seed, step])
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(recipe, step)
    model.train()
    loss_nats, carried_nats = _losses_nats(recipe, model, generator)
    optimizer.zero_grad()
    total = loss_nats if carried_nats is None else loss_nats + carried_nats
    if recipe.head_penalty and step >= recipe.head_penalty_from:
        total = total + recipe.head_penalty * head_norms(model).sum()
    torch.autograd.backward(total)
    nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
    optimizer.step()
    return float(loss_nats.detach())


def _losses_nats(
    recipe: Recipe, model: ToyForCausalLM, generator: np.random.Generator
) -> tuple[Tensor, Tensor | None]:
    """The loss of one batch of text and, where the recipe asks for it, that of carrying its functions over."""
    language = recipe.data
    if not recipe.carried_at or not isinstance(language, PairLanguage):
        drawn = language.sample(recipe.batch_size, generator)
        return _loss_nats(recipe, model, drawn, generator), None
    drawn, parameters = language.sample_with_functions(recipe.batch_size, generator)
    layer = int(generator.choice(recipe.carried_at))
    with entering(model.model.layers[layer]) as seen:
        loss_nats = _loss_nats(recipe, model, drawn, generator)
    return loss_nats, carried_loss_nats(model, language, layer, seen[0], parameters, generator)


def _loss_nats(recipe: Recipe, model: ToyForCausalLM, drawn: Ints, generator: np.random.Generator) -> Tensor:
    tokens, labels = torch.from_numpy(drawn), torch.from_numpy(recipe.data.labels(drawn))
    with attention_dropped(model, recipe.attention_drop, len(tokens), generator):
        loss_nats: Tensor = model(tokens, labels=labels).loss
    return loss_nats


def _optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices; biases, norm weights and smearing gates are not pulled to 0."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas)


def _claim(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Make the folder this run's own, or say why it cannot be."""
    path = folder / RECIPE_FILE
    if folder.exists() and any(folder.iterdir()):
        if not path.exists():
            raise OutputExists(f"cannot train into {folder}: it holds other files. Pass an empty or new folder.")
        held = recipe_in(folder)
        if not resume or held.digest() != recipe.digest():
            raise OutputExists(
                f"cannot train {recipe.name!r} (recipe {recipe.digest()}) into {folder}: it holds a run of "
                f"{held.name!r} (recipe {held.digest()}). Pass another folder, or resume=True to go on "
                "with the same recipe."
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_whole(path, json.dumps(recipe.to_json(), indent=2) + "\n")
    except OSError as error:
        raise Unwritable.because(folder, error) from error


def _keep_log_until(folder: Path, step: int) -> None:
    """Drop lines of milestones that the saved state does not know yet."""
    kept = [json.dumps(asdict(row)) + "\n" for row in history(folder) if row.step <= step]
    write_whole(folder / LOG_FILE, "".join(kept))


@contextmanager
def _going_on(folder: Path) -> Iterator[None]:
    """Say of a write that fails what is kept, and how to go on."""
    try:
        with system_errors():
            yield
    except OSError as error:
        raise Partial.after(folder, error) from error


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Sums are split among threads, so their number decides the last bits of the weights."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
