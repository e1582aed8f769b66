"""How long is trained where nobody says: so many epochs, or more where few data would make few steps of them.

Adam moves a gate by some hundredth a step, whatever the size of the data: in 60 epochs of 500 data, which are 300
steps, no gate comes to an end. So there are at least 8,000 steps. And what a unit costs, some nine nats, does not
shrink with the data: a function that the plain network has only begun to learn is worth less than its units, however
much it may be worth later. So that it is not given up before, a training of few data

- begins with E[π] = 0.5, q(π) uniform, and not with the source's 0.24, of which three layers let little through;
- has its KL warmed up, over a twentieth of it: by more, a network of many inputs learns the data by heart, and keeps
  them all;
- moves its gates three times as fast: at 0.01, 8,000 steps left 15 of 20 inputs of friedman1-10000 in, most on their
  way out; at 0.03 the five that matter (docs/feature_selection.md).
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """At least so many epochs, and at least so many steps.

    Attributes:
        epochs: passes over the data.
        steps: minibatches.
    """

    epochs: int
    steps: int

    def num_epochs(self, num_data: int, batch_size: int) -> int:
        """How many epochs these make of so many data."""
        return max(self.epochs, math.ceil(self.steps / math.ceil(num_data / batch_size)))

    def finds_few(self, num_data: int, batch_size: int) -> bool:
        """Whether it is the steps that decide."""
        return self.num_epochs(num_data, batch_size) > self.epochs

    def warmup_epochs(self, num_data: int, batch_size: int) -> int:
        """A twentieth of the epochs where data are few, else none."""
        return -(-self.num_epochs(num_data, batch_size) // 20) if self.finds_few(num_data, batch_size) else 0


PRETRAINING = Budget(epochs=10, steps=500)
FIT = Budget(epochs=60, steps=8000)
GATE_RATE, GATE_RATE_OF_FEW = 0.01, 0.03
