"""Methods that Pyro runs as programs, and that torch knows as modules of their network."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_jit: Any = torch.jit  # whose types leave is_tracing out


class program:
    """A method that, taken from its network, is an nn.Module: Trace_ELBO()(bnn.model, bnn.guide).parameters() has it.

    A bound method would hide the network from whatever asks a model or a guide for its parameters.
    """

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method, self.__doc__ = method, method.__doc__

    def __get__(self, network: Any, owner: type | None = None) -> Any:
        """The method, bound to a network; of the class itself, the function."""
        return self.method if network is None else _Bound(self.method, network)


class _Bound(nn.Module):
    def __init__(self, method: Callable[..., Any], network: nn.Module) -> None:
        super().__init__()
        self.method, self.network, self.__doc__ = method, network, method.__doc__

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if _jit.is_tracing():
            raise ValueError("JitTrace_ELBO: torch.jit cannot compile this model; use Trace_ELBO, as bbpyro.fit does")
        return self.method(self.network, *args, **kwargs)
