"""Dependent Beta-Bernoulli dropout: which units a datum needs depends on the datum (arXiv 1805.10896, section 4)."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbpyro.distributions import is_tied
from bbpyro.families.beta_bernoulli import BetaBernoulliDropout
from bbpyro.families.gate import check_numbers

_LEAST = 1e-4  # ε, of φ and of what it lacks to 1


class DependentBetaBernoulli(BetaBernoulliDropout):
    """A gate whose masks are Bernoulli(π_k φ_k(x_nk)), φ_k(x) = clip(γ_k (x - mean) / sd + β_k, ε, 1 - ε).

    π is that of Beta-Bernoulli dropout, whose z ~ Bernoulli(π) the network's model samples; here it is multiplied by a
    second mask, of Bernoulli(φ), whose noise u ~ U(0, 1) model and guide have in common. β ~ N(0, ρ²), with
    q(β) = N(η, κ²); γ is a point; mean and sd are those of a batch norm. At prediction the mask of a datum is
    E[π] φ(x), or 0 where that is at most the threshold. It starts from a network that Beta-Bernoulli dropout trained.

    Args:
        num_features: number of units K.
        threshold: of E[π], and of E[π] φ(x) for a datum.
        rho: ρ.
        temperature: τ of the second mask, relaxed where the first one is.
        dim: -1, or 1 for the channels of a convolution, of which φ takes the mean.
    """

    unit_parameters = (*BetaBernoulliDropout.unit_parameters, "gamma", "eta", "log_kappa")
    depends_on_data = True
    gamma: nn.Parameter
    eta: nn.Parameter
    log_kappa: nn.Parameter
    u: Tensor | None
    beta: Tensor | None
    mean: Tensor
    variance: Tensor

    def __init__(
        self,
        num_features: int,
        threshold: float = 1e-3,
        rho: float = 5**0.5,
        temperature: float = 0.1,
        dim: int = -1,
    ) -> None:
        super().__init__(num_features, threshold, dim=dim)
        check_numbers(self, rho=(rho, 1e-6, 1e6), temperature=(temperature, 1e-3, 1e3))
        self.rho, self.temperature = float(rho), float(temperature)
        for name, start in (("gamma", 1.0), ("eta", 1.5), ("log_kappa", -3.0)):
            self.begin_at(name, start, num_features)
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("variance", torch.ones(num_features))
        self.register_buffer("u", None)
        self.register_buffer("beta", None)

    def model(self, name: str, data: Any) -> dict[str, Tensor]:
        """p(β) and the noise of the second mask."""
        prior = dist.Normal(torch.zeros_like(self.eta), self.rho, validate_args=False)
        beta = pyro.sample(f"{name}.beta", prior.to_event(1))
        with data:
            u = pyro.sample(f"{name}.u", self._noise())
        return {"beta": beta, "u": u}

    def guide(self, name: str, data: Any) -> None:
        """q(β) and the same noise."""
        q = dist.Normal(self.eta, self.log_kappa.exp(), validate_args=False)
        pyro.sample(f"{name}.beta", q.to_event(1))
        with data:
            pyro.sample(f"{name}.u", self._noise())

    def _noise(self) -> Any:
        zeros = torch.zeros_like(self.eta)
        return dist.Uniform(zeros, zeros + 1, validate_args=False).to_event(1).mask(False)  # whose density is 1

    def kl(self, num_data: int) -> Tensor:
        """KL[q(β) || p(β)], nats `[K]`, beside that of π."""
        q = dist.Normal(self.eta, self.log_kappa.exp(), validate_args=False)
        return torch.distributions.kl_divergence(q, dist.Normal(0.0, self.rho, validate_args=False))

    def phi(self, x: Tensor) -> Tensor:
        """φ(x) `[N, K]` of inputs of the gate, by the β that is bound, or by its mean."""
        others = [d for d in range(1, x.dim()) if d != (self.dim if self.dim == 1 else x.dim() - 1)]
        x = x.mean(others) if others else x
        beta = self.eta if self.beta is None else self.beta
        is_training = self.training and self.z is not None and is_tied(self.z)
        shifted = F.batch_norm(x, self.mean, self.variance, self.gamma, beta, is_training, 0.1)
        return shifted.clamp(_LEAST, 1 - _LEAST)

    def kept_for(self, x: Tensor) -> Tensor:
        """Which units are kept for each datum, `[N, K]`: where E[π] φ(x) is above the threshold."""
        return self.mean_mask() * self.phi(x) > self.threshold

    def for_all_data(self) -> BetaBernoulliDropout:
        """The gate of Beta-Bernoulli dropout with this q(π)."""
        gate = BetaBernoulliDropout(self.num_features, self.own_threshold, dim=self.dim).to(self.like)
        gate.family, gate.threshold = self.family, self.threshold
        for name in BetaBernoulliDropout.unit_parameters:
            getattr(gate, name).data.copy_(getattr(self, name).data)
        return gate

    def forward(self, x: Tensor) -> Tensor:
        """`x` times both masks where they are bound, times E[π] φ(x) elsewhere."""
        phi = self.phi(x)
        if self.u is None:
            first = self.mean_mask() if self.z is None else self.z
            second = torch.where(first * phi > self.threshold, phi, 0.0)
        else:
            odds = torch.logit(phi) + torch.logit(self.u, eps=torch.finfo(x.dtype).tiny)
            is_relaxed = self.z is not None and is_tied(self.z)
            second = torch.sigmoid(odds / self.temperature) if is_relaxed else (odds > 0).to(x.dtype)
        return self.times(super().forward(x), second)
