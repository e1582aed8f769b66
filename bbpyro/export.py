"""A small network in files: safetensors with its architecture, torch.export's .pt2, and ONNX."""

import contextlib
import importlib
import inspect
import io
import logging
import re
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bbpyro import checkpoint
from bbpyro.checkpoint import CheckpointError
from bbpyro.checks import check_nest, in_eval_mode
from bbpyro.compaction import Compaction, SelectUnits, UnsupportedModuleError, read_compaction, rebuild, take_apart
from bbpyro.denormals import zero_denormal
from bbpyro.nests import Nest, arguments, first, leaves, map_tensors, tensors_of

COMPACT = "compact.safetensors"
ONNX_WANTS = "ONNX wants packages that are not installed: pip install onnx onnxruntime onnxscript"

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
    """Write a network that :func:`bbpyro.compact` made as one safetensors file, or any of standard layers.

    The file's header has JSON: what compact() did and, of an nn.Sequential, however nested, of torch's usual layers
    and :class:`bbpyro.compaction.SelectUnits`, the architecture. No file holds the forward of a class of your own.

    Args:
        net: the network.
        path: the file, replaced atomically if it exists.

    Raises:
        UnsupportedModuleError: compact() did not make it, and a layer is of another class, such as a module with a
            forward of its own, or holds more than its class does.
        ValueError: the file cannot be written.
    """
    content = to_safetensors(net)
    try:
        checkpoint.write_atomic(Path(path), content)
    except OSError as error:
        raise ValueError(f"path: {str(path)!r} cannot be written ({error.strerror})") from None


def load_compact(path: str | Path, net: nn.Module | None = None) -> nn.Module:
    """The network that :func:`save_compact` or `bbpyro compact` wrote, in evaluation mode.

    Args:
        path: the file, or the run folder that holds compact.safetensors.
        net: the network as it was before compaction, of your own class built anew, `MyNet()`, with any numbers; it
            stays as it is, and what is returned is a smaller copy on the same device (on the CPU where that is meta).
            By default a network of torch's usual layers is made, on the CPU, if that is what was saved.

    Raises:
        CheckpointError: the file is missing, truncated, altered, of a newer format, or no compact network; it holds
            no architecture and there is no `net`; or `net` has other parameters or buffers than the original had.
        TypeError: `net` is no nn.Module.
    """
    if net is not None and not isinstance(net, nn.Module):
        raise TypeError(f"net is {net!r}, wanted an nn.Module: your class built anew, MyNet()")
    path = Path(path)
    path = path / COMPACT if path.is_dir() else path
    tensors, meta = checkpoint.load(path)
    if not isinstance(meta, dict) or not meta.keys() & {"architecture", "compaction"}:
        raise CheckpointError(f"{path} is no compact network, such as bbpyro compact writes")
    if net is None and "architecture" not in meta:
        kind = str(meta.get("class"))[:100]
        raise CheckpointError(
            f"{path} is of the class {kind}, whose forward no file holds: give one built anew as net={kind}()"
        )
    if net is not None and "compaction" not in meta:
        raise CheckpointError(f"{path} says nothing of another network that it was made of; load it without net")
    try:
        if net is None:
            small = _of_architecture(tensors, meta["architecture"])
        else:
            small = rebuild(net, tensors, meta, str(path))
        if "compaction" in meta:
            object.__setattr__(small, "compaction", read_compaction(meta))
        zero_denormal(small.parameters())
    except CheckpointError:
        raise
    except _UnknownLayerError as error:
        raise CheckpointError(f"{path} has a layer {error}, which this bbpyro does not know; upgrade bbpyro") from None
    except Exception as error:  # whatever an architecture that nobody trained makes a constructor raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise CheckpointError(f"{path}: its architecture and its weights do not fit ({reason})") from None
    return small.eval()


def _of_architecture(tensors: Mapping[str, Tensor], architecture: dict[str, Any]) -> nn.Module:
    net = _build(architecture)
    net.load_state_dict(tensors, assign=True)
    return net


