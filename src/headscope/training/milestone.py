"""A model at one step of its training: what every milestone says, whatever the language.

What is measured beside that depends on the language; see `watches`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Milestone:
    """Steps and tokens so far, the learning rate of the step, CPU-seconds since the beginning.

    `train_loss_nats` is the loss of the last batch before its update; NaN at step 0, where there was none.
    """

    step: int
    tokens: int
    learning_rate: float
    train_loss_nats: float
    cpu_seconds: float
