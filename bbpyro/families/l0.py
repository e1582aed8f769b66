"""L0 regularisation: z_nk is 0 with a probability that is learnt, and not to be 0 costs λ (arXiv 1712.01312)."""

from typing import Any

import pyro
import torch
from torch import Tensor, nn

from bbpyro.distributions import HardConcrete
from bbpyro.families.gate import Gate, check_numbers


class L0(Gate):
    """A gate whose masks are hard concrete: z_nk = min(1, max(0, s̄)), s̄ the stretched sigmoid((log α_k + logit u)/β).

    Its ELBO is E[log p(y | x, z)] - λ Σ_k P(z_k ≠ 0): p and q of z are one, and what is not 0 costs λ. The measure is
    the mask at test time, min(1, max(0, sigmoid(log α)(ζ - γ) + γ)), which is the mean mask too: a unit is out where
    that is 0 (Louizos et al. 2018, equations 11 to 13).

    Args:
        num_features: number of units K.
        penalty: λ, nats that a unit costs whose mask is never 0.
        keep_probability: P(z ≠ 0) where training starts.
        temperature: β.
        dim: -1, or 1 for the channels of a convolution.
    """

    unit_parameters = ("log_alpha",)
    latent, measure_name, measure_label = "z", "test_mask", "mask at test time"
    log_alpha: nn.Parameter

    def __init__(
        self,
        num_features: int,
        penalty: float = 10.0,
        keep_probability: float = 0.9,
        temperature: float = 2 / 3,
        dim: int = -1,
    ) -> None:
        super().__init__(0.0, dim)
        check_numbers(self, penalty=(penalty, 0, 1e9), temperature=(temperature, 1e-3, 1e3))
        check_numbers(self, keep_probability=(keep_probability, 1e-5, 1 - 1e-5))
        self.penalty, self.temperature = float(penalty), float(temperature)
        odds = torch.tensor(keep_probability).logit() + temperature * torch.tensor(0.1 / 1.1).log()
        self.begin_at("log_alpha", odds.item(), num_features)

    def mask(self) -> HardConcrete:
        """q(z_k), batch shape `[K]`."""
        return HardConcrete(self.temperature, self.log_alpha, validate_args=False)

    def model(self, name: str, data: Any) -> dict[str, Tensor]:
        """p(z), the same as q, and the penalty."""
        pyro.factor(f"{name}.penalty", -self.kl(data.size).sum())
        with data:
            z = pyro.sample(f"{name}.z", self.mask().to_event(1))
        return {"z": z}

    def guide(self, name: str, data: Any) -> None:
        """q(z)."""
        with data:
            pyro.sample(f"{name}.z", self.mask().tied().to_event(1))

    def kl(self, num_data: int) -> Tensor:
        """λ P(z ≠ 0), nats `[K]`."""
        return self.penalty * self.mask().prob_nonzero

    def draws(self, num_samples: int) -> Tensor:
        """Draws of z, `[S, K]`."""
        return self.mask().sample((num_samples,))

    def measure(self) -> Tensor:
        """The mask at test time, `[K]`."""
        return self.mask().deterministic

    def mean_mask(self) -> Tensor:
        """The same: it is 0 of the units that are out."""
        return self.measure()
