"""What is wrong with a run of a study that its scores alone do not show."""

from collections.abc import Mapping
from typing import Any

MARKS = {
    "at_majority": ("†", "no better than always answering the most frequent class"),
    "emptied": ("‡", "a layer has no unit left, so the answer is the same to every input"),
    "worse": ("§", "clearly worse than the plain network that it started from"),
}


def faults(run: Mapping[str, Any]) -> list[str]:
    """Which of MARKS are a run's; `majority_error`, where there is one, is the error of the most frequent class."""
    emptied = any(str(name).startswith("kept ") and count == 0 for name, count in run.items())
    at_majority = run["error"] >= run.get("majority_error", float("inf")) - 1e-9
    found = [name for name, is_so in (("at_majority", at_majority), ("emptied", emptied)) if is_so]
    is_worse = isinstance(run.get("warning"), str)  # what fit() was judged to come to
    return found or ["worse"] * is_worse


def signs(names: Any) -> str:
    """The signs of faults."""
    return "".join(sign for name, (sign, _) in MARKS.items() if name in names)
