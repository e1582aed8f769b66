"""A small network in files: safetensors with its architecture, torch.export's .pt2, and ONNX."""

import contextlib
import importlib
import inspect
import io
import logging
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bbpyro import checkpoint
from bbpyro.checkpoint import CheckpointError
from bbpyro.checks import in_eval_mode
from bbpyro.compaction import SelectUnits, UnsupportedModuleError
from bbpyro.denormals import zero_denormal

COMPACT = "compact.safetensors"

# What an architecture may be made of: layers whose constructor's arguments are also their attributes.
_LAYERS: dict[str, type[nn.Module]] = {
    layer.__name__: layer
    for layer in (
        *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
        *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardtanh, nn.ReLU6, nn.PReLU),
        *(nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softmax, nn.LogSoftmax, nn.Identity, nn.Flatten, nn.Unflatten),
        *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
        *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool2d),
        *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.LayerNorm, nn.GroupNorm, nn.ZeroPad2d),
    )
}


def save_compact(net: nn.Module, path: str | Path) -> None:
    """Write a network of standard layers as one safetensors file, its architecture as JSON in the file's header.

    Args:
        net: an nn.Sequential, however nested, of torch's usual layers and :class:`bbpyro.compaction.SelectUnits`.
        path: the file, replaced atomically if it exists.

    Raises:
        UnsupportedModuleError: a layer is of another class, such as a module with a forward of its own, or holds more
            than its class does.
        ValueError: the file cannot be written.
    """
    content = to_safetensors(net)
    try:
        checkpoint.write_atomic(Path(path), content)
    except OSError as error:
        raise ValueError(f"path: {str(path)!r} cannot be written ({error.strerror})") from None


def load_compact(path: str | Path) -> nn.Module:
    """The network that :func:`save_compact` or `bbpyro compact` wrote, in evaluation mode on the CPU.

    Args:
        path: the file, or the run folder that holds compact.safetensors.

    Raises:
        CheckpointError: the file is missing, truncated, altered, of a newer format, or no compact network.
    """
    path = Path(path)
    path = path / COMPACT if path.is_dir() else path
    tensors, meta = checkpoint.load(path)
    if not isinstance(meta, dict) or "architecture" not in meta:
        raise CheckpointError(f"{path} is no compact network, such as bbpyro compact writes")
    try:
        net = _build(meta["architecture"])
        net.load_state_dict(tensors, assign=True)
        zero_denormal(net.parameters())
    except _UnknownLayerError as error:
        raise CheckpointError(f"{path} has a layer {error}, which this bbpyro does not know; upgrade bbpyro") from None
    except Exception as error:  # whatever an architecture that nobody trained makes a constructor raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise CheckpointError(f"{path}: its architecture and its weights do not fit ({reason})") from None
    return net.eval()


def to_safetensors(net: nn.Module) -> bytes:
    """What :func:`save_compact` writes."""
    described, tensors = _describe(net, ""), net.state_dict()
    wanted = _build(described).state_dict()
    for name in tensors:
        if name not in wanted or wanted[name].shape != tensors[name].shape:
            raise UnsupportedModuleError(f"{name}: its layer does not have this tensor by its class, so no file can")
    return checkpoint.serialize(tensors, {"architecture": described})


def to_pt2(net: nn.Module, example_input: Tensor) -> bytes:
    """The network as torch.export has it, for any batch size: `torch.export.load(file).module()` needs torch alone.

    Args:
        net: the network, which is written as it is in evaluation mode.
        example_input: `[N, ...]`, for its shape and type; the file holds nothing of it.
    """
    file = io.BytesIO()
    with torch.no_grad(), in_eval_mode(net):
        exported = torch.export.export(net, (_blank(example_input),), dynamic_shapes=_ANY_BATCH)
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)  # with the paths of this machine
    torch.export.save(exported, file)
    return file.getvalue()


_ANY_BATCH = ({0: torch.export.Dim("batch")},)


def _blank(example_input: Tensor) -> Tensor:
    """Two data of the same shape and type, without anybody's numbers."""
    return example_input.new_zeros(2, *example_input.shape[1:])


def has_onnx() -> bool:
    """Whether what ONNX needs, the extra `onnx`, is installed and can be imported."""
    try:
        for package in ("onnx", "onnxruntime", "onnxscript"):
            importlib.import_module(package)
    except ImportError:
        return False
    return True


