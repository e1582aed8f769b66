"""Concrete dropout: all units of a layer are dropped at one rate, which is learnt (arXiv 1705.07832)."""

import math
from typing import Any

import pyro
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbpyro.distributions import RelaxedBernoulli
from bbpyro.families.gate import Gate, check_numbers


class ConcreteDropout(Gate):
    """A gate whose masks z_nk are relaxed Bernoulli(1 - p) of one rate p, and which never has a unit out.

    Its ELBO is E[log p(y | x, z)] - K (log 2 - H(p)), H the entropy of a Bernoulli(p) in nats: the more data there are,
    the further p may be from ½ (Gal et al. 2017, equation 3; p scales their weight decay, and not the network's weight
    prior, which stands in its place here). The mean mask is 1 - p.

    Args:
        num_features: number of units K.
        rate: p where training starts.
        temperature: τ.
        dim: -1, or 1 for the channels of a convolution.
    """

    unit_parameters = ()
    latent, measure_name, measure_label = "z", "keep_probability", "keep probability 1 - p"
    logit_keep: nn.Parameter

    def __init__(self, num_features: int, rate: float = 0.1, temperature: float = 0.1, dim: int = -1) -> None:
        super().__init__(-1.0, dim)
        check_numbers(self, rate=(rate, 1e-5, 1 - 1e-5), temperature=(temperature, 1e-3, 1e3))
        if num_features < 1:
            raise ValueError(f"num_features is {num_features}, wanted at least 1")
        self.temperature, self._num_features = float(temperature), num_features
        self.begin_at("logit_keep", math.log1p(-rate) - math.log(rate), 1)

    @property
    def like(self) -> Tensor:
        """A tensor `[K]` of the gate's dtype, on its device."""
        return self.logit_keep.expand(self._num_features)

    def mask(self) -> RelaxedBernoulli:
        """q(z_k), batch shape `[K]`."""
        return RelaxedBernoulli(self.temperature, logits=self.like, validate_args=False).tied()

    def model(self, name: str, data: Any) -> dict[str, Tensor]:
        """p(z), the same as q, and what the rate costs."""
        pyro.factor(f"{name}.rate", -self.kl(data.size).sum())
        with data:
            z = pyro.sample(f"{name}.z", self.mask().to_event(1))
        return {"z": z}

    def guide(self, name: str, data: Any) -> None:
        """q(z)."""
        with data:
            pyro.sample(f"{name}.z", self.mask().to_event(1))

    def kl(self, num_data: int) -> Tensor:
        """Log 2 - H(p), nats `[K]`."""
        keep = torch.sigmoid(self.like)
        return math.log(2) + keep * F.logsigmoid(self.like) + (1 - keep) * F.logsigmoid(-self.like)

    def draws(self, num_samples: int) -> Tensor:
        """Draws of z, `[S, K]`."""
        return self.mask().sample((num_samples,))

    def measure(self) -> Tensor:
        """1 - p, `[K]`."""
        return torch.sigmoid(self.like)

    def mean_mask(self) -> Tensor:
        """1 - p, `[K]`."""
        return self.measure()
