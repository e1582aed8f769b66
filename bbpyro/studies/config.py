"""The settings of a study: those its runs share, what is compared, and how many seeds each has."""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from bbpyro import priors, runs, settings
from bbpyro.studies import axes
from bbpyro.studies.axes import FOLD, slug

_MOST = 10_000  # seeds, and products of values
_LONGEST = 200  # bytes in the name of a folder; many file systems take 255
NO_PRIOR = "no prior"  # what stands for the prior of masks that have no π


@dataclass(frozen=True)
class Candidate:
    """One of what a study compares; its runs differ in their seeds, and validation folds, alone.

    Attributes:
        folder: of its runs, below those of the study.
        shown: by axis ("prior", "point", a setting's name), its value as a table shows it.
        config: the settings of its runs, of the first seed and fold.
    """

    folder: str
    shown: Mapping[str, Any]
    config: runs.TrainConfig

    @property
    def budget(self) -> str:
        """The epochs of pretraining and of SVI: "10 + 60"; of several starts "50 + 800, 10 + 800"."""
        each = self.config.trainings()
        return ", ".join(f"{0 if one.pretrained else one.pretrain_epochs} + {one.epochs}" for one in each)


@dataclass(frozen=True)
class StudyConfig(runs.Settings, settings.Study):
    """Everything that decides the numbers of a study: the product of its priors, points and varied settings.

    What is in `vary` or in a point takes the place of the setting that all runs share. A family of masks without π is
    there once, whatever the study's priors.
    """

    @property
    def is_product(self) -> bool:
        """Whether anything but the prior is compared."""
        return bool(self.vary or self.points)

    @property
    def keys(self) -> list[str]:
        """The columns that tell rows of its table apart: axes of more than one value; where none is, the prior."""
        is_shared = any("prior" not in own for own in self.points.values()) or not self.points
        sizes = {"prior": len(self.prior) if is_shared else 1, "point": len(self.points)}
        sizes |= {name: len(values) for name, values in self.vary.items() if name != FOLD}
        return [axes.column(name) for name, size in sizes.items() if size > 1] or ["prior"]

    @property
    def compared(self) -> list[str]:
        """The settings that are not the same in all its runs, but for prior, seed and fold."""
        names = [*self.vary, *(name for own in self.points.values() for name in own if name != "prior")]
        return [name for name in dict.fromkeys(names) if name != FOLD or FOLD not in self.vary]

    @property
    def told(self) -> list[str]:
        """What each point is made of."""
        spelled = {
            point: [f"{name.replace('_', ' ')} {axes.text(name, value)}" for name, value in own.items()]
            for point, own in self.points.items()
        }
        return [f"{point}: {', '.join(parts) or 'as all runs'}" for point, parts in spelled.items()]

    def validate(self) -> None:
        """Raise a ValueError that names the first setting out of range."""
        if not 1 <= self.seeds <= _MOST:
            raise ValueError(f"seeds is {self.seeds}, wanted at least 1, at most 10,000")
        if not self.prior:
            raise ValueError("prior: there is none to compare; name at least one")
        self._check_axes()
        for prior in (*self.prior, *(own["prior"] for own in self.points.values() if "prior" in own)):
            runs.TrainConfig(prior=prior).make_prior()  # which names the setting
        found: dict[runs.TrainConfig, Candidate] = {}
        for typed, each in zip(self._typed(), self.candidates(), strict=True):
            for fold in self.vary.get(FOLD, [each.config.validation_fold]):
                dataclasses.replace(each.config, validation_fold=fold).validate()
            if len(each.folder.rsplit("/", 1)[-1].encode()) > _LONGEST and self.is_product:
                raise ValueError(f"vary: the values make a name too long for a folder, {each.folder}; vary fewer")
            weight_prior = axes.canonical("weight_prior", each.config.weight_prior)
            same = found.setdefault(dataclasses.replace(each.config, weight_prior=weight_prior), typed)
            if same is not typed:
                raise self._told_same(same, typed)

    @property
    def has_pi(self) -> bool:
        """Whether any family of masks in it has keep probabilities π, which its priors are of."""
        return any(each.config.has_pi for each in self._typed())

    def begins_by_seed(self, name: str) -> bool:
        """Whether a run, by the name of its folder, begins from what was pretrained for its seed."""
        if runs.SEED not in str((self.pretrained, self.vary, self.points)):
            return False
        folder = name.rpartition("/")[0]
        return any(each.folder == folder and runs.SEED in str(each.config.pretrained) for each in self.candidates())

    def check_prior(self) -> None:
        """Raise a ValueError where a prior was asked for that nothing in the study has."""
        if not self.has_pi and self.prior not in _UNSAID:
            raise ValueError("prior: no family of masks of this study has a π, and so none has a prior; leave it out")

    def _told_same(self, one: Candidate, two: Candidate) -> ValueError:
        """What is wrong where two would be trained alike, each with its prior as it was typed."""
        points = {each.shown.get("point") for each in (one, two)}
        if len(points) > 1:
            named = " and ".join(name for name in self.points if name in points)
            return ValueError(f"points: {named} have the same settings; leave one of them out")
        return ValueError(f"prior: {one.config.prior} and {two.config.prior} are the same; name each once")

    def _check_axes(self) -> None:
        """Raise a ValueError where an axis has a value twice, or there are too many, or one setting is on two."""
        for name, values in self.vary.items():
            spelled = [axes.text(name, axes.canonical(name, value)) for value in values]
            for i, each in enumerate(spelled):
                if each in spelled[:i]:
                    raise ValueError(f"vary: {name} has {axes.text(name, values[i])} twice; name each value once")
        for point, own in self.points.items():
            for name in own:
                if name in self.vary:
                    raise ValueError(f"points: {point} has {name}, which is in vary too; leave it out of one of them")
        if all("prior" in own for own in self.points.values()) and self.points and len(self.prior) > 1:
            raise ValueError(f"prior: each point has its own, so leave out {' and '.join(self.prior)}")
        count = math.prod(map(len, [self.prior, *filter(None, [self.points]), *self.vary.values()]))
        if count > _MOST:
            raise ValueError(f"vary: the product of all values has {count:,} settings, wanted at most {_MOST:,}")

    def tasks(self) -> dict[str, runs.TrainConfig]:
        """The runs of the study, by the name of their folder below it."""
        return {name: run for each in self.candidates() for name, run in self.runs_of(each).items()}

    def runs_of(self, candidate: Candidate) -> dict[str, runs.TrainConfig]:
        """Those of one candidate: each fold, from each seed."""
        return {
            f"{candidate.folder}/{f'fold-{fold}-' if FOLD in self.vary else ''}seed-{seed}": dataclasses.replace(
                candidate.config.of_seed(seed), validation_fold=fold
            )
            for fold in self.vary.get(FOLD, [candidate.config.validation_fold])
            for seed in range(self.seeds)
        }

    def candidates(self) -> list[Candidate]:
        """What is compared, in the order of the table; settings in one spelling."""
        shared = axes.distinct([slug(priors.spell(prior)) for prior in self.prior])
        slugs = dict(zip(self.prior, shared, strict=True))
        found = []
        for each in self._typed():
            config = each.config.canonical()
            # A point has a folder of its own below that of its prior, which stays where priors are added.
            is_own = "prior" in self._own(each)
            of_prior = slug(config.prior) if is_own else slugs[each.config.prior] if config.has_pi else "no-prior"
            folder = "/".join(filter(None, [of_prior, each.folder]))
            shown = config.prior if config.has_pi or is_own else NO_PRIOR
            found.append(Candidate(folder, {"prior": shown, **each.shown}, config))
        return found

    def _own(self, candidate: Candidate) -> Mapping[str, Any]:
        """The settings of its point."""
        return self.points.get(candidate.shown.get("point", ""), {})

    def _typed(self) -> list[Candidate]:
        """What is compared, with priors as they were typed, which are not in the names of the folders yet."""
        names = [name for name in self.vary if name != FOLD]
        columns = [axes.axis(name, self.vary[name]) for name in names]
        if self.points:
            names, columns = ["point", *names], [axes.axis_of_points(self.points), *columns]
        found = []
        for i, prior in enumerate(self.prior):
            for values in itertools.product(*columns):
                own = {name: value for each in values for name, value in each.settings.items()}
                shown = {name: value.shown for name, value in zip(names, values, strict=True)}
                config = runs.TrainConfig(**{**self._shared(), "prior": prior, **own})
                if i and ("prior" in own or not config.has_pi):  # it is there once, whatever the study's priors
                    continue
                if "prior" not in own and not config.has_pi:
                    config = dataclasses.replace(config, prior=runs.TrainConfig.prior)
                # What all runs share is of those that have a use for it.
                unused = config.of_seed(0).inapplicable - own.keys()
                config = dataclasses.replace(config, **{name: getattr(runs.TrainConfig, name) for name in unused})
                found.append(Candidate(",".join(value.slug for value in values), shown, config))
        return found

    def _shared(self) -> dict[str, Any]:
        """The settings that all runs have, unless a point or an axis says otherwise."""
        return {each.name: getattr(self, each.name) for each in dataclasses.fields(runs.Settings)}

    def extended_by(self, other: "StudyConfig") -> Self:
        """This study with the priors, points, values and seeds of another too.

        Raises:
            ValueError: another setting differs, or what varies; or the two do not go together.
        """
        mine, theirs = self.canonical(), other.canonical()
        for name, one in mine._shared().items():
            varies = [name in each.vary for each in (mine, theirs)]
            two = getattr(theirs, name)
            if any(varies) and not all(varies) or not any(varies) and one != two:
                was, wanted = (
                    f"one of {', '.join(axes.text(name, value) for value in each.vary[name])}"
                    if name in each.vary
                    else axes.text(name, getattr(each, name))
                    for each in (mine, theirs)
                )
                raise _differs(name.replace("_", "-"), wanted, was)
        if bool(mine.points) != bool(theirs.points):
            raise _differs("points", *(", ".join(each.points) or "none" for each in (theirs, mine)))
        for name in mine.points.keys() & theirs.points.keys():
            one, two = mine.points[name], theirs.points[name]
            for setting in sorted({k for k in one.keys() | two.keys() if one.get(k, ...) != two.get(k, ...)}):
                told = (axes.text(setting, e[setting]) if setting in e else "not there" for e in (two, one))
                raise _differs(f"points: {setting.replace('_', '-')} of {name}", *told)
        vary = {
            name: (*values, *(value for value in theirs.vary[name] if value not in values))
            for name, values in mine.vary.items()
        }
        both = dataclasses.replace(
            mine,
            prior=tuple(dict.fromkeys((*mine.prior, *theirs.prior))) if mine.has_pi else theirs.prior,
            seeds=max(mine.seeds, theirs.seeds),
            vary=vary,
            points={**mine.points, **theirs.points},
        )
        both.validate()
        return both

    def canonical(self) -> Self:
        """The same settings in one spelling, of use from any working directory."""
        return dataclasses.replace(
            self.with_absolute_paths(),
            prior=tuple(runs.TrainConfig(prior=prior).canonical().prior for prior in self.prior),
            vary={name: tuple(axes.canonical(name, v) for v in values) for name, values in self.vary.items()},
            points={p: {k: axes.canonical(k, v) for k, v in own.items()} for p, own in self.points.items()},
        )

    def check_modules(self) -> None:
        """Raise a ValueError, which names the setting, where a module of the user's cannot be imported from here."""
        for each in self._typed():
            each.config.check_modules()

    def to_json(self) -> dict[str, Any]:
        """As for a run; settings that vary are in "vary" alone."""
        settings = {k: v for k, v in super().to_json().items() if k not in self.vary and k not in ("vary", "points")}
        vary = {name: [axes.to_json(value) for value in values] for name, values in self.vary.items()}
        points = {p: {k: axes.to_json(v) for k, v in own.items()} for p, own in self.points.items()}
        return {**settings, **{k: v for k, v in (("vary", vary), ("points", points)) if v}}

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> Self:
        """As for a run; of one prior the list may be left out, and of a study that varies something else all of it."""
        vary, points = axes.read_vary(settings.get("vary", {})), axes.read_points(settings.get("points", {}))
        named = settings.get("prior", cls.prior[:1] if vary or points else cls.prior)
        if named in ([], ()):
            raise ValueError("prior: there is none to compare; name at least one")
        rest = {k: v for k, v in settings.items() if k not in ("vary", "points")}
        made = super().from_json({**rest, "prior": (named,) if isinstance(named, str) else named})
        return dataclasses.replace(made, vary=vary, points=points)


_UNSAID = (StudyConfig.prior, StudyConfig.prior[:1])  # what a study has where nobody says


def _differs(name: str, wanted: str, was: str) -> ValueError:
    return ValueError(f"{name} is {wanted}, but {was} in the study that is there; name another folder")
