"""What a network costs, layer by layer, and which layers can be replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter

from sekron.forward.evaluation import one_line
from sekron.forward.inputs import Arguments, Inputs, example_of
from sekron.layers.factorized import Factorized
from sekron.network.copying import copy_of
from sekron.network.eligibility import (
    TRANSPOSED,
    is_depthwise,
    is_vector,
    reason_to_skip,
    replaceable_modules,
    shared_parameters,
)
from sekron.profiling.count import count
from sekron.profiling.dry_run import reasons_to_keep
from sekron.profiling.network_profile import LayerProfile, NetworkProfile
from sekron.profiling.opened_modules import opened_as_it_runs
from sekron.profiling.selection import Selection, left_out, patterns_of, sensitive_ends
from sekron.profiling.unsearched import leftovers, matrices
from sekron.scalars import number
from sekron.structures.flops import flops_of_calls
from sekron.structures.geometry import Geometry, per_axis
from sekron.structures.structure import Structure


def profile(
    model: nn.Module,
    example_input: Inputs,
    include: Selection | None = None,
    exclude: Selection | None = None,
    min_share: float = 0.0,
) -> NetworkProfile:
    """Count a network's cost on an example and find the layers that can be replaced.

    The first convolution and the last linear layer, cheap and sensitive, stay dense unless
    `include` names them. The model is not touched: everything runs on a copy, in which attention
    is opened: its projections are linear layers there, by names such as `attention.q_proj`.

    Args:
        model: Any network whose operators torch.jit can trace.
        example_input: What its forward takes: a tensor, a tuple of positional or a mapping of
            keyword arguments. Only the first image counts where all tensors go through all images.
        include: Shell-style patterns of layer names, classes of layers, or a function of name and
            module; only these are searched.
        exclude: Layers that are left dense, in the same way.
        min_share: Share of the FLOPs, or of the parameters, that a layer must have to be worth a
            search.

    Returns:
        The costs of the network and of its layers.

    Raises:
        ValueError: If the network does not run on the example or is on the `meta` device, a
            pattern, a class or a function matches no layer, or `min_share` is no share.
    """
    min_share = number("min_share", min_share)
    if not 0.0 <= min_share <= 1.0:
        raise ValueError(f"`min_share` must be between 0 and 1, got {min_share}.")
    arguments = first_image(example_input, model)
    _check_values(model)
    model = opened_as_it_runs(model, arguments)
    network = copy_of(model).eval()
    calls = _record_calls(network, arguments, example_of(example_input, model))
    counts = count(network, arguments)
    total, n_params = counts.by_module[""], _n_params(network)
    reasons = _reasons(model, network, calls, arguments, include, exclude)
    layers = []
    for name, reason in reasons.items():
        layer = _layer(name, network.get_submodule(name), tuple(calls.get(name, ())), reason)
        if not layer.calls:
            layer = replace(layer, flops=counts.by_module.get(name, 0))
        cost = layer.flops / max(total, 1)
        share = max(cost, layer.params / max(n_params, 1))
        if not reason and share < min_share:
            layer = replace(layer, reason=f"below `min_share`, {share:.4f} at most")
        module = network.get_submodule(name)
        if is_depthwise(module) and reason == reason_to_skip(module):
            layer = replace(layer, reason=f"{reason}: {cost:.1%} of the FLOPs")
        layers.append(layer)
    layers += [
        _leftover(name, network.get_submodule(name), counts.by_module, reason)
        for name, reason in leftovers(network).items()
    ]
    return NetworkProfile(total, n_params, counts.unsupported, tuple(layers))


def _check_values(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise ValueError(
                f"the network must have values, but {name!r} is on the `meta` device; load its "
                "weights first."
            )


def _reasons(
    model: nn.Module,
    network: nn.Module,
    calls: dict[str, list[Geometry]],
    arguments: Arguments,
    include: Selection | None,
    exclude: Selection | None,
) -> dict[str, str]:
    """Return layer name -> why it stays dense, empty if it does not; in the order of execution.

    Args:
        model: The network as it was given.
        network: A copy that has run, in which nothing is lazy any more.
        calls: Layer name -> geometry of its calls, in the order of execution.
        arguments: Arguments of the forward pass.
        include: As in `profile`.
        exclude: As in `profile`.
    """
    modules, shared = replaceable_modules(model), shared_parameters(network)
    layers = {name: modules[name] for name in (*calls, *(m for m in modules if m not in calls))}
    include = patterns_of("include", include, layers)
    exclude = patterns_of("exclude", exclude, layers)
    skips = {name: reason_to_skip(module) for name, module in layers.items()}
    keeps = reasons_to_keep(network, [name for name in calls if not skips[name]], arguments)
    ends = {} if include is not None else sensitive_ends(list(calls), modules)
    return {
        name: reason
        or (f"shares its {shared[name]}" if name in shared else "")
        or ("" if name in calls else "never ran on the example input")
        or ("" if calls[name] else "takes or returns something else than its base class does")
        or keeps.get(name, "")
        or ("its weight is a vector, which has no rank" if is_vector(layers[name]) else "")
        or left_out(name, include, exclude)
        or ends.get(name, "")
        for name, reason in skips.items()
    }


def _n_params(network: nn.Module) -> int:
    """Return the size of all parameters, without those whose shape is not known yet."""
    parameters = (p for p in network.parameters() if not isinstance(p, UninitializedParameter))
    return sum(p.numel() for p in parameters)


def first_image(example_input: Inputs, network: nn.Module) -> Arguments:
    """Return the arguments that FLOPs are counted on: for the first image, if it can be told."""
    return example_of(example_input, network).images(0, 1)


def _record_calls(
    network: nn.Module, arguments: Arguments, example: Arguments
) -> dict[str, list[Geometry]]:
    """Return layer name -> geometry of its calls, one for each image of a batch.

    A subclass may take or return what has none.
    """
    calls: dict[str, list[Geometry]] = {}

    def record(name: str) -> Any:
        def hook(
            module: nn.Module, inputs: tuple[object, ...], kwargs: dict[str, object], output: object
        ) -> None:
            x = inputs[0] if inputs else kwargs.get("input")
            if isinstance(x, Tensor) and x.numel() == 0:
                return  # an expert that no image was sent to has not run
            of_layer = calls.setdefault(name, [])
            if isinstance(x, Tensor) and isinstance(output, Tensor):
                is_batch = isinstance(module, _ConvNd) and x.dim() == module.weight.dim()
                of_layer += [_geometry(module, x, output)] * (len(x) if is_batch else 1)

        return hook

    modules = replaceable_modules(network)
    handles = [
        module.register_forward_hook(record(name), with_kwargs=True)
        for name, module in modules.items()
    ]
    try:
        with torch.no_grad():
            arguments.run(network)
    except Exception as error:
        cure = ""
        if any(isinstance(value, Mapping) for value in arguments.positional):
            cure = "; forward takes none of these names, so that the mapping is its one argument"
        cut = "" if str(arguments) == str(example) else f", the first image of {example},"
        raise ValueError(
            f"the network must run on the example input, but on {arguments}{cut} it raised "
            f"{one_line(error)}{cure}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _geometry(module: nn.Module, x: Tensor, output: Tensor) -> Geometry:
    if isinstance(module, nn.Linear):
        return Geometry(tuple(output.shape[:-1]), tuple(x.shape[:-1]), (), ())
    assert isinstance(module, _ConvNd)
    n_axes = len(module.kernel_size)
    before, after = tuple(x.shape[-n_axes:]), tuple(output.shape[-n_axes:])
    if isinstance(module, TRANSPOSED):  # its steps are those of a convolution the other way
        before, after = tuple(map(min, after, _most_reached(module, before))), before
    stride, dilation = per_axis(module.stride, n_axes), per_axis(module.dilation, n_axes)
    return Geometry(after, before, stride, dilation, module.groups)


def _most_reached(module: _ConvNd, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return how far a transposed convolution computes; rows beyond that are zeros."""
    assert not isinstance(module.padding, str)
    options = (per_axis(x, len(sizes)) for x in (module.stride, module.dilation, module.padding))
    axes = zip(sizes, module.kernel_size, *options, strict=True)
    return tuple(n * s + d * (k - 1) - p for n, k, s, d, p in axes)


