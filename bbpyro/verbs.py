"""One verb for both models: bbpyro.fit(bnn, x, y) trains a network, and bbpyro.fit(model, x) latent features."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload

from bbpyro.latent_features import LatentFeatureModel

P = ParamSpec("P")
Q = ParamSpec("Q")
R_co = TypeVar("R_co", covariant=True)
S_co = TypeVar("S_co", covariant=True)


class Verb(Protocol[P, R_co, Q, S_co]):
    """A function of either model."""

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *args: Q.args, **kwargs: Q.kwargs) -> S_co: ...


def of_either(name: str, of_network: Callable[P, R_co], of_features: Callable[Q, S_co]) -> Verb[P, R_co, Q, S_co]:
    """The first function, which is the second where the first argument is a LatentFeatureModel, or a list of such."""

    @functools.wraps(of_network)
    def verb(*args: Any, **kwargs: Any) -> Any:
        model = args[0] if args else kwargs.get("model")
        if isinstance(model, Sequence) and model:
            model = model[0]
        chosen: Any = of_features if isinstance(model, LatentFeatureModel) else of_network
        return chosen(*args, **kwargs)

    verb.__name__ = name
    for function in (verb, of_features):
        _call_it(name, function)
    either = f"Of a LatentFeatureModel it is `{name}{inspect.signature(of_features)}`"
    verb.__doc__ = f"{of_network.__doc__}\n    {either}\n\n    {of_features.__doc__}"
    return cast(Verb[P, R_co, Q, S_co], verb)


def _call_it(name: str, function: Any) -> None:
    """Have Python name a function so, and what it wraps, where arguments do not fit."""
    while function is not None:
        function.__qualname__ = name
        function = getattr(function, "__wrapped__", None)
