"""How much memory this machine has to give, and a refusal beforehand where more is wanted."""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

GIB = 2**30


def check(wanted: float, what: str, remedy: str) -> None:
    """Raise a ValueError, which names `what` and the `remedy`, where more bytes are wanted than are free."""
    available = free()
    if wanted > available:
        raise ValueError(
            f"{what} would take about {wanted / GIB:,.1f} GiB of memory, and {available / GIB:,.1f} are free; {remedy}"
        )


def free() -> int:
    """The bytes that this process may still take, by the machine, its control groups and its own limits."""
    return max(0, min([_of_machine(), *_of_groups(), *_of_limits()]))


def _of_machine() -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # where it is not told, as on macOS


def _of_groups() -> Iterator[int]:
    """By the control groups of either version that this process is in; what their caches hold can be had."""
    top = Path("/sys/fs/cgroup")
    mine = [line.split(":", 2) for line in _read(Path("/proc/self/cgroup")).splitlines()]
    places = {top, top / "memory"}
    places |= {top / path.lstrip("/") for _, controllers, path in mine if not controllers}
    places |= {top / "memory" / path.lstrip("/") for _, controllers, path in mine if "memory" in controllers.split(",")}
    names = {"memory.max": "memory.current", "memory.limit_in_bytes": "memory.usage_in_bytes"}
    for place in places:
        cached = dict(line.split() for line in _read(place / "memory.stat").splitlines())
        for limit, used in names.items():
            numbers = _read(place / limit).strip(), _read(place / used).strip()
            if all(number.isdigit() for number in numbers):
                yield int(numbers[0]) - int(numbers[1]) + int(cached.get("inactive_file", 0))


def _of_limits() -> Iterator[int]:
    """By `ulimit -v`, of which what is mapped already counts."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    mapped = _read(Path("/proc/self/statm")).split()
    if limit != resource.RLIM_INFINITY and mapped:
        yield limit - int(mapped[0]) * os.sysconf("SC_PAGE_SIZE")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
