"""Where SVI of latent features begins: annealed coordinate ascent, for a Gaussian likelihood of a linear f.

There, and under a Beta prior, what is best of q(w_k), q(z_nk) and q(π_k) given all others is known (Doshi-Velez and
others 2009, "Variational inference for the Indian buffet process"):

    v_kd = 1 / (1/s² + Σ_n λ_nk / σ²)        m_kd = v_kd Σ_n λ_nk r_nkd / σ²        r_nkd = x_nd - Σ_{j≠k} λ_nj m_jd
    logit λ_nk = E[log π_k - log(1 - π_k)] + (r_nk·m_k - (|m_k|² + Σ_d v_kd) / 2) / (c σ²)
    q(π_k) = Beta(c1 + Σ_n λ_nk, c0 + N - Σ_n λ_nk)

with sums over what of x was observed. A sweep does this for each feature in turn. c is the weight of the KL of z, which
falls to 1: while it is large no feature pays, and those that the data want come one by one.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Beta, kl_divergence

from bbpyro.latent_features import LatentFeatureModel
from bbpyro.likelihoods import Normal

_SPREADS = (3.0, 1.0)  # of W where starts begin, in turn, in standard deviations of x
_SHARE = 0.12  # λ there
_LOG_B, _NUM_HALVINGS = (-30.0, 60.0), 60
_OF_NONE, _SWEEPS_AFTER_MOVE, _NUM_OPPOSED = 1e-3, 10, 2
_NUM_TIDIED = 2
_NUM_TOGETHER = 8  # moves that are swept side by side
_LEAST = 1e-12  # λ that SVI begins with
_HALF = 0.5  # of the sweeps: until then the KL falls, and a σ that is learnt stays


def scale_of_noise(model: LatentFeatureModel, x: Tensor) -> Tensor | None:
    """σ of each number of a datum `[D]`, as it is now; None where the likelihood is not Gaussian, or f not linear."""
    given, is_linear = model.likelihood_of(torch.zeros_like(x))
    return given.scale[0].detach().clone() if is_linear else None


def noise_of(model: LatentFeatureModel, x: Tensor) -> Tensor | None:
    """The σ that coordinate ascent begins with, `[D]`; None where it is not possible.

    One that is learnt, and was given no start, begins at the square root of the median variance of x in all directions:
    most of them have no features, and if they do, it is too large, and comes down later.
    """
    if model.encoder is not None or not isinstance(model.prior(model.num_features), Beta):
        return None
    scale = scale_of_noise(model, x)
    learnt = learnt_normal(model)
    if scale is not None and learnt is not None and learnt.start is None:
        return variances(x).median().sqrt().clamp_min(1e-6).to(scale).expand_as(scale)
    return scale


def variances(x: Tensor) -> Tensor:
    """Those of x `[N, ...]` in all directions, ascending; what is nan is as its mean is."""
    mean = x.nanmean(0).nan_to_num()
    centred = torch.where(x.isnan(), 0.0, x - mean).flatten(1).double()
    return torch.linalg.eigvalsh(centred.T @ centred / len(x))


@dataclass
class Ascent:
    """q of one start: W ~ N(m, v) `[K, D]`, z ~ Bernoulli(λ) `[N, K]`, and σ² `[D]`."""

    x: Tensor
    observed: Tensor
    prior: TorchDistribution
    weight_scale: float
    m: Tensor
    v: Tensor
    share: Tensor
    noise: Tensor

    @classmethod
    def begun(cls, model: LatentFeatureModel, x: Tensor, noise: Tensor, spread: float = _SPREADS[0]) -> "Ascent":
        """Begin with features at random, as far apart as `spread` says, few of which a datum has."""
        s, observed = model.weight_scale, (~x.isnan()).to(x)
        m = spread * variances(x).mean().sqrt().to(x) * torch.randn_like(model.loc)
        share = _SHARE * (1 + 0.1 * torch.randn(len(x), model.num_features, dtype=x.dtype, device=x.device))
        prior = model.prior(model.num_features)
        return cls(x.nan_to_num(), observed, prior, s, m, 0.01 * s**2 * torch.ones_like(m), share, noise.square())

    def sweep(self, weight: float) -> None:
        """Improve each feature once, in an order drawn at random, where the KL of z weighs this."""
        _sweep([self], weight)

    def tidied(self, max_sweeps: int) -> "Ascent":
        """The same, or what has a higher ELBO, of moves that no sweep makes since they change a feature for all data.

        One is to do without a feature k. The other is to turn it round within another, j: data that have j and not k
        get -w_k, those that have both do not, and w_j becomes w_j + w_k, which may be nothing, so that j can go.

        Args:
            max_sweeps: after all moves together; each has ten.
        """
        best, elbo, tried, is_better = self, self.elbo(), 0, True
        while is_better:
            is_better = False
            moves = (move for k in best._used() for move in best._moves(k))
            while not is_better and (together := list(itertools.islice(moves, _NUM_TOGETHER))):
                if tried + _SWEEPS_AFTER_MOVE * len(together) > max_sweeps:
                    return best
                tried += _SWEEPS_AFTER_MOVE * len(together)
                for _ in range(_SWEEPS_AFTER_MOVE):
                    _sweep(together, 1.0)
                move = max(together, key=Ascent.elbo)
                if (found := move.elbo()) > elbo + 1e-3 * len(self.x):
                    best, elbo, is_better = move, found, True
        return best

    def _moves(self, k: int) -> "Iterator[Ascent]":
        """Without k, and with it turned round within those features that it takes most away from."""
        yield self._without(k)
        along = torch.nn.functional.cosine_similarity(self.m, self.m[k], dim=1)
        for j in sorted((j for j in self._used() if j != k), key=lambda j: along[j].item())[:_NUM_OPPOSED]:
            turned = self._turned(k, j)
            yield turned._without(j)
            yield turned

    def _used(self) -> list[int]:
        used: list[int] = (self.share > 0.5).any(0).nonzero()[:, 0].tolist()
        return used

    def _without(self, k: int) -> "Ascent":
        other = replace(self, m=self.m.clone(), v=self.v.clone(), share=self.share.clone())
        other.share[:, k], other.m[k] = _OF_NONE, 0.0
        return other

    def _turned(self, k: int, j: int) -> "Ascent":
        other = replace(self, m=self.m.clone(), v=self.v.clone(), share=self.share.clone())
        other.m[j] += self.m[k]
        other.m[k] *= -1
        other.share[:, k] = self.share[:, j] * (1 - self.share[:, k])
        return other

    def learn_noise(self) -> None:
        """Make σ, one for all numbers, what is best."""
        self.noise = (self._squares().sum() / self.observed.sum()).expand_as(self.noise)

    def q_pi(self) -> Beta:
        """q(π)."""
        prior: Any = self.prior
        on = self.share.sum(0)
        return Beta(prior.concentration1 + on, prior.concentration0 + (len(self.share) - on), validate_args=False)

    def elbo(self) -> float:
        """In nats, of all data."""
        densities = -(self._squares() / self.noise + self.observed * (2 * torch.pi * self.noise).log()) / 2
        q_weights = torch.distributions.Normal(self.m, self.v.sqrt())
        p_weights = torch.distributions.Normal(torch.zeros_like(self.m), self.weight_scale)
        q = self.q_pi()
        total = torch.digamma(q.concentration1 + q.concentration0)
        log_pi, log_rest = torch.digamma(q.concentration1) - total, torch.digamma(q.concentration0) - total
        entropy = -torch.xlogy(self.share, self.share) - torch.xlogy(1 - self.share, 1 - self.share)
        z = self.share @ log_pi + (1 - self.share) @ log_rest
        kl = kl_divergence(q_weights, p_weights).sum() + kl_divergence(q, self.prior).sum()
        return (densities.sum() + z.sum() + entropy.sum() - kl).item()

    def _left(self) -> Tensor:
        """What of x the mean of all features leaves, 0 where nothing was observed."""
        return (self.x - self.share @ self.m) * self.observed

    def _squares(self) -> Tensor:
        """E[(x - Σ_k z_k w_k)²] of each number."""
        spread = (self.share * (1 - self.share)) @ self.m.square() + self.share @ self.v
        return self._left().square() + spread * self.observed

    @torch.no_grad()
    def put_into(self, model: LatentFeatureModel) -> None:
        """Have the model's guide be this q, or, of π, Kumaraswamy distributions like it."""
        model.loc.copy_(self.m / self.weight_scale)
        model.log_scale.copy_(self.v.sqrt().log() - torch.tensor(self.weight_scale).log())
        # A λ of 1e-6 would still add to the variance, where the noise is small beside W.
        model.logits.copy_(torch.logit(self.share.double().clamp(_LEAST, 1 - _LEAST)))
        a, b = kumaraswamy_like(self.q_pi())
        model.log_concentration1.copy_(a.log())
        model.log_concentration0.copy_(b.log())
        learnt = learnt_normal(model)
        if learnt is not None:
            learnt.log_scale.copy_(self.noise[0].log() / 2)


