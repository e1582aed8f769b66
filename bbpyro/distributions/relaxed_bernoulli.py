"""The relaxed Bernoulli, of the masks z."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.ops.provenance import get_provenance
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import lazy_property

from bbpyro import functional as f
from bbpyro.denormals import negligible
from bbpyro.distributions.masks import OfMasks
from bbpyro.distributions.remembering import floating, is_tied, log_odds
from bbpyro.distributions.together import Together, whole_of


class _RelaxedBernoulliDraw(torch.autograd.Function):
    """(z, logit z) of each part of a row of relaxed masks, logit z = logits/τ + noise; of them z alone is kept."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, noise: Tensor, temperature: float, floor: float, sizes: Sequence[int]
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.like, ctx.temperature = (logits.shape, logits.dtype), temperature
        log_odds = noise.detach().add_(logits.to(noise.dtype) / temperature)
        z = torch.sigmoid(log_odds)
        F.threshold(z, floor, 0.0, inplace=True)  # its gradient, z (1 - z) / τ, is as negligible
        parts = z.split(list(sizes), -1) if len(sizes) > 1 else (z,)
        odds = log_odds.split(list(sizes), -1) if len(sizes) > 1 else (log_odds,)
        ctx.save_for_backward(*parts)
        return *parts, *odds

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        shape, dtype = ctx.like
        masks = ctx.saved_tensors
        found = []
        for z, by_z, by_odds in zip(masks, grads[: len(masks)], grads[len(masks) :], strict=True):
            # summed where the logits were broadcast
            part_shape = shape if len(masks) == 1 else torch.Size([*shape[:-1], z.shape[-1]])
            terms = [] if by_z is None else [torch.ops.aten.sigmoid_backward(by_z, z)]
            terms += [] if by_odds is None else [by_odds]
            found.append(sum(terms[1:], terms[0]).sum_to_size(part_shape) if terms else z.new_zeros(part_shape))
        whole = found[0] if len(found) == 1 else torch.cat(found, -1)
        return (whole / ctx.temperature).to(dtype), None, None, None, None


