"""What may be typed: the commands, their options and their help texts."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from bbpyro import settings

Switch = tyro.conf.FlagCreatePairsOff[bool]  # a flag without its opposite
if TYPE_CHECKING:
    Axes = Any
else:  # the words of each --vary, which are read once the file has been
    Axes = tyro.conf.UseAppendAction[
        Annotated[tuple[tuple[str, ...], ...], tyro.conf.arg(metavar="SETTING VALUE [VALUE ...]")]
    ]
RunFolders = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN [RUN ...]")]


@dataclass(frozen=True)
class Train(settings.Run):
    """`bbpyro train`."""

    run: Path | None = None
    """The run folder to write; by default runs/DATASET-DATE-TIME."""
    resume: Path | None = None
    """Go on with this run, with its own settings, from its newest checkpoint."""
    force: Switch = False
    """Replace the run folder if it exists."""
    num_samples: int = 100
    """Monte Carlo draws of the masks for the scores at the end."""
    config: Path | None = None
    """Read settings from this TOML file; flags override it."""
    print_config: Switch = False
    """Print the settings as TOML, for --config, and exit."""


@dataclass(frozen=True)
class Compare(settings.Study):
    """`bbpyro compare`."""

    prior: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="PRIOR")]] = ()
    """A prior on π, as bbpyro train takes it, once for each that is compared; by default Beta(0.0001, 1),
    IndianBuffet(5) and FixedRate(0.5), and with --vary the first of them."""
    vary: Axes = ()
    """A setting and the values of it that are compared, once for each setting: --vary epochs 60 120. Each value as it
    is typed after the setting's flag, in quotes where that is several words (--vary kl-start none 'conv* 40 fc* 6'),
    or true, false, none. All combinations are trained; those of validation-fold are averaged over, as seeds are."""
    points: tyro.conf.SuppressFixed[Any] = ()
    study: Path | None = None
    """The study folder, by default runs/study-DATE-TIME; a study that is there goes on, and priors, values or seeds
    that it has not are added."""
    resume: Path | None = None
    """Go on with this study, with its own settings."""
    jobs: int = 1
    """Runs at once. Each wants a core, and about 1 GiB of memory for MNIST."""
    backend: Literal["processes", "dask", "ray"] = "processes"
    """Where they run: processes of this machine, or an existing cluster that sees the same files."""
    address: str | None = None
    """Of the cluster's scheduler, e.g. tcp://10.0.0.1:8786."""
    published: Switch = False
    """Put the published points behind the errors (lenet-500-300 and lenet5-caffe on MNIST, lenet5 on
    Fashion-MNIST)."""
    config: Path | None = None
    """Read settings from this TOML file; flags override it."""
    print_config: Switch = False
    """Print the settings as TOML, for --config, and exit."""


@dataclass(frozen=True)
class Evaluate:
    """`bbpyro evaluate`."""

    runs: tyro.conf.Positional[RunFolders]
    """The run folder, or several, such as one for each seed."""
    num_samples: int = 100
    """Monte Carlo draws of the masks."""


@dataclass(frozen=True)
class Posterior:
    """`bbpyro posterior`."""

    runs: tyro.conf.Positional[RunFolders]
    """The run folder; or several that differ in their seed alone, each of which becomes a chain."""
    num_samples: int = 1000
    """Draws of every keep probability π."""
    num_predictive_samples: int | None = None
    """By how many of those draws the held-out data are predicted; by default by 100, or all where they are fewer."""
    output: Path | None = None
    """Where to write posterior.nc and figures/; by default the run folder. Wanted with several runs."""


@dataclass(frozen=True)
class Compact:
    """`bbpyro compact`."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    threshold: float | None = None
    """Keep a unit when E[π] exceeds this, not what the run was trained with; what that costs is in threshold_sweep.png,
    which bbpyro posterior draws."""
    finetune_epochs: int = 0
    """Train the small network, plainly, for so many epochs more, at a learning rate of 1e-4."""
    int8: Switch = False
    """Write compact-int8.onnx too: weights of eight bits, activations quantised dynamically."""
    round_to: int = 1
    """Leave a multiple of so many units in each layer, such as 8: processors may be faster with round numbers, and the
    dead units that stay for that, as zeros, cost parameters and multiply-accumulates."""


@dataclass(frozen=True)
class DataList:
    """List the data sets, and which of them are on this machine."""

    data_dir: Path | None = None
    """Where downloaded data sets are kept; by default $BBPYRO_DATA or the user's cache folder."""


@dataclass(frozen=True)
class DataFetch:
    """Fetch a data set and check it, e.g. bbpyro data fetch mnist."""

    name: tyro.conf.Positional[str]
    """mnist, fashion-mnist or cifar10."""
    data_dir: Path | None = None
    """Where to keep it; by default $BBPYRO_DATA or the user's cache folder."""


@dataclass(frozen=True)
class Data:
    """`bbpyro data`."""

    action: Annotated[DataList, tyro.conf.subcommand("list")] | Annotated[DataFetch, tyro.conf.subcommand("fetch")]


