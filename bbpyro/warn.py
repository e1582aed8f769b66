"""Warnings that name the line of the user's that they are about, however many calls lie between."""

import sys
import warnings

_OURS = {"bbpyro", "torch", "contextlib"}  # torch's and contextlib's frames are those of our decorators


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn of what the first caller outside of this package did."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _OURS:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
