"""Gibbs sampling of a latent feature model: what its guide can be held against.

The sampler is Griffiths and Ghahramani's (2011) of K features, with W integrated out as Doshi-Velez and Ghahramani
(2009, "Accelerated sampling for the Indian buffet process") do: by the posterior of W given all data but one.
"""

from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from bbpyro.bars import is_drawn
from bbpyro.checks import check_is
from bbpyro.exclusive import one_at_a_time
from bbpyro.latent_features import LatentFeatureModel, hide
from bbpyro.mcmc.nuts import check_steps
from bbpyro.posterior import container, features
from bbpyro.posterior.chains import joined


class GibbsSampler:
    """A chain of (π, W, z) of x_n = Σ_k z_nk w_k + noise, whose noise is Gaussian of a known scale σ.

    A sweep draws each z_nk given all others, with π and W integrated out: a priori it is 1 with probability
    (c1 + m_k) / (c1 + c0 + N - 1), where m_k of the other data have feature k; and x_n is
    N(z_n μ, (σ² + z_n Σ z_nᵀ) I), where μ `[K, D]` and Σ `[K, K]` are of W given the other data. (With W fixed, a
    feature that no datum has is drawn from the prior, fits nothing, and does not come back.) Then it draws W, whose
    columns are N(P⁻¹ zᵀx / σ², P⁻¹) with P = zᵀz / σ² + I / s²; π_k ~ Beta(c1 + m_k, c0 + N - m_k); and what of x was
    not observed.

    Args:
        model: of a Beta prior, without a decoder, its likelihood a Normal of one scale; only its priors are read.
        x: the data `[N, D]`; what is nan was not observed.

    Raises:
        TypeError: model is no LatentFeatureModel.
        ValueError: the model is another one, or x does not fit it.
    """

    def __init__(self, model: LatentFeatureModel, x: Tensor) -> None:
        if not isinstance(model, LatentFeatureModel):
            raise TypeError(f"model is a {type(model).__name__}, wanted a LatentFeatureModel")
        x = model.as_data(x)
        self.concentrations = _beta_prior(model)
        self.scale, self.weight_scale = _scale(model, x), model.weight_scale
        self.hidden = x.isnan()
        self.x = x.double().nan_to_num()
        self.pi = torch.distributions.Beta(*self.concentrations).sample()
        self.W = self.weight_scale * torch.randn(model.num_features, x.shape[1], dtype=torch.float64)
        self.z = torch.bernoulli(self.pi.expand(len(x), -1))

    def sweep(self) -> None:
        """Draw all of it once, in place."""
        self._draw_hidden()
        self._draw_z()
        self._draw_weights()
        on = self.z.sum(0)
        c1, c0 = self.concentrations
        self.pi = torch.distributions.Beta(c1 + on, c0 + len(self.z) - on).sample()

    def _draw_hidden(self) -> None:
        """Draw what of x was not observed."""
        drawn = self.z @ self.W + self.scale * torch.randn_like(self.x)
        self.x = torch.where(self.hidden, drawn, self.x)

    def _draw_z(self) -> None:
        x, z, noise = self.x.numpy(), self.z.numpy(), self.scale**2
        covariance, moment, count = self._precision().inverse().numpy(), z.T @ x / noise, z.sum(0)
        c1, c0 = (each.numpy() for each in self.concentrations)
        odds_of_u = torch.logit(torch.rand(z.shape, dtype=torch.float64), eps=1e-300).numpy()
        for n in range(len(x)):
            # of all data but n
            along = covariance @ z[n]
            covariance = covariance + np.outer(along, along) / (noise - z[n] @ along)
            moment, count = moment - np.outer(z[n], x[n]) / noise, count - z[n]
            prior_odds = np.log((c1 + count) / (c0 + len(x) - 1 - count))
            _draw_row(z[n], x[n], covariance @ moment, covariance, prior_odds, noise, odds_of_u[n])
            along = covariance @ z[n]
            covariance = covariance - np.outer(along, along) / (noise + z[n] @ along)
            moment, count = moment + np.outer(z[n], x[n]) / noise, count + z[n]

    def _precision(self) -> Tensor:
        """P, of W given z."""
        return self.z.T @ self.z / self.scale**2 + torch.eye(len(self.W)) / self.weight_scale**2

    def _draw_weights(self) -> None:
        root = torch.linalg.cholesky(self._precision())
        mean = torch.cholesky_solve(self.z.T @ self.x / self.scale**2, root)
        self.W = mean + torch.linalg.solve_triangular(root.mT, torch.randn_like(self.W), upper=True)