def _layer(name: str, module: nn.Module, calls: tuple[Geometry, ...], reason: str) -> LayerProfile:
    weight, kind = module.weight, type(module).__name__
    assert isinstance(weight, Tensor)
    if isinstance(weight, UninitializedParameter):
        return LayerProfile(name, kind, (), calls, 0, 0, reason)
    shape = tuple(weight.shape)
    if 0 in shape:
        return LayerProfile(name, kind, shape, calls, 0, 0, reason)
    dense = Structure.dense(shape, int(getattr(module, "groups", 1)))
    ranks = np.zeros((1, 0), dtype=np.int64)
    flops = int(flops_of_calls(dense.shapes, dense.bonds, ranks, calls)[0])
    return LayerProfile(name, kind, shape, calls, flops, weight.numel(), reason)


def _leftover(name: str, module: nn.Module, by_module: dict[str, int], reason: str) -> LayerProfile:
    """Return the profile of a module that is no layer, without the FLOPs of its children."""
    kind = type(module).__name__
    if isinstance(module, Factorized):
        n_params, shape = sum(p.numel() for p in module.parameters()), module.structure.weight_shape
        return LayerProfile(name, kind, shape, (), by_module.get(name, 0), n_params, reason)
    prefix = f"{name}." if name else ""
    inner = sum(by_module.get(prefix + child, 0) for child in module._modules)
    shape = next((tuple(p.shape) for p in matrices(module)), ())
    n_params = sum(p.numel() for p in module.parameters(recurse=False))
    return LayerProfile(name, kind, shape, (), by_module.get(name, 0) - inner, n_params, reason)
