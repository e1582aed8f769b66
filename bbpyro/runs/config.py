"""The settings of a run: what they are, which values they take, and how JSON and TOML hold them."""

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from bbpyro import data, families, priors, settings, training
from bbpyro.families.beta_bernoulli import MIN_START
from bbpyro.families.spelled import Family, as_family, is_beta_bernoulli
from bbpyro.model import WEIGHT_GUIDES
from bbpyro.priors.spelled import is_path, parse
from bbpyro.runs.networks import OF_FEW_DATA, RECIPES, check_name
from bbpyro.training.budget import of_data

AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor] | None] = {"none": None, "crop-flip": data.crop_and_flip}


SEED = "{seed}"  # in the path that a study's runs begin from
_START_SHARE = 5  # of the epochs of pretraining: each start has these so many times less than the one before


@dataclass(frozen=True)
class Settings(settings.Shared):
    """What decides the numbers of a run, but for its prior and its seed."""

    def validate(self) -> None:
        """Raise a ValueError that names the first setting out of range."""
        choices: dict[str, Collection[str]] = {
            "weights": WEIGHT_GUIDES,
            "schedule": training.SCHEDULES,
            "elbo": training.ELBOS,
            "augmentation": AUGMENTATIONS,
            "device": ("auto", "cpu", "cuda"),
            "precision": training.PRECISIONS,
        }
        check_name(self.network)
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, wanted one of {', '.join(known)}")
        at_least = {
            "epochs": 1,
            "batch_size": 1,
            "pretrain_epochs": 0,
            "starts": 1,
            "kl_warmup_epochs": 0,
            "validation_size": 0,
            "validation_fold": 0,
            "threads": 1,
        }
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, wanted at least {least}")
        for name in ("temperature", "learning_rate", "gate_learning_rate"):
            value = getattr(self, name)
            if value is not None and not 1e-37 <= value <= 1e38:
                raise ValueError(f"{name} is {value}, wanted a positive number, from 1e-37 to 1e38")
        if self.validation_fold and not self.validation_size:
            raise ValueError(
                f"validation_fold is {self.validation_fold}, but validation_size 0 holds nothing out; give it a size"
            )
        if self.starts > 1 and self.pretrained:
            raise ValueError(
                f"starts is {self.starts}, but pretrained weights are one start; leave them out, or give --starts 1"
            )
        if self.starts > self._most_starts():
            raise ValueError(
                f"starts is {self.starts}, but each has a fifth of the epochs of pretraining of the one before, and of "
                f"{self.pretrain_epochs} there are at most {self._most_starts()}"
            )
        p = self.initial_keep_probability
        if p is not None and not MIN_START <= p <= 1 - MIN_START:
            raise ValueError(f"initial_keep_probability is {p}, wanted a number from {MIN_START} to {1 - MIN_START}")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}, wanted a keep probability in [0, 1)")
        self.make_weight_prior()
        self.make_family()

    def _most_starts(self) -> int:
        return 1 + sum(self.pretrain_epochs >= _START_SHARE**i for i in range(1, 10))

    @property
    def scored_on(self) -> str:
        """What the scores are of: "test" or "validation" data."""
        return "validation" if self.validation_size else "test"

    def with_absolute_paths(self) -> Self:
        """The same settings, of use from any working directory."""
        return dataclasses.replace(
            self,
            dataset=str(Path(self.dataset).absolute()) if self.dataset.endswith(".npz") else self.dataset,
            pretrained=self.pretrained and self.pretrained.absolute(),
            data_dir=self.data_dir and self.data_dir.absolute(),
        )

    def torch_device(self) -> torch.device:
        """Where the network is trained and predicts: on this machine, which need not be the one it began on."""
        return torch.device("cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu")

    def kl_weights(self) -> float | dict[str, float]:
        """What :func:`bbpyro.fit` wants as `kl_start`."""
        return dict(self.kl_start) or 0.0

    def make_weight_prior(self) -> priors.WeightPrior | None:
        """The prior on W; None for the default, which depends on the number of data."""
        try:
            return priors.as_weight_prior(self.weight_prior) if self.weight_prior else None
        except ValueError as error:
            raise ValueError(f"weight_prior: {error}") from None

    def make_family(self) -> dict[str, Family]:
        """The families of masks, by gate."""
        try:
            return as_family(self.family)
        except ValueError as error:
            raise ValueError(f"family: {error}") from None

    @property
    def has_pi(self) -> bool:
        """Whether any gate has keep probabilities π, which a prior is of."""
        return any(isinstance(make(1), families.BetaBernoulliDropout) for make in self.make_family().values())

    @property
    def inapplicable(self) -> set[str]:
        """The settings of gates that none of these has a use for."""
        if not any(is_beta_bernoulli(make) for make in self.make_family().values()):
            return {"initial_keep_probability", "threshold"}
        starts_from_run = self.pretrained is not None and self.pretrained.is_dir()
        return {"initial_keep_probability"} if starts_from_run else set()  # gates begin where those of the run ended

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON holds them."""
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items()}
        return {**settings, "kl_start": [list(pair) for pair in self.kl_start]}

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> Self:
        """The settings that :meth:`to_json` wrote; a ValueError names one that is unknown or of a wrong type."""
        hints = typing.get_type_hints(cls)
        if isinstance(settings.get("kl_start"), dict):  # a table in TOML
            settings = {**settings, "kl_start": list(settings["kl_start"].items())}
        for name, value in settings.items():
            if name not in hints:
                raise ValueError(f"unknown setting {name!r}, wanted one of {', '.join(hints)}")
            if not _fits(value, hints[name]):
                raise ValueError(f"{name} is {value!r}, wanted {_describe(hints[name])}")
        paths = {k: Path(v) for k, v in settings.items() if k in ("pretrained", "data_dir") and v is not None}
        pairs = {"kl_start": tuple((str(k), float(v)) for k, v in settings.get("kl_start", ()))}
        lists = {k: tuple(v) for k, v in settings.items() if isinstance(v, list)}
        return cls(**{**settings, **lists, **paths, **pairs})


@dataclass(frozen=True)
class TrainConfig(Settings, settings.Run):
    """Everything that decides the numbers of a run."""

    def of_seed(self, seed: int) -> Self:
        """These settings from another seed, and from what was pretrained for that seed."""
        return dataclasses.replace(self, seed=seed, pretrained=_for_seed(self.pretrained, seed))

    def trainings(self) -> list[Self]:
        """Those that a run of these settings is made of: itself, or one for each of its starts."""
        if self.starts == 1:
            return [self]
        epochs = [self.pretrain_epochs // _START_SHARE**i for i in range(self.starts)]
        return [dataclasses.replace(self, starts=1, pretrain_epochs=each) for each in epochs]

    def canonical(self) -> Self:
        """The same settings in one spelling, of use from any working directory."""
        prior, family = priors.spell(self.prior), families.spell(self.family)
        return dataclasses.replace(self.with_absolute_paths(), prior=prior, family=family)

    def validate(self) -> None:
        """Raise a ValueError that names the first setting out of range."""
        super().validate()
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}, wanted at least 0, at most {2**63 - 1}")
        self.make_prior()

    @property
    def modules(self) -> list[tuple[str, str]]:
        """What is imported from modules of the user's: the setting that says so, and its `module:name`."""
        priors_on_pi = re.findall(r"['\"]([\w.]+:[\w.]+)['\"]", self.prior) or [self.prior]
        named = [*(("prior", path) for path in priors_on_pi), ("weight_prior", self.weight_prior or "")]
        named += [("family", path) for path in re.findall(r"['\"]([\w.]+:[\w.]+)['\"]", self.family) or [self.family]]
        return [(setting, path) for setting, path in [*named, ("network", self.network)] if is_path(path)]

    def check_modules(self) -> None:
        """Raise a ValueError, which names the setting, where one of :attr:`modules` cannot be imported from here."""
        for setting, path in self.modules:
            try:
                parse(path, {})
            except ValueError as error:
                raise ValueError(f"{setting}: {error}") from None

    def make_prior(self) -> priors.Prior | dict[str, priors.Prior]:
        """The prior on π, of each gate or of all."""
        try:
            return priors.as_prior(self.prior)
        except ValueError as error:
            raise ValueError(f"prior: {error}") from None

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> Self:
        """As above; the settings of a run from before priors were spelled out are understood too."""
        settings = dict(settings)
        old = {"beta": "Beta({}, 1)", "indian-buffet": "IndianBuffet({})"}
        prior = settings.get("prior")
        if isinstance(prior, str) and prior in old and "alpha" in settings:
            default = {"beta": 1e-4, "indian-buffet": 5.0}[prior]
            settings["prior"] = old[prior].format(settings.pop("alpha") or default)
        return super().from_json(settings)


