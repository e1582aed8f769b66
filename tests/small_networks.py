"""Small networks, one for each way in which units of real ones hang together, for tests to take units from.

NETWORKS has them by name: a factory of a network in evaluation mode, whose norms, biases and tokens are neither 0 nor
1, and a factory of an example, which `call` gives it: one tensor, a tuple of arguments or a dictionary of keywords.

The units are those of insert_dropout's gates: inputs of a dense layer; channels of a convolution, after its batch norm.
What their docstrings say can go where every reader of it does without it (and what it is made of may go with it).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bbpyro

Example = Tensor | tuple[Tensor, ...] | dict[str, Tensor]


# Concatenations, and parts of a tensor.


class DenseBlock(nn.Module):
    """All channels can go: of a dead one a reader's batch norm makes a constant, for the bias of the layer after it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(10)])
        self.layers = nn.ModuleList([nn.Conv2d(6, 4, 1), nn.Conv2d(10, 4, 1)])  # without padding, as in GateBeforeNorm
        self.head = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            h = torch.cat([h, layer(norm(h).relu())], 1)
        return self.head(h.mean((2, 3)))


class CascadedConcat(nn.Module):
    """All channels can go, each of its own: `fuse` and `head` read them at three offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(9, 6, 1)
        self.fuse, self.head = nn.Conv2d(15, 7, 1), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        ab = torch.cat([self.a(x).relu(), self.b(x).relu()], 1)
        return self.head(self.fuse(torch.cat([self.c(ab).relu(), ab], 1)).mean((2, 3)))


class SplitSizes(nn.Module):
    """All units of `enter` can go, though forward names the sizes of its two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.left, self.right = nn.Linear(4, 8), nn.Linear(3, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.enter(x).relu().split([3, 5], -1)
        return self.left(left) + self.right(right)


class GatedProduct(nn.Module):
    """Unit k of `enter` can go with unit k + 6, by which it is multiplied, where `leave` does without their product."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 12), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.enter(x).chunk(2, -1)
        return self.leave(value * gate.sigmoid())


class ChannelShuffle(nn.Module):
    """Channels can go two by two, so that the halves that are shuffled stay of one size."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.a(x).relu(), self.b(x).relu()], 1)
        n, c, height, width = h.shape
        h = h.view(n, 2, c // 2, height, width).transpose(1, 2).reshape(n, c, height, width)
        return self.head(h.mean((2, 3)))


# Parameters outside of layers.


class LayerScale(nn.Module):
    """Channels of `hidden` can go freely, those of the stage where all that add to it do without, with their scale."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.hidden, self.leave = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, 6, 1)
        self.scale = nn.Parameter(torch.full((6, 1, 1), 1e-6))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        h = h + self.scale * self.leave(self.hidden(h).relu())
        return self.head(h.mean((2, 3)))


class Patches(nn.Module):
    """Units of the embedding can go, with theirs of the class token [1, 1, C] and the positions [1, T, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden, self.head = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 9), nn.Linear(9, 5)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 6)), nn.Parameter(torch.randn(1, 5, 6))

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(len(h), -1, -1), h], 1) + self.positions
        return self.head(self.hidden(h).relu().mean(1))


# Convolutions.


class UNet(nn.Module):
    """Channels of `down` and `deep` can go; `up`, a transposed one, has no gate, and reads and is read by others."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 5, 2, stride=2)
        self.leave = nn.Conv2d(9, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x).relu()
        return self.leave(torch.cat([skip, self.up(self.deep(skip).relu()).relu()], 1))


class GroupedConvolution(nn.Module):
    """Channels of `enter` and `grouped` can go as many from each of three groups, or a group of both as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm = nn.Conv2d(3, 12, 1), nn.BatchNorm2d(12)
        self.grouped, self.head = nn.Conv2d(12, 6, 3, padding=1, groups=3), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.grouped(self.norm(self.enter(x)).relu()).relu().mean((2, 3)))


