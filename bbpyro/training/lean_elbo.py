"""Trace_ELBO without what a model like ours does not need, and so at a smaller cost for each site."""

import math
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_ELBO
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from pyro.util import warn_if_nan
from torch import Tensor

from bbpyro.distributions import Delta, Masks, SphericalNormal, is_part_of_draw, is_tied, joint_log_prob


class LeanTraceELBO(Trace_ELBO):
    """Trace_ELBO, for less: the same loss and gradients of the same draws, where all draws are reparameterised.

    No trace is made. Each site's log-density is summed once, and differentiated without a graph of the sums; that of a
    tied mask, which model and guide have in common, is left out. The gradient of a spherical Gaussian over a parameter
    is added to what the parameter has. Several particles, draws without reparameterisation and Pyro's validation are
    left to Trace_ELBO. Arguments are those of Trace_ELBO.
    """

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The loss, -ELBO, of one draw; its gradient is added to those of the parameters."""
        found = self._terms(model, guide, args, kwargs)
        if found is None:
            return self._by_traces(model, guide, *args, **kwargs)
        terms, has_parameters = found
        loss = terms.sum()
        if has_parameters:
            terms.backward()
        if math.isnan(loss):
            warn_if_nan(torch.tensor(loss), "loss")
        return loss

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The loss as a tensor, for whoever wants its gradient from autograd, as DistributedDataParallel does."""
        found = self._terms(model, guide, args, kwargs, by_autograd=True)
        if found is None:
            by_traces: Tensor = super().differentiable_loss(model, guide, *args, **kwargs)
            return by_traces
        return found[0].differentiable_sum()

    def _terms(
        self, model: Any, guide: Any, args: Any, kwargs: Any, by_autograd: bool = False
    ) -> "tuple[_Terms, bool] | None":
        """The terms of the loss of one draw, and whether there are parameters; None where they want traces."""
        is_other = self.num_particles > 1 or self.retain_graph or is_validation_enabled()
        if is_other or isinstance(poutine.unwrap(guide), Messenger):
            return None
        drawn = _Sites({})
        with drawn:
            guide(*args, **kwargs)
        if not all(site["fn"].has_rsample and not site["is_observed"] for site in drawn.sites.values()):
            return None
        scored = _Sites(drawn.sites)
        with scored:
            model(*args, **kwargs)
        terms = _Terms(by_autograd)
        for sign, of in ((-1.0, scored), (1.0, drawn)):
            for site in of.sites.values():
                terms.add(site, sign)
        return terms, drawn.has_parameters or scored.has_parameters

    def _by_traces(self, *args: Any, **kwargs: Any) -> float:
        loss: float = super().loss_and_grads(*args, **kwargs)
        return loss


class _Sites(Messenger):
    """Keeps the sites that are sampled, and gives those their value that have been drawn."""

    def __init__(self, drawn: dict[str, Any]) -> None:
        super().__init__()
        self.drawn = drawn
        self.sites: dict[str, Any] = {}
        self.has_parameters = False

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.drawn and not msg["is_observed"]:
            msg["value"], msg["done"] = self.drawn[msg["name"]]["value"], True

    def _pyro_post_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg) and not msg["infer"].get("_do_not_trace"):
            self.sites[msg["name"]] = msg

    def _pyro_post_param(self, msg: Any) -> None:
        self.has_parameters = True


