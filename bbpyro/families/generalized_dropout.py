"""Generalised dropout: z_nk ~ Bernoulli(π_k), where π_k is a point with a Beta prior (arXiv 1611.06791)."""

from typing import Any

import pyro
import torch
from torch import Tensor, nn

from bbpyro.distributions import Bernoulli, Beta, Delta, RelaxedBernoulli, remember_log_odds
from bbpyro.families.gate import Gate, check_numbers


class GeneralizedDropout(Gate):
    """A gate whose masks are Bernoulli(π_k), π_k ~ Beta(alpha, beta), with q(π) = δ(π̂) and q(z | π) = p(z | π) relaxed.

    A unit is out where π ≤ threshold, and the mean mask is π (Srinivas and Babu 2016). With alpha below 1, as for
    stochastic architecture learning, the prior has a pole at 0, so that what pulls a unit there does not end; with beta
    at 1 nothing pulls a π away from 1, and units stay in that carry nothing.

    Args:
        num_features: number of units K.
        alpha: of the prior.
        beta: of the prior.
        threshold: of π.
        keep_probability: π where training starts.
        temperature: τ.
        dim: -1, or 1 for the channels of a convolution.
    """

    unit_parameters = ("logit_pi",)
    thresholds = (0.0, 1.0)
    latent, measure_name, measure_label = "pi", "keep_probability", "keep probability π"
    logit_pi: nn.Parameter

    def __init__(
        self,
        num_features: int,
        alpha: float = 1e-4,
        beta: float = 1.0,
        threshold: float = 1e-3,
        keep_probability: float = 0.5,
        temperature: float = 0.1,
        dim: int = -1,
    ) -> None:
        super().__init__(threshold, dim)
        check_numbers(self, alpha=(alpha, 1e-30, 1e9), beta=(beta, 1e-30, 1e9))
        check_numbers(self, keep_probability=(keep_probability, 1e-5, 1 - 1e-5), temperature=(temperature, 1e-3, 1e3))
        self.alpha, self.beta, self.temperature = float(alpha), float(beta), float(temperature)
        self.begin_at("logit_pi", torch.tensor(keep_probability).logit().item(), num_features)

    def prior(self) -> Beta:
        """p(π_k), batch shape `[K]`."""
        ones = torch.ones_like(self.logit_pi)
        return Beta(self.alpha * ones, self.beta * ones, validate_args=False)

    def pi(self) -> Tensor:
        """π, which remembers its log-odds, `[K]`."""
        return remember_log_odds(self.logit_pi, self.logit_pi.dtype)

    def model(self, name: str, data: Any) -> dict[str, Tensor]:
        """p(π) p(z | π)."""
        pi = pyro.sample(f"{name}.pi", self.prior().to_event(1))
        with data:
            z = pyro.sample(f"{name}.z", Bernoulli(pi).to_event(1))
        return {"z": z}

    def guide(self, name: str, data: Any) -> None:
        """δ(π̂) q(z | π)."""
        pi = pyro.sample(f"{name}.pi", Delta(self.pi(), event_dim=1))
        with data:
            pyro.sample(f"{name}.z", RelaxedBernoulli(self.temperature, pi).tied().to_event(1))

    def kl(self, num_data: int) -> Tensor:
        """-log p(π), nats `[K]`: as of any point it may be negative."""
        return -self.prior().log_prob(self.pi())

    def draws(self, num_samples: int) -> Tensor:
        """π, `[S, K]`."""
        return self.pi().expand(num_samples, -1)

    def prior_draws(self, num_samples: int) -> Tensor:
        """Draws of π from its prior, `[S, K]`."""
        return self.prior().sample((num_samples,))

    def measure(self) -> Tensor:
        """π, `[K]`."""
        return self.pi()

    def mean_mask(self) -> Tensor:
        """π of the units that are kept, 0 of the others, `[K]`."""
        return torch.where(self.kept(), self.pi(), 0.0)
