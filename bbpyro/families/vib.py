"""The variational information bottleneck: z_nk ~ N(μ_k, σ_k²), and each datum pays for what it keeps (1802.10399)."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from bbpyro.families.gate import Gate, check_numbers


class VIB(Gate):
    """A gate whose masks are Gaussian: p(z_nk) = N(0, s_k²), q(z_nk) = N(μ_k, σ_k²).

    Its ELBO is Σ_n E[log p(y_n | x_n, z_n)] - γ Σ_nk KL[q(z_nk) || p(z_nk)]; with s_k² = μ_k² + σ_k², where that is
    least, KL = ½ log(1 + μ_k²/σ_k²). A unit is out where log(μ²/σ²) ≤ 0, and the mean mask is μ
    (Dai et al. 2018, equations 8 to 10).

    Args:
        num_features: number of units K.
        gamma: γ, what a nat of a datum costs.
        dim: -1, or 1 for the channels of a convolution.
    """

    unit_parameters = ("mu", "log_variance")
    latent, measure_name, measure_label = "z", "log_signal_to_noise", "log(μ²/σ²)"
    mu: nn.Parameter
    log_variance: nn.Parameter

    def __init__(self, num_features: int, gamma: float = 1e-5, dim: int = -1) -> None:
        super().__init__(0.0, dim)
        check_numbers(self, gamma=(gamma, 0, 1e3))
        self.gamma = float(gamma)
        self.begin_at("mu", 1.0, num_features)
        self.begin_at("log_variance", -9.0, num_features)

    def model(self, name: str, data: Any) -> dict[str, Tensor]:
        """p(z)."""
        scale = torch.hypot(self.mu, (self.log_variance / 2).exp())
        with data, poutine.scale(scale=self.gamma):
            z = pyro.sample(f"{name}.z", dist.Normal(0.0, scale, validate_args=False).to_event(1))
        return {"z": z}

    def guide(self, name: str, data: Any) -> None:
        """q(z)."""
        q = dist.Normal(self.mu, (self.log_variance / 2).exp(), validate_args=False)
        with data, poutine.scale(scale=self.gamma):
            pyro.sample(f"{name}.z", q.to_event(1))

    def kl(self, num_data: int) -> Tensor:
        """γ N ½ log(1 + μ²/σ²), nats `[K]`."""
        return self.gamma * num_data * nn.functional.softplus(self.measure()) / 2

    def draws(self, num_samples: int) -> Tensor:
        """Draws of z, `[S, K]`."""
        return dist.Normal(self.mu, (self.log_variance / 2).exp()).sample((num_samples,))

    def prior_draws(self, num_samples: int) -> Tensor:
        """Draws of z from N(0, μ² + σ²), `[S, K]`."""
        return dist.Normal(0.0, torch.hypot(self.mu, (self.log_variance / 2).exp())).sample((num_samples,))

    def measure(self) -> Tensor:
        """log(μ²/σ²), `[K]`."""
        return self.mu.square().log() - self.log_variance

    def mean_mask(self) -> Tensor:
        """μ of the units that are kept, 0 of the others, `[K]`."""
        return torch.where(self.kept(), self.mu, 0.0)