TRAIN = tyro.conf.subcommand(
    "train",
    description="""Train a network with Beta-Bernoulli dropout, and write a run folder.

examples:
  bbpyro train                                  LeNet-500-300 on MNIST
  bbpyro train --dataset mine.npz               your own arrays x and y
  bbpyro train --dataset bars --gate-learning-rate 0.05
                                                half a minute, and nothing to download
  bbpyro train --prior 'IndianBuffet(5)' --seed 1
  bbpyro train --network mine:net --dataset mine.npz
                                                your own network, as mine.py in this folder has it
  bbpyro train --resume runs/mnist-20260101-120000
  bbpyro train --gate-learning-rate 0.02 --print-config > sparser.toml
  bbpyro train --config sparser.toml --seed 1""",
)
COMPARE = tyro.conf.subcommand(
    "compare",
    description="""Train several priors, or values of other settings, each from several seeds, and compare them: a table
with the mean and the range over the seeds, and figures, in a study folder. A study that was stopped goes on where it
was.

examples:
  bbpyro compare --dataset bars --gate-learning-rate 0.05 --seeds 2 --jobs 2
                                                some minutes, and nothing to download
  bbpyro compare --prior 'Beta(1e-4, 1)' --prior 'IndianBuffet(5)' --prior mine:decaying --seeds 3 --jobs 2
  bbpyro compare --prior "{'fc1.*': Jeffreys, '*': Beta(1e-4, 1)}" --prior 'Beta(1e-4, 1)'
  bbpyro compare --vary gate-learning-rate 0.005 0.01 0.02 --vary epochs 60 120
                                                six settings, each from three seeds
  bbpyro compare --vary kl-start none 'fc* 6' --kl-warmup-epochs 20 --validation-size 5000 --vary validation-fold 0 1 2
  bbpyro compare --resume runs/study-20260101-120000 --jobs 2
  bbpyro compare --prior Jeffreys --prior Uniform --print-config > study.toml
  bbpyro compare --config study.toml --study runs/ignorance
  bbpyro compare --config study.toml --backend dask --address tcp://10.0.0.1:8786 --jobs 20

In the file what varies is in a table [vary], as epochs = [60, 120]. Settings that go together are a table each, under a
name: [points.tight] and below it epochs = 120 and so on, then [points.loose]; a point may have a prior too.""",
)
EVALUATE = tyro.conf.subcommand(
    "evaluate",
    description="""Print the scores and the kept units of a run, by mean mask and by Monte Carlo;
of several runs, their mean and range.

examples:
  bbpyro evaluate runs/mnist-20260101-120000
  bbpyro evaluate runs/mnist-20260101-120000 --num-samples 500
  bbpyro evaluate runs/seed-0 runs/seed-1 runs/seed-2""",
)
POSTERIOR = tyro.conf.subcommand(
    "posterior",
    description="""Look at the posterior of a run: write posterior.nc, for ArviZ, and figures/,
and print how many units are surely in and surely out, and how far to believe it.
posterior.nc holds predictions and log-likelihoods of the held-out data; what az.loo wants,
those of training data, the command computes and prints itself.

examples:
  bbpyro posterior runs/mnist-20260101-120000
  bbpyro posterior runs/seed-0 runs/seed-1 runs/seed-2 --output runs/three-seeds
  python -c "import arviz; print(arviz.from_netcdf('runs/seed-0/posterior.nc'))"
""",
)
COMPACT = tyro.conf.subcommand(
    "compact",
    description="""Remove the dead units of a run's network, check that it still predicts what the mean mask
does, write it in forms that need nothing of bbpyro's, and print what went from each layer, and what each form costs
and how well it predicts. Each call replaces the files of the one before:
  compact.safetensors   weights, and the architecture of usual layers, for bbpyro.load_compact
  compact.pt2           torch alone loads it, with torch.export.load
  compact.onnx          ONNX Runtime alone runs it; wants pip install onnx onnxruntime onnxscript

examples:
  bbpyro compact runs/mnist-20260101-120000
  bbpyro compact runs/mnist-20260101-120000 --finetune-epochs 5
  bbpyro compact runs/mnist-20260101-120000 --int8
  bbpyro compact runs/mnist-20260101-120000 --round-to 8
  bbpyro compact runs/mnist-20260101-120000 --threshold 0.5
""",
)
DATA = tyro.conf.subcommand("data", description="List the data sets, or fetch one.")
Command = (
    Annotated[Train, TRAIN]
    | Annotated[Compare, COMPARE]
    | Annotated[Evaluate, EVALUATE]
    | Annotated[Posterior, POSTERIOR]
    | Annotated[Compact, COMPACT]
    | Annotated[Data, DATA]
)
PARSER: dict[str, Any] = {
    "prog": "bbpyro",
    "description": "Beta-Bernoulli dropout: learn which units of a network are needed, and keep only those.",
    "config": (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
}