def as_written(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that the file of a run or study holds; one of before there was shedding does without."""
    return {"shed": False, **settings}


def recipe(network: str, given: Mapping[str, Any] | None = None) -> TrainConfig:
    """The settings that hold where nothing else is asked for: the network's own, or those of few data.

    Args:
        network: its name.
        given: what is asked for, by name; of a study also "vary" and "points". The data are few or not by it.

    Raises:
        ValueError: there is no such network.
    """
    check_name(network)
    given = given or {}
    own = RECIPES.get(network) or _of_few_data(given)
    gates = TrainConfig(family=given.get("family", Settings.family), pretrained=_for_seed(given.get("pretrained"), 0))
    return TrainConfig(**{"network": network, **{k: own[k] for k in own.keys() - gates.inapplicable}})


def _for_seed(pretrained: Path | str | None, seed: int) -> Path | None:
    return Path(str(pretrained).replace(SEED, str(seed))) if pretrained else None


def _of_few_data(given: Mapping[str, Any]) -> dict[str, Any]:
    """What `pretrain` and `fit` do of themselves where a .npz file has few data; nothing where epochs are asked for."""
    dataset, varied, points = (
        str(given.get("dataset", "")),
        given.get("vary") or {},
        (given.get("points") or {}).values(),
    )
    if not dataset.endswith(".npz") or any("epochs" in each for each in (given, varied, *points)):
        return {}
    batch_size, held_out = (given.get(name, getattr(Settings, name)) for name in ("batch_size", "validation_size"))
    in_file = data.num_training_data(Path(dataset))
    if in_file is None or not all(isinstance(size, int) for size in (batch_size, held_out)):
        return {}  # to load and to check them says what is wrong
    num_data = in_file - held_out
    if min(num_data, batch_size) < 1 or not (budget := of_data(num_data, batch_size)).is_of_few_data:
        return {}
    of_few = dataclasses.asdict(budget) | ({"kl_warmup_epochs": 0} if given.get("kl_start") else {})
    if any(name in each for name in ("pretrain_epochs", "pretrained") for each in (given, varied, *points)):
        of_few["starts"] = 1  # which begins as is asked for
    return of_few | ({} if "network" in given else {"network": OF_FEW_DATA})


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON or TOML is of a setting's type."""
    if isinstance(hint, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    if typing.get_origin(hint) is tuple:  # of any length, or of these elements
        if not isinstance(value, list | tuple):
            return False
        of = typing.get_args(hint)
        of = of[:1] * len(value) if of[-1] is Ellipsis else of
        return len(of) == len(value) and all(map(_fits, value, of))
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, str if hint is Path else hint)


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(typing.get_args(hint))}"
    if typing.get_origin(hint) is tuple:
        is_text = typing.get_args(hint)[0] is str
        texts, pairs = 'texts such as ["Jeffreys", "Beta(1e-4, 1)"]', 'pairs such as [["conv*", 40.0]], or such a table'
        return texts if is_text else pairs
    options = [option for option in typing.get_args(hint) or (hint,) if option is not types.NoneType]
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}[options[0]]
