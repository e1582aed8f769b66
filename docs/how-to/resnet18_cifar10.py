"""Train, prune and compact torchvision's ResNet-18 on CIFAR-10, as compact-a-resnet.md shows it.

    python docs/how-to/resnet18_cifar10.py

takes some twelve minutes of one core.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import bbpyro
from bbpyro.compaction import measure
from bbpyro.data import crop_and_flip, import_torchvision_datasets
from bbpyro.training import TrainingState


def resnet18() -> nn.Module:
    """The ResNet-18 of torchvision for ten classes, with random weights."""
    import_torchvision_datasets()  # a plain `import torchvision` that also works beside a CPU-only torch
    from torchvision import models

    return models.resnet18(num_classes=10)


def report(state: TrainingState) -> None:
    """Say how an epoch went."""
    record = state.history[-1]
    kept = f", units kept {sum(record['active'].values())}" if "active" in record else ""
    print(f"{record['phase']} {record['epoch']}: training NLL {record['train_nll']:.3f}{kept}", flush=True)


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of right answers."""
    labels = torch.cat([net(batch).argmax(-1) for batch in x.split(500)])
    return (labels == y).double().mean().item()


@torch.no_grad()
def milliseconds(nets: Sequence[nn.Module], x: Tensor, rounds: int = 15) -> list[float]:
    """How long each network takes for x: medians of rounds in which they take turns."""
    times: list[list[float]] = [[] for _ in nets]
    for _ in range(rounds):
        for net, taken in zip(nets, times, strict=True):
            started = time.perf_counter()
            net(x)
            taken.append(1000 * (time.perf_counter() - started))
    return [statistics.median(taken) for taken in times]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100)
    )
    parser.add_argument("--images", type=int, default=20_000, help="train on the first so many, of 50,000 (20000)")
    parser.add_argument("--test-images", type=int, default=10_000, help="score on the first so many (10000)")
    parser.add_argument(
        "--validation-size", type=int, default=0, help="score on the last so many training images, not on the test set"
    )
    parser.add_argument("--pretrain-epochs", type=int, default=4, help="of the plain network (4)")
    parser.add_argument("--epochs", type=int, default=6, help="with gates (6)")
    parser.add_argument("--gate-learning-rate", type=float, default=0.1, help="of the gates (0.1)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (0)")
    parser.add_argument("--output", type=Path, default=Path("resnet18-compact.pt2"), help="the small network's file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    options = parse(arguments)
    torch.manual_seed(options.seed)

    cifar10 = bbpyro.data.load("cifar10")  # fetched by the first call
    if options.validation_size:
        cifar10 = cifar10.with_validation(options.validation_size)
    x, y = cifar10.x[: options.images], cifar10.y[: options.images]
    x_test, y_test = cifar10.x_test[: options.test_images], cifar10.y_test[: options.test_images]

    net = resnet18()
    bbpyro.pretrain(
        net, x, y, num_epochs=options.pretrain_epochs, schedule="steps", augment=crop_and_flip, on_epoch=report
    )
    print(f"plain: accuracy {accuracy(net, x_test, y_test):.2%}")

    gated = bbpyro.insert_dropout(net, initial_keep_probability=0.95)
    bnn = bbpyro.BetaBernoulliNetwork(gated, num_data=len(x))
    bbpyro.fit(
        bnn,
        x,
        y,
        num_epochs=options.epochs,
        gate_learning_rate=options.gate_learning_rate,
        kl_start=4,
        kl_warmup_epochs=4,
        augment=crop_and_flip,
        on_epoch=report,
    )
    print(f"with gates: accuracy {accuracy(bnn, x_test, y_test):.2%}")

    small = bbpyro.compact(bnn, x[:2])
    print(f"compact: accuracy {accuracy(small, x_test, y_test):.2%}")
    print(small.compaction)

    for name, size in ("plain", measure(net, x[:1])), ("compact", measure(small, x[:1])):
        print(f"{name}: {size.parameters:,} parameters, {size.macs:,} multiply-accumulates an image")
    before, after = milliseconds([net, small], x_test[:100])
    print(f"100 images on {torch.get_num_threads()} thread(s): plain {before:.0f} ms, compact {after:.0f} ms")

    options.output.write_bytes(bbpyro.export.to_pt2(small, x[:2]))
    print(f"wrote {options.output}, {options.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