def _sweep(starts: Sequence[Ascent], weight: float) -> None:
    """Improve each feature of S starts of one model once, side by side, and in the same order."""
    x, observed, prior = starts[0].x, starts[0].observed, starts[0].weight_scale ** -2
    share, m, v, noise = (torch.stack([getattr(s, name) for s in starts]) for name in ("share", "m", "v", "noise"))
    precision, is_whole = 1 / noise, bool(observed.all())
    left = (x - share @ m) * observed  # [S, N, D], without the mean of any feature but the one in turn
    p: Any = starts[0].prior
    c1, c0 = p.concentration1.tolist(), (p.concentration0 + len(x)).tolist()
    shares, means = x.new_zeros(*share.shape[:2], 2), x.new_zeros(len(starts), 2, x.shape[1])
    for k in torch.randperm(m.shape[1]).tolist():
        shares[..., 1], means[:, 1] = share[..., k], m[:, k]
        left.baddbmm_(shares, means)  # the one before goes, and this one comes
        if not is_whole:
            left *= observed
        v[:, k] = 1 / (prior + (share[..., k] @ observed) * precision)
        m[:, k] = v[:, k] * precision * (share[:, None, :, k] @ left)[:, 0]
        along = (left @ (m[:, k] * precision)[..., None])[..., 0]
        gain = along - ((m[:, k] ** 2 + v[:, k]) * precision) @ observed.T / 2
        on = share[..., k].sum(1, keepdim=True)
        odds = torch.digamma(c1[k] + on) - torch.digamma(c0[k] - on)
        share[..., k] = torch.sigmoid(odds + gain / weight)
        shares[..., 0], means[:, 0] = -share[..., k], m[:, k]
    for i, start in enumerate(starts):
        start.share, start.m, start.v = share[i], m[i], v[i]


