"""What a network costs, layer by layer, and which layers can be replaced."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import conv_flop_count, get_shape
from torch import Tensor, nn

from sekron.budget import RESOURCES, Budget
from sekron.contraction import flops_of_ranks
from sekron.evaluation import evaluating
from sekron.geometry import Geometry
from sekron.kinds import TRANSPOSED
from sekron.plan import Plan
from sekron.structure import Structure
from sekron.surgery import reason_to_skip, replaceable_modules, shared_weights

Inputs = Tensor | tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """One module with a weight.

    Attributes:
        name: Of the module; of the first of its names, where it has several.
        kind: Class of the module.
        weight_shape: `(out, in, kernel extents…)`.
        calls: The convolution of every call, in the example's forward pass.
        flops: Multiply-adds of all calls.
        params: Numbers in the weight.
        reason: Why it is left dense; empty where it is searched.
    """

    name: str
    kind: str
    weight_shape: tuple[int, ...]
    calls: tuple[Geometry, ...]
    flops: int
    params: int
    reason: str

    def dense(self, resource: str) -> int:
        """Return what the dense layer uses of a resource, by its name in a budget."""
        return self.flops if resource == "flops" else self.params

    def flops_of(self, structure: Structure, order: tuple[int, ...] | None = None) -> int:
        """Return the multiply-adds of all calls with another structure, default cheapest order."""
        ranks = np.array([structure.ranks], dtype=np.int64)
        return sum(
            int(flops_of_ranks(structure.shapes, structure.bonds, ranks, call, order)[0])
            for call in self.calls
        )


@dataclass(frozen=True, slots=True)
class NetworkProfile:
    """A network's cost for one image.

    Attributes:
        flops: fvcore's count of the whole network.
        params: Parameters of the whole network.
        unsupported: Operators that fvcore does not count, with their numbers of calls.
        layers: Every convolution and linear layer, in the order of execution.
    """

    flops: int
    params: int
    unsupported: dict[str, int]
    layers: tuple[LayerProfile, ...]

    @property
    def searched(self) -> tuple[LayerProfile, ...]:
        """The layers that can be replaced."""
        return tuple(layer for layer in self.layers if not layer.reason)

    def dense(self, resource: str) -> int:
        """Return what the dense network uses of a resource, by its name in a budget."""
        return self.flops if resource == "flops" else self.params

    def fixed(self, resource: str) -> int:
        """Return what everything that is not searched uses of a resource."""
        return self.dense(resource) - sum(layer.dense(resource) for layer in self.searched)

    def totals(self, plan: Plan) -> dict[str, int]:
        """Return the FLOPs and parameters of the whole network under a plan.

        Raises:
            ValueError: If the plan replaces a layer that is not searched.
        """
        unknown = set(plan) - {layer.name for layer in self.searched}
        if unknown:
            raise ValueError(f"the plan must replace searched layers only, got {min(unknown)!r}.")
        totals = {name: self.dense(name) for name in RESOURCES}
        for layer in self.searched:
            if layer.name in plan:
                structure, order = plan[layer.name], plan.form(layer.name).order
                totals["params"] += structure.n_params - layer.params
                totals["flops"] += layer.flops_of(structure, order) - layer.flops
        return totals

    def available(self, budget: Budget) -> dict[str, int]:
        """Return what the searched layers may use of each resource that a budget limits."""
        limits = {name: budget.limit(name, self.dense(name)) for name in RESOURCES}
        return {
            name: limit - self.fixed(name) for name, limit in limits.items() if limit is not None
        }


def profile(
    model: nn.Module,
    example_input: Inputs,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
) -> NetworkProfile:
    """Count a network's cost on an example and find the layers that can be replaced.

    The first convolution and the last linear layer, cheap and sensitive, stay dense unless
    `include` names them. The model is not touched: everything runs on a copy.

    Args:
        model: Any network that torch.jit can trace.
        example_input: What its forward takes: a tensor, or a tuple of arguments. Of a tensor the
            first image counts, of a tuple everything.
        include: Shell-style patterns of layer names; only these are searched.
        exclude: Patterns of layer names that are left dense.

    Returns:
        The costs.

    Raises:
        ValueError: If the network does not run on the example, or a pattern matches no layer.
    """
    network = copy.deepcopy(model).eval()
    arguments = first_image(example_input)
    calls = _record_calls(network, arguments)
    total, unsupported = count_flops(network, arguments)
    modules, shared = replaceable_modules(network), shared_weights(network)
    order = sorted(modules, key=lambda name: list(calls).index(name) if name in calls else 10**9)
    for pattern in (*(include or ()), *(exclude or ())):
        if not any(fnmatchcase(name, pattern) for name in order):
            raise ValueError(
                f"the pattern {pattern!r} must match a layer, but matches none of "
                f"{', '.join(order[:4])}, …; `sekron layers` lists all."
            )
    ends = _sensitive_ends([name for name in order if name in calls], modules)
    layers = []
    for name in order:
        module = modules[name]
        reason = reason_to_skip(module)
        if not reason and name in shared:
            reason = f"shares its weight with {shared[name]}"
        if not reason and name not in calls:
            reason = "never ran on the example input"
        if not reason:
            reason = _left_out(name, include, exclude) or (
                "" if include is not None else ends.get(name, "")
            )
        layers.append(_layer(name, module, tuple(calls.get(name, ())), reason))
    return NetworkProfile(
        flops=total,
        params=sum(p.numel() for p in network.parameters()),
        unsupported=unsupported,
        layers=tuple(layers),
    )


def first_image(example_input: Inputs) -> tuple[Any, ...]:
    """Return the arguments that FLOPs are counted on: of a tensor the first image."""
    return example_input if isinstance(example_input, tuple) else (example_input[:1],)


def count_flops(model: nn.Module, arguments: tuple[Any, ...]) -> tuple[int, dict[str, int]]:
    """Return fvcore's multiply-adds of a network, and the operators that it does not count.

    `padding="same"` is counted here, because fvcore takes such a convolution for free.

    Reference:
        fvcore, docs/flop_count.md: one FLOP is one multiply-add.
    """
    with evaluating(model):
        analysis = FlopCountAnalysis(model, arguments)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        analysis.set_op_handle("aten::_convolution_mode", _same_convolution)
        return int(analysis.total()), dict(analysis.unsupported_ops())


def _same_convolution(inputs: list[Any], outputs: list[Any]) -> int:
    x, weight, out = (get_shape(value) for value in (inputs[0], inputs[1], outputs[0]))
    return int(conv_flop_count(x, weight, out))


def _record_calls(network: nn.Module, arguments: tuple[Any, ...]) -> dict[str, list[Geometry]]:
    calls: dict[str, list[Geometry]] = {}

    def record(name: str) -> Any:
        def hook(
            module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor
        ) -> None:
            x = inputs[0] if inputs else named["input"]
            calls.setdefault(name, []).append(_geometry(module, x, output))

        return hook

    modules = replaceable_modules(network)
    handles = [
        module.register_forward_hook(record(name), with_kwargs=True)
        for name, module in modules.items()
    ]
    try:
        with torch.no_grad():
            network(*arguments)
    except Exception as error:
        shapes = [tuple(a.shape) if isinstance(a, Tensor) else type(a).__name__ for a in arguments]
        raise ValueError(
            f"the network must run on the example input, but on {shapes} it raised "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _geometry(module: nn.Module, x: Tensor, output: Tensor) -> Geometry:
    if isinstance(module, nn.Linear):
        return Geometry(tuple(output.shape[:-1]), tuple(x.shape[:-1]), (), ())
    n_axes = module.weight.dim() - 2  # type: ignore[operator]
    if isinstance(module, TRANSPOSED):
        x, output = output, x  # its steps are those of a convolution the other way
    return Geometry(
        tuple(output.shape[-n_axes:]),
        tuple(x.shape[-n_axes:]),
        tuple(module.stride),  # type: ignore[arg-type]
        tuple(module.dilation),  # type: ignore[arg-type]
    )


def _sensitive_ends(order: list[str], modules: dict[str, nn.Module]) -> dict[str, str]:
    convolutions = [name for name in order if not isinstance(modules[name], nn.Linear)]
    linears = [name for name in order if isinstance(modules[name], nn.Linear)]
    ends = {}
    if convolutions:
        ends[convolutions[0]] = "first convolution, left dense unless `include` names it"
    if linears and order[-1] == linears[-1]:
        ends[linears[-1]] = "last linear layer, left dense unless `include` names it"
    return ends


def _left_out(name: str, include: Sequence[str] | None, exclude: Sequence[str] | None) -> str:
    if include is not None and not any(fnmatchcase(name, pattern) for pattern in include):
        return "not in `include`"
    if any(fnmatchcase(name, pattern) for pattern in exclude or ()):
        return "in `exclude`"
    return ""


def _layer(name: str, module: nn.Module, calls: tuple[Geometry, ...], reason: str) -> LayerProfile:
    weight = module.weight
    assert isinstance(weight, Tensor)
    shape = tuple(weight.shape)
    dense = Structure.dense(shape)
    flops = sum(
        dense.flops(c.output_size, stride=c.stride, dilation=c.dilation, input_size=c.input_size)
        for c in calls
    )
    kind = type(module).__name__
    return LayerProfile(name, kind, shape, calls, flops, weight.numel(), reason)