def _draw_row(
    z: np.ndarray,
    x: np.ndarray,
    mean: np.ndarray,
    covariance: np.ndarray,
    prior_odds: np.ndarray,
    noise: float,
    odds_of_u: np.ndarray,
) -> None:
    """Draw a datum's z `[K]`, in place, given the mean and covariance of W; odds_of_u: logit u of a uniform u `[K]`."""
    left, along = x - z @ mean, covariance @ z
    variance = noise + z @ along
    for k in range(len(z)):
        others_left = left + z[k] * mean[k]
        others_along = along - z[k] * covariance[k]
        others_variance = variance - z[k] * (2 * along[k] - covariance[k, k])
        with_k = others_variance + 2 * others_along[k] + covariance[k, k], others_left - mean[k]
        without, having = (
            -len(x) / 2 * np.log(v) - rest @ rest / (2 * v) for v, rest in ((others_variance, others_left), with_k)
        )
        z[k] = float(prior_odds[k] + having - without + odds_of_u[k] > 0)
        left = with_k[1] if z[k] else others_left
        along = others_along + z[k] * covariance[k]
        variance = with_k[0] if z[k] else others_variance


@one_at_a_time
@torch.no_grad()
def gibbs(
    model: LatentFeatureModel,
    x: Tensor,
    *,
    observed: Tensor | None = None,
    num_samples: int = 1000,
    warmup_steps: int = 500,
    num_chains: int = 2,
    seed: int = 0,
    progress: bool = True,
) -> Any:
    """The posterior of a latent feature model by Gibbs sampling, for ArviZ.

    Args:
        model: see :class:`GibbsSampler`; σ is that of its likelihood as it is now, which a Normal that is learnt
            has of `fit`.
        x: the data `[N, D]`; what is nan was not observed.
        observed: booleans of x's shape, which of it was.
        num_samples: draws of each chain, after warm-up; at least 4.
        warmup_steps: sweeps before them.
        num_chains: how many, one after the other, each from a draw of the prior.
        seed: of all draws; torch's global generator is left as it was.
        progress: a progress bar.

    Returns:
        What ArviZ works on, with a posterior group: pi `[chain, draw, K]`, W `[chain, draw, K, D]`, z
        `[chain, draw, N, K]`, and num_features `[chain, draw]`, K₊, those that some datum has. Features have no order
        of their own, so that chains agree in num_features, not in π_k.

    Raises:
        TypeError: model is no LatentFeatureModel, or x no tensor.
        ValueError: as :class:`GibbsSampler`, or a number is out of range.
    """
    check_steps(num_samples, warmup_steps, num_chains)
    check_is("model", model, LatentFeatureModel)
    check_is("x", x, Tensor)
    x = hide(x, observed)
    if bool(x.isnan().all()):
        raise ValueError("x is nan everywhere: nothing was observed")
    with torch.random.fork_rng():  # a model that was not fitted begins at random, and not by the chain's seed
        x = model.as_data(x)
    draws: dict[str, list[np.ndarray]] = {"pi": [], "W": [], "z": []}
    with torch.random.fork_rng():
        for chain in range(num_chains):
            torch.manual_seed(seed + chain)
            sampler = GibbsSampler(model, x)
            kept: dict[str, list[Tensor]] = {name: [] for name in draws}
            steps = range(warmup_steps + num_samples)
            for step in track(steps, f"Gibbs, chain {chain + 1}", transient=True, disable=not is_drawn(progress)):
                sampler.sweep()
                for name in kept if step >= warmup_steps else ():
                    value: Tensor = getattr(sampler, name)
                    kept[name].append(value.to(torch.int8 if name == "z" else torch.float32, copy=True))
            for name, values in kept.items():
                draws[name].append(torch.stack(values).numpy())
    of_chains = [features.dataset(*of_chain) for of_chain in zip(*draws.values(), strict=True)]
    attrs = {"inference_library": "bbpyro", "prior": repr(model.prior), "seed": seed}
    return container.make({"posterior": joined(of_chains)}, attrs)


def _beta_prior(model: LatentFeatureModel) -> tuple[Tensor, Tensor]:
    prior = model.prior(model.num_features)
    if not isinstance(prior, torch.distributions.Beta):
        raise ValueError(f"prior is {model.prior!r}: Gibbs draws π of a Beta prior alone, such as IndianBuffet(2)")
    return prior.concentration1.double(), prior.concentration0.double()


def _scale(model: LatentFeatureModel, x: Tensor) -> float:
    if model.decoder is not None:
        raise ValueError("decoder: Gibbs is of the linear model; leave it out")
    if len(x) != model.num_data:
        wanted = (model.num_data, model.loc.shape[1])
        raise ValueError(f"x has shape {tuple(x.shape)}, and the model is of data of shape {wanted}")
    noise, is_linear = model.likelihood_of(torch.zeros_like(x))
    if not is_linear or len(scales := noise.scale.unique()) > 1:
        raise ValueError(
            f"likelihood: Gibbs wants a Normal around the sums themselves, of one scale, and this is another "
            f"{type(noise).__name__}"
        )
    return float(scales.item())