def learnt_normal(model: LatentFeatureModel) -> Normal | None:
    """The likelihood, where it is a Normal of bbpyro's whose σ is learnt."""
    given = model.likelihood
    if isinstance(given, Normal) and given.known_scale is None and given.log_scale.requires_grad:
        return given
    return None


def seed_of_start(seed: int, start: int) -> int:
    """The seed of a start, which no start of another seed has."""
    return int(np.random.SeedSequence([seed, start]).generate_state(1)[0])


@torch.no_grad()
def best_swept(
    model: LatentFeatureModel,
    x: Tensor,
    num_starts: int,
    num_sweeps: int,
    kl_start: float,
    noise: Tensor,
    seed: int,
    advance: Callable[[], None],
) -> Ascent:
    """Of several starts, swept so many times each, and the best two tidied, that with the highest ELBO.

    Args:
        model: whose priors these are of.
        x: the data `[N, D]`, nan where they were not observed.
        num_starts: how many.
        num_sweeps: of each, of which the KL weighs `kl_start` in the first, and 1 from half of them on.
        kl_start: see there.
        noise: σ of each number, which is held in that half, and then learnt where it is.
        seed: of the starts, see :func:`seed_of_start`.
        advance: called after each sweep.
    """
    swept = []
    for start in range(num_starts):
        torch.manual_seed(seed_of_start(seed, start))
        swept.append(Ascent.begun(model, x, noise, _SPREADS[start % len(_SPREADS)]))
    for i in range(num_sweeps):
        progress = i / num_sweeps
        _sweep(swept, 1 + (kl_start - 1) * max(0.0, 1 - progress / _HALF))
        for each in swept:
            if progress >= _HALF and learnt_normal(model) is not None:
                each.learn_noise()
            advance()
    best = sorted(swept, key=Ascent.elbo)[-_NUM_TIDIED:]
    return max((each.tidied(num_starts * num_sweeps // len(best)) for each in best), key=Ascent.elbo)


def kumaraswamy_like(of: Beta) -> tuple[Tensor, Tensor]:
    """Concentrations a, b of the Kumaraswamy distribution whose log π has the mean and the variance that it has here.

    Of π ~ Kumaraswamy(a, b), π^a ~ Beta(1, b): its log has mean ψ(1) - ψ(1+b) and variance ψ'(1) - ψ'(1+b), so that b
    is where variance/mean² is what is wanted; that falls in b, which is found by halving an interval of log b.
    """
    c1, total = of.concentration1.double(), (of.concentration1 + of.concentration0).double()
    mean = torch.digamma(c1) - torch.digamma(total)
    wanted = (torch.polygamma(1, c1) - torch.polygamma(1, total)) / mean.square()
    low, high = torch.full_like(c1, _LOG_B[0]), torch.full_like(c1, _LOG_B[1])
    for _ in range(_NUM_HALVINGS):
        middle = (low + high) / 2
        mean_log, variance = _moments_of_log(middle.exp())
        is_above = variance / mean_log.square() > wanted
        low, high = torch.where(is_above, middle, low), torch.where(is_above, high, middle)
    b = low.exp()
    return _moments_of_log(b)[0] / mean, b


def _moments_of_log(b: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the variance of log t, t ~ Beta(1, b)."""
    one = torch.ones_like(b)
    return torch.digamma(one) - torch.digamma(1 + b), torch.polygamma(1, one) - torch.polygamma(1, 1 + b)
