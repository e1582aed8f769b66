"""Structured Bayesian pruning: θ_nk log-uniform a priori, truncated log-normal a posteriori (arXiv 1705.07283)."""

from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from bbpyro.distributions import LogUniform, TruncatedLogNormal
from bbpyro.families.gate import Gate, check_numbers


class SBP(Gate):
    """A gate whose masks θ are on a log scale: p(θ_k) = LogUniform[e^low, 1], q(θ_k) = LogNormal(μ_k, σ_k²) within it.

    Its ELBO is Σ_n E[log p(y_n | x_n, θ)] - Σ_k KL[q(θ_k) || p(θ_k)]. As the authors do, θ is drawn for each datum, to
    lower the variance: each draw's log-densities count 1/N, so that the KL of a unit counts once. A unit is out
    where its signal-to-noise ratio E[θ] / sd[θ] is at most 1, and the mean mask is E[θ] (Neklyudov et al. 2017).

    Args:
        num_features: number of units K.
        threshold: of the signal-to-noise ratio.
        low: the least log θ.
        dim: -1, or 1 for the channels of a convolution.
    """

    unit_parameters = ("mu", "log_sigma")
    thresholds = (0.0, 1e9)
    latent, measure_name, measure_label = "theta", "signal_to_noise", "signal-to-noise ratio E[θ] / sd[θ]"
    mu: nn.Parameter
    log_sigma: nn.Parameter

    def __init__(self, num_features: int, threshold: float = 1.0, low: float = -20.0, dim: int = -1) -> None:
        super().__init__(threshold, dim)
        check_numbers(self, low=(low, -80, -1e-3))
        self.low = float(low)
        self.begin_at("mu", 0.0, num_features)
        self.begin_at("log_sigma", -3.0, num_features)

    def prior(self) -> LogUniform:
        """p(θ_k), batch shape `[K]`."""
        low = torch.full_like(self.mu, self.low)
        return LogUniform(low, torch.zeros_like(low), validate_args=False)

    def posterior(self) -> TruncatedLogNormal:
        """q(θ_k), batch shape `[K]`."""
        return TruncatedLogNormal(self.mu, self.log_sigma.exp(), self.low, 0.0, validate_args=False)

    def model(self, name: str, data: Any) -> dict[str, Tensor]:
        """p(θ) of each datum."""
        with data, poutine.scale(scale=1 / data.size):
            theta = pyro.sample(f"{name}.theta", self.prior().to_event(1))
        return {"z": theta}

    def guide(self, name: str, data: Any) -> None:
        """q(θ) of each datum."""
        with data, poutine.scale(scale=1 / data.size):
            pyro.sample(f"{name}.theta", self.posterior().to_event(1))

    def kl(self, num_data: int) -> Tensor:
        """KL[q(θ) || p(θ)], nats `[K]`."""
        return torch.distributions.kl_divergence(self.posterior(), self.prior())

    def draws(self, num_samples: int) -> Tensor:
        """Draws of θ from q, `[S, K]`."""
        return self.posterior().sample((num_samples,))

    def prior_draws(self, num_samples: int) -> Tensor:
        """Draws of θ from p, `[S, K]`."""
        return self.prior().sample((num_samples,))

    def measure(self) -> Tensor:
        """E[θ] / sd[θ], `[K]`."""
        return self.posterior().signal_to_noise

    def mean_mask(self) -> Tensor:
        """E[θ] of the units that are kept, 0 of the others, `[K]`."""
        return torch.where(self.kept(), self.posterior().mean, 0.0)