class DepthwiseSeparable(nn.Module):
    """A channel that is dead after `depthwise` can go from both sides of it; one dead before it is a constant after."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm0 = nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.norm1 = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.pointwise, self.norm2, self.head = nn.Conv2d(8, 10, 1, bias=False), nn.BatchNorm2d(10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(self.depthwise(self.norm0(self.enter(x)).relu())).relu()
        return self.head(self.norm2(self.pointwise(h)).relu().mean((2, 3)))


class SqueezeExcite(nn.Module):
    """A channel of `enter` can go with what `excite` multiplies it by; those of `squeeze` freely."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.squeeze, self.excite, self.head = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.enter(x)).relu()
        h = h * self.excite(self.squeeze(F.adaptive_avg_pool2d(h, 1)).relu()).sigmoid()
        return self.head(h.mean((2, 3)))


class PReLU(nn.Module):
    """All channels can go, those of `enter` with their slope."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.act, self.leave = nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.Conv2d(6, 7, 3)
        self.act2, self.head = nn.PReLU(), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act2(self.leave(self.act(self.enter(x)))).mean((2, 3)))


class Pool1d(nn.Module):
    """All channels can go; those before the flattening with three inputs of `head` each."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.hidden, self.head = (
            nn.Conv1d(2, 6, 3, padding=1),
            nn.Conv1d(6, 4, 3, padding=1),
            nn.Linear(12, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool1d(self.enter(x).relu(), 2)
        return self.head(F.adaptive_avg_pool1d(F.avg_pool1d(self.hidden(h).relu(), 2), 3).flatten(1))


class AvgPool3d(nn.Module):
    """All channels can go."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.pool = nn.Conv3d(1, 6, 3, padding=1), nn.AvgPool3d(2)
        self.hidden, self.head = nn.Conv3d(6, 4, 1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.pool(self.enter(x).relu())).relu().mean((2, 3, 4)))


class Padded(nn.Module):
    """All channels can go, whatever is padded with."""

    def __init__(self, padding: nn.Module) -> None:
        super().__init__()
        self.enter, self.padding, self.hidden, self.head = (
            nn.Conv2d(3, 6, 1),
            padding,
            nn.Conv2d(6, 7, 3),
            nn.Linear(7, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.padding(self.enter(x).relu())).relu().mean((2, 3)))


class Cropped(nn.Module):
    """All channels can go; what is cut off are pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.hidden, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x).relu()
        return self.head((h[:, :, 1:-1, 1:-1] + self.hidden(h)).relu().mean((2, 3)))


class OwnBatchNorm(nn.BatchNorm2d):
    """A batch norm that may do anything: insert_dropout leaves it alone."""


class FrozenBatchNorm(nn.Module):
    """A batch norm of buffers, as in a detector."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


class GateBeforeNorm(nn.Module):
    """A dead channel of `enter` is a constant after its norm, which has no gate: one for the bias of `hidden`."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.enter, self.norm = nn.Conv2d(3, 6, 3, padding=1), norm(6)
        self.hidden, self.head = nn.Conv2d(6, 7, 3), nn.Linear(7, 5)  # without padding, or the constant would end there

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.norm(self.enter(x)).relu()).relu().mean((2, 3)))


class ConvNeXtBlock(nn.Module):
    """Units of `expand` can go; those of the stage are read by the layer norm, and stay."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.depthwise = nn.Conv2d(3, 6, 2, 2), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.norm, self.expand, self.shrink = nn.LayerNorm(6), nn.Linear(6, 12), nn.Linear(12, 6)
        self.scale, self.head = nn.Parameter(torch.full((6, 1, 1), 1e-6)), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        h = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        h = self.shrink(F.gelu(self.expand(h))).permute(0, 3, 1, 2)
        return self.head((x + self.scale * h).mean((2, 3)))


# Operations on a unit by itself, and on places.


class SelfGated(nn.Module):
    """All units can go: each is multiplied by a function of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.hidden, self.leave = nn.Linear(4, 8), nn.Linear(8, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        h = self.hidden(h * torch.sigmoid(h))
        return self.leave(h * torch.tanh(F.softplus(h)))


class Extremes(nn.Module):
    """Unit k of `a`, `b` and `c` can go together, where `leave` does without what is chosen of them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.leave = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        largest = torch.maximum(self.a(x), self.b(x))
        return self.leave(torch.where(largest > 0, largest, self.c(x)))


class RolledAndFlipped(nn.Module):
    """All channels can go, but those that are flipped only with their mirror image, to which they are added."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.hidden, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.roll(self.enter(x).relu(), (1, -1), (2, 3))
        h = self.hidden(h + h.flip(3)).relu()
        return self.head((h + 0.5 * h.flip(1)).mean((2, 3)))


class LayerNormBetween(nn.Module):
    """Units of `enter` stay, for the layer norm is of all of them; those of `hidden` can go."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm = nn.Linear(4, 8), nn.LayerNorm(8)
        self.hidden, self.leave = nn.Linear(8, 9), nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.hidden(self.norm(self.enter(x)).relu()).relu())


# Attention, and other mixing.


class TransformerEncoder(nn.Module):
    """Units between `linear1` and `linear2` can go; those of the stream are read by layer norms, and stay."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(3, 8), nn.Linear(8, 5)
        self.layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=12, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x)).mean(1))