def to_safetensors(net: nn.Module) -> bytes:
    """What :func:`save_compact` writes."""
    is_compacted = isinstance(vars(net).get("compaction"), Compaction)
    tensors, meta = take_apart(net) if is_compacted else ({}, {})
    try:
        standard, described = _standard(net)
    except UnsupportedModuleError:
        if not is_compacted:
            raise
        return checkpoint.serialize(tensors, {"class": type(net).__name__, **meta})
    return checkpoint.serialize(standard, {"architecture": described, **meta})


def _standard(net: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    described, tensors = _describe(net, ""), net.state_dict()
    wanted = _build(described).state_dict()
    for name in tensors:
        if name not in wanted or wanted[name].shape != tensors[name].shape:
            raise UnsupportedModuleError(f"{name}: its layer does not have this tensor by its class, so no file can")
    return tensors, described


def to_pt2(net: nn.Module, example_input: Nest) -> bytes:
    """The network as torch.export has it, for any batch size: `torch.export.load(file).module()` needs torch alone.

    Args:
        net: the network, which is written as it is in evaluation mode.
        example_input: tensors `[N, ...]`, one, a tuple of arguments or a dict of keyword arguments, for their shapes
            and types; the file holds nothing else of it.

    Raises:
        UnsupportedModuleError: torch.export does not take the network.
        ValueError: the example is not of tensors `[N, ...]`.
    """
    file = io.BytesIO()
    torch.export.save(_exported(net, *_call(net, example_input)), file)
    return file.getvalue()


def _call(net: nn.Module, example_input: Nest) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments and keyword arguments like those of the example: two data, without anybody's numbers."""
    check_nest("example_input", example_input)
    args, kwargs = arguments(net, map_tensors(lambda x: x.new_zeros(2, *x.shape[1:]), example_input))
    names = [name for name in inspect.signature(net.forward).parameters if name in kwargs]  # as torch orders them
    return args, {name: kwargs[name] for name in (*names, *(name for name in kwargs if name not in names))}


def _any_batch(net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], batch: Any) -> dict[str, Any]:
    """What torch wants as dynamic_shapes."""
    return map_tensors(lambda _: {0: batch}, dict(_bound(net, args, kwargs)))


