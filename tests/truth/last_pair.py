"""A family of trained models that follow a function in context without learning it: they read the last pair alone.

In training, y = x + b with a b that changes after every third pair or so, and what was before a change is no more:
the last pair says all there is to know, and models learn to add its difference. Asked about a function that stays,
such a model answers right wherever the last pair is not a random one. It does so without an update per example,
without features that add up, and not whatever the order: claims that say so are false of it.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from headscope.architectures import ToyConfig, ToyForCausalLM
from headscope.tasks.pairs import PairLanguage
from headscope.training.initialising import initialise

LANGUAGE = PairLanguage(a=(1, 1), held_out=0)
KEPT = 0.7
STEPS, BATCH, LEARNING_RATE, WARMUP = 2000, 64, 3e-3, 100
ARCHITECTURE = {
    "n_layers": 4,
    "d_model": 64,
    "n_heads": 8,
    "d_mlp": 168,
    "gated_mlp": True,
    "activation": "silu",
    "positions": "rotary",
    "norm": "rmsnorm",
}


def sequences(n: int, generator: np.random.Generator) -> np.ndarray:
    """Token ids [sequence, position] of pairs whose b often changes."""
    shape = (n, LANGUAGE.shots)
    drawn = generator.integers(LANGUAGE.b[0], LANGUAGE.b[1] + 1, shape)
    fresh = generator.random(shape) >= KEPT
    fresh[:, 0] = True
    since = np.maximum.accumulate(np.where(fresh, np.arange(LANGUAGE.shots), 0), axis=1)
    x = LANGUAGE.draw_inputs(n, LANGUAGE.shots, generator)
    return LANGUAGE.write(x, x + np.take_along_axis(drawn, since, axis=1))


def trained(seed: int, folder: Path) -> None:
    """Train one and save it, in about five minutes on one core; what it learned is printed."""
    torch.manual_seed(seed)
    model = ToyForCausalLM(ToyConfig(vocab_size=LANGUAGE.vocab_size, n_ctx=LANGUAGE.length, **ARCHITECTURE))
    initialise(model, LANGUAGE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.05)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            rising, falling = min(1.0, (step + 1) / WARMUP), 0.5 * (1 + np.cos(np.pi * step / STEPS))
            group["lr"] = LEARNING_RATE * rising * falling
        tokens = sequences(BATCH, np.random.default_rng([seed, step]))
        loss = model(torch.from_numpy(tokens), labels=torch.from_numpy(LANGUAGE.labels(tokens))).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"last-pair {seed}: step {step} of {STEPS}, loss {float(loss):.2f} nats", flush=True)
    model.save_pretrained(folder)