def relaxed_bernoulli_draw(
    logits: Tensor, noise: Tensor, temperature: float, floor: float, sizes: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """(z, logit z) of relaxed masks, z = sigmoid(logits/τ + noise), in parts of these sizes in the last dimension.

    Args:
        logits: of any floating dtype; they broadcast to the shape of the noise.
        noise: logit(u)/τ, in the dtype of z; it is overwritten.
        temperature: τ.
        floor: what z is at most where it is 0.
        sizes: of the parts.
    """
    drawn = _RelaxedBernoulliDraw.apply(logits, noise, temperature, floor, sizes)
    return list(zip(drawn[: len(sizes)], drawn[len(sizes) :], strict=True))


class RelaxedBernoulli(OfMasks, TorchDistribution):
    """The relaxed (concrete) Bernoulli: z = sigmoid((logits + logit u) / τ), u uniform (arXiv 1611.00712).

    torch's own clamps the logits to ±16, which kills the gradient to a keep probability near 0 or 1; here they
    arrive as they are. Given `probs` that are a draw of :class:`Kumaraswamy`, its exact log-odds are used.

    Args:
        temperature: τ > 0, a number or a tensor that broadcasts.
        probs: keep probabilities in [0, 1]; or
        logits: their log-odds. Exactly one of the two.
        validate_args: as everywhere in torch.distributions.

    Raises:
        ValueError: not exactly one of `probs` and `logits` is given, or an argument is out of range.
    """

    arg_constraints = {
        "temperature": constraints.positive,
        "probs": constraints.unit_interval,
        "logits": constraints.real,
    }
    support = constraints.unit_interval
    has_rsample = True
    is_tied = False
    _together: tuple[Together, int] | None = None  # what this is drawn with, and as which part of it

    def __init__(
        self,
        temperature: Any,
        probs: Any = None,
        logits: Any = None,
        validate_args: bool | None = None,
    ) -> None:
        if (probs is None) == (logits is None):
            raise ValueError("RelaxedBernoulli wants exactly one of probs and logits")
        if logits is None:
            self.probs = floating(probs)
            self._odds, dtype = log_odds(self.probs), self.probs.dtype
        else:
            self.logits = self._odds = floating(logits)
            dtype = self._odds.dtype
        self.temperature = torch.as_tensor(temperature, dtype=dtype, device=self._odds.device)
        self._number = float(temperature) if isinstance(temperature, int | float) else None
        shape = self._odds.shape if self._number else torch.broadcast_shapes(self._odds.shape, self.temperature.shape)
        super().__init__(shape, validate_args=validate_args)

    @property
    def _dtype(self) -> torch.dtype:
        """That of the draws; exact log-odds may be of a wider one."""
        return self.temperature.dtype

    @lazy_property
    def logits(self) -> Tensor:
        """Log-odds of the keep probabilities."""
        return self._odds.to(self._dtype).expand(self.batch_shape)

    @lazy_property
    def probs(self) -> Tensor:
        """Keep probabilities, the sigmoid of the logits."""
        return torch.sigmoid(self.logits)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "RelaxedBernoulli":
        """The same distribution with a larger batch shape."""
        new = self._get_checked_instance(RelaxedBernoulli, _instance)
        new._odds, new.temperature, new._number = self._odds, self.temperature, self._number
        new.is_tied, new._together = self.is_tied, self._together
        super(RelaxedBernoulli, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def split(self, sizes: Sequence[int]) -> "list[RelaxedBernoulli]":
        """Distributions of successive parts of a vector `[K]`; the first draws of all of them are one draw of this."""
        together = Together(self, sizes)
        parts = []
        for i, odds in enumerate(self._odds.split(list(sizes), -1)):
            part = self.expand(self.batch_shape[:-1] + odds.shape[-1:])
            part._odds, part._together = odds, (together, i)
            parts.append(part)
        return parts

    def tied(self) -> "RelaxedBernoulli":
        """The same distribution, for a guide whose q(z|π) is the model's p(z|π).

        The two log-densities of such a draw are one number, subtracted from itself in the ELBO. A tied draw says
        so, and `log_prob` of it is 0 on both sides, in no time.
        """
        new = self.expand(self.batch_shape)
        new.is_tied = True
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws, `sample_shape + batch_shape`, that remember their log-odds; a negligible one is 0."""
        shape = self._extended_shape(torch.Size(sample_shape))
        taken = self._together and self._together[0].take(self._together[1], shape)
        z, z_log_odds = taken or self._draw(shape)
        z._log_odds, z._is_tied = z_log_odds, self.is_tied  # type: ignore[attr-defined]
        return z

    def _draw(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """A draw and its log-odds."""
        return self._draw_parts(shape, [shape[-1] if shape else 1])[0]

    def _draw_parts(self, shape: torch.Size, sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
        """The same of vectors end to end, each its own."""
        uniform = torch.rand(shape, dtype=self._dtype, device=self._odds.device)
        noise = uniform.logit_(eps=torch.finfo(uniform.dtype).tiny).div_(self.temperature)
        floor = negligible(self._dtype)
        if self._number is not None:
            return relaxed_bernoulli_draw(self._odds, noise, self._number, floor, sizes)
        z_log_odds = self._odds.to(self._dtype) / self.temperature + noise
        z = torch.sigmoid(z_log_odds)
        F.threshold(z.data, floor, 0.0, inplace=True)  # its gradient, z (1 - z) / τ, is as negligible
        return list(zip(z.split(sizes, -1), z_log_odds.split(sizes, -1), strict=True)) if shape else [(z, z_log_odds)]

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of `value`; of a tied draw, 0."""
        if is_tied(value):
            return value.new_zeros(()).expand(value.shape)
        if self._validate_args:
            self._validate_sample(value)
        return f.relaxed_bernoulli_log_prob(log_odds(value), self.temperature, self.logits)


def relaxed_bernoullis(temperature: float, probs: Mapping[str, Tensor]) -> dict[str, RelaxedBernoulli]:
    """A relaxed Bernoulli for each vector of keep probabilities, by name; alike vectors are drawn from as one."""
    kinds = {(pi.dim(), pi.dtype, pi.device, get_provenance(pi)) for pi in probs.values()}
    if len(probs) < 2 or {(dim, provenance) for dim, _, _, provenance in kinds} != {(1, frozenset())} or len(kinds) > 1:
        return {name: RelaxedBernoulli(temperature, pi) for name, pi in probs.items()}
    pi = whole_of(probs.values())
    if pi is None:
        logits = torch.cat([log_odds(pi) for pi in probs.values()]).to(next(iter(probs.values())).dtype)
        whole = RelaxedBernoulli(temperature, logits=logits)
    else:
        whole = RelaxedBernoulli(temperature, pi)
    return dict(zip(probs, whole.split([len(pi) for pi in probs.values()]), strict=True))