def _bound(net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mapping[str, Any]:
    return inspect.signature(net.forward).bind(*args, **kwargs).arguments


def _exported(net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.export.ExportedProgram:
    """The network for any number of data, without the paths of this machine."""
    shapes = _any_batch(net, args, kwargs, torch.export.Dim("batch"))

    def export(strict: bool) -> torch.export.ExportedProgram:
        with (
            torch.no_grad(),
            in_eval_mode(net),
            _without_advice(),
            warnings.catch_warnings(),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.filterwarnings("ignore", message="Guards may run slower")  # of torch, to Python 3.13.0
            return torch.export.export(net, args, kwargs, dynamic_shapes=shapes, strict=strict)

    try:
        exported = export(strict=False)
    except Exception as error:  # of any class
        try:
            exported = export(strict=True)  # reads the code of forward, where len(x) then is no constant
        except Exception:
            raise UnsupportedModuleError(f"torch.export does not take this network ({_first(error)})") from error
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)
    return exported


def _first(error: Exception) -> str:
    """The first sentence of an error, of many lines perhaps."""
    return str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__


def has_onnx() -> bool:
    """Whether what ONNX needs, the extra `onnx`, is installed and can be imported."""
    try:
        for package in ("onnx", "onnxruntime", "onnxscript"):
            importlib.import_module(package)
    except ImportError:
        return False
    return True


def to_onnx(net: nn.Module, example_input: Nest) -> bytes:
    """The network as ONNX, for any batch size.

    A single input is "x"; several have the names of forward's parameters, and of their places in those, such as
    `batch["tokens"]`. A single output is "output"; several are `output[0]` and so on, or have the keys of a dict.

    Args:
        net: the network, which is written as it is in evaluation mode.
        example_input: tensors `[N, ...]`, one, a tuple of arguments or a dict of keyword arguments, for their shapes
            and types.

    Raises:
        UnsupportedModuleError: torch.export or torch.onnx.export does not take the network.
        ValueError: the extra `onnx` is not installed, or the example is not of tensors `[N, ...]`.
    """
    require_onnx()
    args, kwargs = _call(net, example_input)
    exported = _exported(net, args, kwargs)
    with torch.no_grad(), in_eval_mode(net):
        outputs = _named(net(*args, **kwargs), "output")
    with warnings.catch_warnings(), _without_advice():
        # Torch's exporter deprecates what torch's own export made; nobody here can change either.
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*axis name: batch will not be used", category=UserWarning)  # twice
        try:
            program: Any = torch.onnx.export(
                exported,
                dynamo=True,
                dynamic_shapes=_any_batch(net, args, kwargs, "batch"),  # here for its name
                input_names=_input_names(net, args, kwargs),
                output_names=list(outputs),
                verbose=False,
            )
        except Exception as error:  # of any class
            raise UnsupportedModuleError(f"torch.onnx.export does not take this network ({_first(error)})") from error
    proto = program.model_proto
    for node in (*proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        del node.metadata_props[:]  # stack traces, with the paths of this machine
    return bytes(proto.SerializeToString())


def _input_names(net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    if len(list(tensors_of((args, kwargs)))) == 1:
        return ["x"]
    if len(args) == 1 and isinstance(args[0], Mapping):  # a batch that forward takes whole
        return list(_named(args[0]))
    return list(_named(_bound(net, args, kwargs)))


def _named(nest: Nest, name: str = "x") -> dict[str, Tensor]:
    """The tensors of a nest by their places, those of a dict by its keys."""
    parts = nest.items() if isinstance(nest, Mapping) else [(name, nest)]
    return {at: leaf for top, part in parts for at, leaf in leaves(part, str(top)) if isinstance(leaf, Tensor)}


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
    """No log below errors of torch and of those who write ONNX."""
    # Torch lists what it lacks without torchvision; ONNX Runtime says to the root logger to prepare the file first.
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(disabled)


def onnx_network(onnx_file: bytes) -> Callable[[Nest], Any]:
    """ONNX Runtime's network, on one thread of the CPU: from a float32 tensor `[N, ...]` to one.

    Or from what the network takes, a tuple of tensors or a dict of them, to a tuple of outputs, or to a dict of them
    by name where they were a dict.

    Raises:
        ValueError: the extra `onnx` is not installed.
    """
    require_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx_file, options, providers=["CPUExecutionProvider"])
    inputs, names = ([one.name for one in found] for found in (session.get_inputs(), session.get_outputs()))

    def network(x: Nest) -> Any:
        found = session.run(None, {name: tensor.numpy() for name, tensor in _by_input(x, inputs).items()})
        outputs = dict(zip(names, map(torch.from_numpy, found), strict=True))
        if all(name.startswith("output") for name in names):
            return tuple(outputs.values()) if len(names) > 1 else outputs[names[0]]
        return outputs

    return network


def _by_input(x: Nest, inputs: list[str]) -> dict[str, Tensor]:
    """The tensors in x by the names of the inputs."""
    if len(inputs) == 1:
        return {inputs[0]: first(x)}
    tops = list(dict.fromkeys(re.split(r"[.[]", name)[0] for name in inputs))
    ways = [x, {tops[0]: x}]
    if isinstance(x, tuple | list):
        ways.append(dict(zip(tops, [part for part in x if part is not None], strict=False)))
    for way in ways:
        if (named := _named(way)).keys() == set(inputs):
            return named
    raise ValueError(f"x has the tensors {', '.join(_named(x))}, wanted {', '.join(inputs)}")


def require_onnx() -> None:
    """Raise a ValueError unless the extra `onnx` is installed."""
    if not has_onnx():
        raise ValueError(ONNX_WANTS)


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
    given = {
        key: _argument(module, key)
        for key in inspect.signature(kind).parameters
        if key not in ("device", "dtype") and hasattr(module, key)
    }
    return {"type": kind.__name__, "arguments": given}


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
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in described["arguments"].items()}
    with torch.device("meta"):
        return _LAYERS[kind](**given)