def to_onnx(net: nn.Module, example_input: Tensor) -> bytes:
    """The network as ONNX, for any batch size, from input "x" `[N, ...]` to output "output".

    Args:
        net: the network, which is written as it is in evaluation mode.
        example_input: `[N, ...]`, for its shape and type.

    Raises:
        ValueError: the extra `onnx` is not installed.
    """
    require_onnx()
    with warnings.catch_warnings(), _without_advice(), torch.no_grad(), in_eval_mode(net):
        # Torch's exporter deprecates what torch's own export made; nobody here can change either.
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec", category=FutureWarning)
        program: Any = torch.onnx.export(
            net,
            (_blank(example_input),),
            dynamo=True,
            dynamic_shapes=_ANY_BATCH,
            input_names=["x"],
            output_names=["output"],
            verbose=False,
        )
    proto = program.model_proto
    for node in (*proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        del node.metadata_props[:]  # stack traces, with the paths of this machine
    return bytes(proto.SerializeToString())


def to_int8(onnx_file: bytes) -> bytes:
    """The same ONNX network with weights of eight bits; activations are quantised as they come (dynamically).

    Raises:
        ValueError: the extra `onnx` is not installed.
    """
    require_onnx()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, _without_advice():
        before, after = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        before.write_bytes(onnx_file)
        quantize_dynamic(before, after, weight_type=QuantType.QInt8)
        return after.read_bytes()


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """No log below errors of those who write ONNX."""
    # Torch lists what it lacks without torchvision; ONNX Runtime says to the root logger to prepare the file first.
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(disabled)


def onnx_network(onnx_file: bytes) -> Callable[[Tensor], Tensor]:
    """ONNX Runtime's network, on one thread of the CPU: from a float32 tensor `[N, ...]` to one.

    Raises:
        ValueError: the extra `onnx` is not installed.
    """
    require_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx_file, options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


def require_onnx() -> None:
    """Raise a ValueError unless the extra `onnx` is installed."""
    if not has_onnx():
        raise ValueError("ONNX wants packages that are not installed: pip install onnx onnxruntime onnxscript")


class _UnknownLayerError(Exception):
    pass


def _describe(module: nn.Module, name: str) -> dict[str, Any]:
    """A module as JSON holds it: its type, and its children or its constructor's arguments."""
    kind = type(module)
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        raise UnsupportedModuleError(f"{name or 'the network'}: it has a hook, which no file can hold")
    if kind is nn.Sequential:  # a child that is there twice is written twice
        children = [
            [key, _describe(child, f"{name}.{key}".lstrip("."))] for key, child in module._modules.items() if child
        ]
        return {"type": "Sequential", "children": children}
    if kind is SelectUnits:
        return {"type": "SelectUnits", "num_units": module.get_buffer("indices").numel()}
    if kind not in _LAYERS.values():
        raise UnsupportedModuleError(
            f"{name or 'the network'}: {kind.__name__} is none of torch's usual layers, nor an nn.Sequential of them; "
            "bbpyro.export.to_pt2 and to_onnx make files of any network"
        )
    arguments = {
        argument: _argument(module, argument)
        for argument in inspect.signature(kind).parameters
        if argument not in ("device", "dtype") and hasattr(module, argument)
    }
    return {"type": kind.__name__, "arguments": arguments}


def _argument(module: nn.Module, name: str) -> Any:
    value = getattr(module, name)
    return value is not None if name == "bias" else value


def _build(described: dict[str, Any]) -> nn.Module:
    """The modules, without memory for their tensors."""
    kind = described["type"]
    if kind == "Sequential":
        return nn.Sequential(OrderedDict((name, _build(child)) for name, child in described["children"]))
    if kind == "SelectUnits":
        return SelectUnits(torch.zeros(described["num_units"], dtype=torch.int64, device="meta"))
    if kind not in _LAYERS:
        raise _UnknownLayerError(str(kind)[:50])
    # JSON has no tuples, and torch's layers take no lists for them.
    arguments = {name: tuple(v) if isinstance(v, list) else v for name, v in described["arguments"].items()}
    with torch.device("meta"):
        return _LAYERS[kind](**arguments)
