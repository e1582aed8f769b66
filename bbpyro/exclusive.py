"""One at a time: Pyro's stack of handlers and torch's generator are the process's, not a thread's."""

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_lock = threading.RLock()
P = ParamSpec("P")
R = TypeVar("R")


def one_at_a_time(function: Callable[P, R]) -> Callable[P, R]:
    """Have a function wait while another thread is in it, or in any other of these."""

    @functools.wraps(function)
    def waiting(*args: P.args, **kwargs: P.kwargs) -> R:
        with _lock:
            return function(*args, **kwargs)

    return waiting
