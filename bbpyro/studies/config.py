"""The settings of a study: those its runs share, the priors that are compared, and how many seeds each has."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Self

from bbpyro import runs


@dataclass(frozen=True)
class StudyConfig(runs.Settings):
    """Everything that decides the numbers of a study."""

    prior: tuple[str, ...] = ("Beta(0.0001, 1)", "IndianBuffet(5)", "FixedRate(0.5)")
    """The priors on π, each as bbpyro train takes it."""
    seeds: int = 3
    """Each prior is trained from the seeds 0, 1, … below this number."""

    def validate(self) -> None:
        """Raise a ValueError that names the first setting out of range."""
        super().validate()
        if not 1 <= self.seeds <= 10_000:
            raise ValueError(f"seeds is {self.seeds}, wanted at least 1, at most 10,000")
        if not self.prior:
            raise ValueError("prior: there is none to compare; name at least one")
        names: dict[str, str] = {}
        for text, config in zip(self.prior, self._first_seeds(), strict=True):
            config.validate()
            if slug(config.prior) in names:
                raise ValueError(f"prior: {names[slug(config.prior)]} and {text} are the same; name each once")
            names[slug(config.prior)] = text

    def tasks(self) -> dict[str, runs.TrainConfig]:
        """The runs of the study, by the name of their folder below it."""
        return {
            f"{slug(config.prior)}/seed-{seed}": dataclasses.replace(config, seed=seed)
            for config in self._first_seeds()
            for seed in range(self.seeds)
        }

    def extended_by(self, other: "StudyConfig") -> Self:
        """This study with the priors and seeds of another too.

        Raises:
            ValueError: another setting differs.
        """
        mine, theirs = self.canonical(), other.canonical()
        for field in dataclasses.fields(runs.Settings):
            one, two = getattr(mine, field.name), getattr(theirs, field.name)
            if one != two:
                name = field.name.replace("_", "-")
                raise ValueError(f"{name} is {two}, but {one} in the study that is there; name another folder")
        added = tuple(prior for prior in theirs.prior if prior not in mine.prior)
        return dataclasses.replace(mine, prior=mine.prior + added, seeds=max(mine.seeds, theirs.seeds))

    def canonical(self) -> Self:
        """The same settings in one spelling, of use from any working directory."""
        spelled = tuple(config.prior for config in self._first_seeds())
        return dataclasses.replace(self.with_absolute_paths(), prior=spelled)

    def check_modules(self) -> None:
        """Raise a ValueError, which names the setting, where a module of the user's cannot be imported from here."""
        for config in self._as_typed():
            config.check_modules()

    def _first_seeds(self) -> list[runs.TrainConfig]:
        return [config.canonical() for config in self._as_typed()]

    def _as_typed(self) -> list[runs.TrainConfig]:
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(runs.Settings)}
        return [runs.TrainConfig(**shared, prior=prior) for prior in self.prior]

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> Self:
        """As for a run; of one prior the list may be left out."""
        named = settings.get("prior", cls.prior)
        if named in ([], ()):
            raise ValueError("prior: there is none to compare; name at least one")
        return super().from_json({**settings, "prior": (named,) if isinstance(named, str) else named})


def slug(text: str) -> str:
    """What a prior is called in the file system."""
    return re.sub(r"[^\w.+-]+", "-", text.replace("*", "all")).strip("-").lower()
