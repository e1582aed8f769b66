"""The settings of runs and studies: their names, types, defaults and help texts.

What they mean, and which values they take, is in runs/config.py and studies/config.py. The command line is made of
these, and to print its help imports nothing else of bbpyro: torch alone takes seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Shared:
    """What decides the numbers of a run, but for its prior and its seed."""

    dataset: str = "mnist"
    """mnist, fashion-mnist, cifar10, bars, or a .npz file with arrays x, y and, optionally, x_test, y_test."""
    network: str = "lenet-500-300"
    """lenet-500-300 and mlp-64-64, which is the default of a .npz file of few data, take any number of inputs,
    lenet5-caffe (20-50-800-500) and lenet5 (6-16-400-120-84) images of size 28x28, vgg16 images of 3x32x32; these three
    bring settings of their own, which bbpyro train --network NAME --print-config shows. Or module:name, one of your
    own: an nn.Module, a class of it, or a function that returns one; what needs no arguments is called without, else
    with the shape of one input and the number of classes."""
    augmentation: Literal["none", "crop-flip"] = "none"
    """crop-flip shifts each training image [C, H, W] by up to 4 pixels and mirrors half of them."""
    family: str = "BetaBernoulli"
    """Family of the masks: BetaBernoulli; DependentBetaBernoulli; or one that takes no prior: SBP, VIB(gamma),
    L0(penalty), ConcreteDropout, GeneralizedDropout(alpha, beta) or module:name; or by gate, as in {'fc*': SBP, '*':
    L0}."""
    weight_prior: str | None = None
    """Prior on the weights W: Normal(scale), Laplace(scale), StudentT(df, scale), HorseshoeLike(scale) or module:name;
    by default the Gaussian that an L2 of 1e-4 on the mean loss is."""
    weights: Literal["delta", "normal"] = "delta"
    """q(W): a point, or a Gaussian for each weight."""
    temperature: float = 0.1
    """Temperature τ of the relaxed Bernoulli masks."""
    threshold: float = 1e-3
    """A unit is kept when E[π] exceeds this. Where the prior expects less than a quarter of the units, the threshold is
    at least twice its mean (of SpikeAndSlab its spike's); under StickBreaking it is not. Other families have rules of
    their own."""
    initial_keep_probability: float | None = None
    """E[π] where SVI starts; by default the source's, 0.24, through which a network as deep as vgg16 learns nothing."""
    epochs: int = 60
    """Epochs of SVI; of a .npz file of few data as many as make 8,000 steps, with other settings to go with them."""
    pretrain_epochs: int = 10
    """Epochs of the same network without gates, before SVI; 0 for none. Of few data, where --epochs is left out too, as
    many as make 500 steps."""
    starts: int = 1
    """Trainings, of which the one with the highest ELBO is kept: each begins after a fifth of the epochs of pretraining
    of the one before. Of a .npz file of few data 2, unless it is said where to begin, by --epochs, --pretrain-epochs or
    --pretrained."""
    pretrained: Path | None = None
    """A safetensors state dict of the network without gates to start from, instead of pretraining; or the folder of a
    run, from whose gates it starts too: so begins DependentBetaBernoulli where BetaBernoulli ended. In a study {seed}
    in it stands for the seed."""
    batch_size: int = 100
    """Data in a minibatch."""
    learning_rate: float = 1e-3
    """Adam's learning rate of the weights."""
    gate_learning_rate: float = 1e-2
    """Adam's learning rate of the gates' concentrations a and b."""
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    """cosine: constant for half of training, then half a cosine to zero; steps: cut by ten at 50% and 75%; constant."""
    kl_warmup_epochs: int = 0
    """Epochs over which the weight of the KL goes from kl-start to 1."""
    kl_start: tuple[tuple[str, float], ...] = ()
    """Where it goes from, by name of gate, e.g. 'fc*' 6; above 1, units go early. By default 0 for all, a warm-up."""
    elbo: Literal["trace", "mean-field"] = "trace"
    """Pyro's Trace_ELBO, or TraceMeanField_ELBO with closed-form KLs."""
    shed: bool = True
    """shed: units whose posterior has gone to the prior leave the network that is trained, for good, so that an epoch
    costs less and less; the run's files are of the whole network all the same. no-shed: all stay."""
    validation_size: int = 0
    """Hold out the last so many training data and report on them instead of the test set: for choosing settings."""
    validation_fold: int = 0
    """Which part of the training data is held out: 0 the last validation-size of them, 1 those before, and so on."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train and predict: auto is the GPU, if torch has one."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: the network's products in bfloat16 while training (torch.autocast); for GPUs."""
    threads: int = 1
    """Torch's threads; more gain little on matrices as small as LeNet's, and lose much on a busy machine."""
    data_dir: Path | None = None
    """Where downloaded data sets are kept; by default $BBPYRO_DATA or the user's cache folder."""


@dataclass(frozen=True)
class Run(Shared):
    """Those of one run."""

    prior: str = "Beta(0.0001, 1)"
    """Prior on the keep probabilities π: Beta(c1, c0), IndianBuffet(alpha), Uniform, Jeffreys, LogitNormal(loc, scale),
    SpikeAndSlab(slab_probability), StickBreaking(alpha), FixedRate(p), module:name, or by gate, as
    in {'fc1.*': Jeffreys, '*': Beta(1e-4, 1)}."""
    seed: int = 0
    """Seed of the initial weights, the order of the data and all noise."""


@dataclass(frozen=True)
class Study(Shared):
    """Those of a study."""

    prior: tuple[str, ...] = ("Beta(0.0001, 1)", "IndianBuffet(5)", "FixedRate(0.5)")
    """The priors on π, each as bbpyro train takes it."""
    seeds: int = 3
    """Each prior is trained from the seeds 0, 1, … below this number."""
    vary: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """The values that settings take, by name; folds of the validation data are averaged over, as seeds are."""
    points: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings that go together, by a name for each; one of them may be a prior, in place of the study's."""