class Attention(nn.Module):
    """Hidden units of the MLP can go; a reshape cuts the heads, so `qkv` keeps its own; `out` can read a selection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.norm2, self.mlp = nn.LayerNorm(8), nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        attended = ((q @ k.transpose(-2, -1)) * (c // 2) ** -0.5).softmax(-1) @ v
        x = x + self.out(attended.transpose(1, 2).reshape(n, t, c))
        return self.head((x + self.mlp(self.norm2(x))).mean(1))


class MixerBlock(nn.Module):
    """Hidden units of both MLPs can go, of `tokens` places in place of channels; the stream stays."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm1, self.norm2 = nn.Linear(3, 6), nn.LayerNorm(6), nn.LayerNorm(6)
        self.tokens = nn.Sequential(nn.Linear(4, 9), nn.GELU(), nn.Linear(9, 4))
        self.channels = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 6))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.channels(self.norm2(x))).mean(1))


class ShiftedWindows(nn.Module):
    """Units of the stream can go where `qkv` and `head` do without; `qkv` is cut into equal parts and keeps its own."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.qkv, self.out, self.head = nn.Linear(3, 6), nn.Linear(6, 18), nn.Linear(6, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.enter(x)
        n, height, width, c = stream.shape
        h = torch.roll(stream, (-1, -1), (1, 2)).view(n, height // 2, 2, width // 2, 2, c)
        q, k, v = self.qkv(h.permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)).chunk(3, -1)
        h = self.out((q @ k.transpose(-2, -1)).softmax(-1) @ v).view(n, height // 2, width // 2, 2, 2, c)
        h = torch.roll(h.permute(0, 1, 3, 2, 4, 5).reshape(n, height, width, c), (1, 1), (1, 2))
        return self.head((stream + h).mean((1, 2)))


# Weights that are used twice.


class TiedEmbedding(nn.Module):
    """Units of `down` can go; those of the embedding where `down` and `head`, whose weight it is, do without."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.down, self.up, self.head = (
            nn.Embedding(11, 6),
            nn.Linear(6, 9),
            nn.Linear(9, 6),
            nn.Linear(6, 11),
        )
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(self.down(self.embed(x)).relu()))


class TwoNames(nn.Module):
    """`again` is `hidden`: its units can go where it does without them itself, and `leave` too."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.hidden, self.leave = nn.Linear(4, 7), nn.Linear(7, 7), nn.Linear(7, 5)
        self.again = self.hidden

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.again(self.hidden(self.enter(x).relu()).relu()).relu())


# What goes in and out.


class Tokens(nn.Module):
    """Units of the embedding can go, with its columns, and those of `hidden`; the input is of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden, self.leave = nn.Embedding(11, 6), nn.Linear(6, 9), nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.hidden(self.embed(x).mean(1)).relu())


class TwoInputs(nn.Module):
    """Unit k of `left` and of `right` can go together; of the inputs themselves a selection can be read."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.leave = nn.Linear(4, 8), nn.Linear(3, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.leave((self.left(x) + self.right(context)).relu())


class KeywordInputs(TwoInputs):
    """As TwoInputs; its inputs have names only, and one may be left out."""

    def forward(self, *, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.leave(self.left(x).relu()) if context is None else super().forward(x, context)


@dataclass
class Answer:
    """The output of a TwoHeads."""

    logits: Tensor
    hidden: Tensor


class TwoHeads(nn.Module):
    """Units of `enter` can go; those of `hidden` are part of the output, and stay."""

    def __init__(self, answer: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.enter, self.hidden, self.leave, self.answer = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 5), answer

    def forward(self, x: Tensor) -> Any:
        h = self.hidden(self.enter(x).relu())
        return self.answer(self.leave(h.relu()), h)


def as_tuple(logits: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    return logits, hidden


def as_dict(logits: Tensor, hidden: Tensor) -> dict[str, Tensor]:
    return {"logits": logits, "hidden": hidden}


def call(net: nn.Module, example: Example) -> Any:
    """The network's output for an example, whatever its inputs are."""
    if isinstance(example, dict):
        return net(**example)
    return net(*example) if isinstance(example, tuple) else net(example)