class _Terms:
    """A weighted sum of log-densities, and its gradient; `by_autograd`, of all of them, or only of what wants it."""

    def __init__(self, by_autograd: bool = False) -> None:
        self._by_autograd = by_autograd
        self._constant = 0.0
        self._sums: list[Tensor] = []
        self._weights: list[float] = []
        self._leaves: dict[float, list[Tensor]] = {}  # those under a Gaussian, by what share of each its gradient gets
        self._parts: dict[Any, list[tuple[Any, Tensor]]] = {}  # of joint draws, by weight, program and draw

    def add(self, site: Any, sign: float) -> None:
        """Count the log-density of a site, scaled and masked, with this sign."""
        fn, value, scale, mask = site["fn"], site["value"], site["scale"], site["mask"]
        if isinstance(fn, Masks) and is_tied(value):
            return
        if type(fn) is Delta and fn.scores_nothing and value is fn.v:
            return
        if mask is not None or not isinstance(scale, int | float):
            log_prob = fn.log_prob(value, *site["args"], **site["kwargs"])
            self._count(scale_and_mask(log_prob, scale, mask), sign)
        elif not self._by_autograd and _is_gaussian_of_leaf(fn, value):
            self._add_gaussian(fn, value, sign * scale)
        elif is_part_of_draw(fn, value):
            whole = value._part_of[0]
            self._parts.setdefault((sign * scale, sign < 0, id(whole)), []).append((fn, value))
        else:
            self._count(fn.log_prob(value, *site["args"], **site["kwargs"]), sign * scale)

    def _count(self, log_prob: Tensor, weight: float) -> None:
        self._sums.append(log_prob.sum() if log_prob.dim() else log_prob)
        self._weights.append(weight)

    def _add_gaussian(self, fn: SphericalNormal, leaf: Tensor, weight: float) -> None:
        """Count log N(leaf; 0, scale² I) = -|leaf|² / (2 scale²) - numel log(scale √2π)."""
        precision = fn.scale**-2
        self._leaves.setdefault(-weight * precision, []).append(leaf)
        flat = leaf.detach().flatten()
        self._count(torch.dot(flat, flat), -weight * precision / 2)
        self._constant -= weight * leaf.numel() * math.log(fn.scale * math.sqrt(2 * math.pi))

    def _count_parts(self) -> None:
        """Count the parts of joint draws, those of one draw as one where all are there."""
        for (weight, *_), pairs in self._parts.items():
            log_prob = joint_log_prob([fn.base_dist for fn, _ in pairs], [value for _, value in pairs])
            for each in [fn.log_prob(value) for fn, value in pairs] if log_prob is None else [log_prob]:
                self._count(each, weight)
        self._parts.clear()

    def sum(self) -> float:
        """The sum, in one look at the device."""
        self._count_parts()
        if not self._sums:
            return self._constant
        with torch.no_grad():
            first, sums = self._sums[0], self._sums
            if any(total.dtype != first.dtype or total.device != first.device for total in sums):
                sums = [total.to(first.device, torch.float64) for total in sums]
            found = torch.stack(sums).double()
            return torch.dot(found, found.new_tensor(self._weights)).item() + self._constant

    def differentiable_sum(self) -> Tensor:
        """The sum, with the graph of its gradient."""
        self._count_parts()
        return torch.stack([total * weight for total, weight in zip(self._sums, self._weights, strict=True)]).sum()

    def backward(self) -> None:
        """Add the sum's gradient to those of the parameters."""
        learnt = [pair for pair in zip(self._sums, self._weights, strict=True) if pair[0].requires_grad]
        if learnt:
            torch.autograd.backward([total for total, _ in learnt], [total.new_tensor(w) for total, w in learnt])
        for share, leaves in self._leaves.items():
            gradients = [_dense_gradient(leaf) for leaf in leaves]
            torch._foreach_add_(gradients, [leaf.detach() for leaf in leaves], alpha=share)


def _dense_gradient(leaf: Tensor) -> Tensor:
    if leaf.grad is None or leaf.grad.is_sparse:
        leaf.grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.to_dense()
    return leaf.grad


def _is_gaussian_of_leaf(fn: Any, value: Tensor) -> bool:
    """Whether the gradient of a log-density is a share of the value, and can be added to the gradient that this has."""
    if type(fn) is not SphericalNormal or value.shape != fn.event_shape:
        return False
    # A hook is to see the whole gradient, so that such a leaf is left to autograd.
    has_hooks = value._backward_hooks or value._post_accumulate_grad_hooks
    return value.is_leaf and value.requires_grad and not has_hooks
