"""How long is trained where nobody says: so many epochs, or more where few data would make few steps of them.

Adam moves a gate by some hundredth a step, whatever the size of the data: in 60 epochs of 500 data, which are 300
steps, no gate comes to an end. So there are at least 8,000 steps. And what a unit costs, some nine nats, does not
shrink with the data: a function that the plain network has only begun to learn is worth less than its units, however
much it may be worth later. So that it is not given up before, a training of few data

- begins with E[π] = 0.5, q(π) uniform, and not with the source's 0.24, of which three layers let little through;
- has its KL warmed up, over a twentieth of it: by more, a network of many inputs learns the data by heart, and keeps
  them all;
- moves its gates three times as fast: at 0.01, 8,000 steps left 15 of 20 inputs of friedman1-10000 in, most on their
  way out; at 0.03 the five that matter (docs/feature_selection.md);
- is one of two, from a long and a short pretraining, of which the ELBO chooses (:mod:`bbpyro.training.starts`). The
  command does so; in Python it is :func:`bbpyro.fit_best`.
"""

import math
from dataclasses import dataclass

_MIN_STEPS, _MIN_STEPS_OF_PRETRAINING = 8000, 500


@dataclass(frozen=True)
class Budget:
    """What `pretrain`, `fit` and the command do where nobody says; these are of many data.

    Attributes:
        epochs: of SVI.
        initial_keep_probability: E[π] where gates begin that were given no start; None for the source's.
        kl_warmup_epochs: over which the weight of the KL goes from 0 to 1.
        gate_learning_rate: Adam's, for a and b of the gates.
        pretrain_epochs: of the plain network, before SVI; at least as many as make 500 steps.
        starts: how many trainings, each with a fifth of the pretraining of the one before.
    """

    epochs: int = 60
    initial_keep_probability: float | None = None
    kl_warmup_epochs: int = 0
    gate_learning_rate: float = 0.01
    pretrain_epochs: int = 10
    starts: int = 1

    @property
    def is_of_few_data(self) -> bool:
        """Whether it is the number of steps that decides."""
        return self != MANY


MANY = Budget()


def of_data(num_data: int, batch_size: int) -> Budget:
    """That of so many data."""
    steps_an_epoch = math.ceil(num_data / batch_size)
    epochs = math.ceil(_MIN_STEPS / steps_an_epoch)
    if epochs <= MANY.epochs:
        return MANY
    pretrain_epochs = max(MANY.pretrain_epochs, math.ceil(_MIN_STEPS_OF_PRETRAINING / steps_an_epoch))
    return Budget(epochs, 0.5, math.ceil(epochs / 20), 0.03, pretrain_epochs, starts=2)