@torch.no_grad()
def shaken(make: Callable[[], nn.Module]) -> nn.Module:
    """A new network in evaluation mode, whose norms, biases, scales and tokens are neither 0 nor 1."""
    net = make().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
        for name, parameter in module.named_parameters(recurse=False):
            if name.endswith("bias"):
                parameter.normal_(0, 0.3)
            elif parameter.dim() == 1 or (parameter == parameter.flatten()[0]).all():
                parameter.uniform_(0.5, 1.5)
    return net


def half_dead(net: nn.Module) -> bbpyro.BetaBernoulliNetwork:
    """The network with gates, of each of which every other unit is dead."""
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=10)
    with torch.no_grad():
        for gate in bnn.gates.values():
            gate.unconstrained_concentration1[::2] = -20
    return bnn


def integers() -> Tensor:
    return torch.randint(11, (3, 4))


def two_inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(3, 4), torch.randn(3, 3)


def keyword_inputs() -> dict[str, Tensor]:
    return {"x": torch.randn(3, 4), "context": torch.randn(3, 3)}


def images() -> Tensor:
    """Of different brightness, which is what a mean over all pixels leaves of one."""
    return torch.randn(3, 3, 8, 8) + 2 * torch.randn(3, 3, 1, 1)


vectors, sequences = partial(torch.randn, 3, 4), partial(torch.randn, 3, 4, 3)
_MADE: dict[str, tuple[Callable[[], nn.Module], Callable[[], Example]]] = {
    "dense block": (DenseBlock, images),
    "cascaded concat": (CascadedConcat, images),
    "split by sizes": (SplitSizes, vectors),
    "gated product": (GatedProduct, vectors),
    "channel shuffle": (ChannelShuffle, images),
    "layer scale": (LayerScale, images),
    "patches": (Patches, images),
    "u-net": (UNet, images),
    "grouped convolution": (GroupedConvolution, images),
    "depthwise separable": (DepthwiseSeparable, images),
    "squeeze-and-excite": (SqueezeExcite, images),
    "prelu": (PReLU, images),
    "1d pooling": (Pool1d, partial(torch.randn, 3, 2, 16)),
    "3d pooling": (AvgPool3d, partial(torch.randn, 3, 1, 4, 4, 4)),
    "zero padding": (partial(Padded, nn.ZeroPad2d(1)), images),
    "reflection padding": (partial(Padded, nn.ReflectionPad2d(1)), images),
    "replication padding": (partial(Padded, nn.ReplicationPad2d(1)), images),
    "cropping": (Cropped, images),
    "own batch norm": (partial(GateBeforeNorm, OwnBatchNorm), images),
    "frozen batch norm": (partial(GateBeforeNorm, FrozenBatchNorm), images),
    "convnext block": (ConvNeXtBlock, images),
    "self-gated": (SelfGated, vectors),
    "maximum and where": (Extremes, vectors),
    "roll and flip": (RolledAndFlipped, images),
    "layer norm": (LayerNormBetween, vectors),
    "transformer encoder": (TransformerEncoder, sequences),
    "attention": (Attention, partial(torch.randn, 3, 4, 8)),
    "mixer block": (MixerBlock, sequences),
    "shifted windows": (ShiftedWindows, partial(torch.randn, 3, 4, 4, 3)),
    "tied embedding": (TiedEmbedding, integers),
    "two names": (TwoNames, vectors),
    "tokens": (Tokens, integers),
    "two inputs": (TwoInputs, two_inputs),
    "keyword inputs": (KeywordInputs, keyword_inputs),
    "tuple output": (partial(TwoHeads, as_tuple), vectors),
    "dict output": (partial(TwoHeads, as_dict), vectors),
    "dataclass output": (partial(TwoHeads, Answer), vectors),
}
NETWORKS = {name: (partial(shaken, make), example) for name, (make, example) in _MADE.items()}
