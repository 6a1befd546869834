"""What a network costs, layer by layer, and which layers can be replaced."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sekron.budget import RESOURCES, Budget
from sekron.choice import Selection, left_out, patterns_of, sensitive_ends
from sekron.contraction import flops_of_ranks
from sekron.counting import count_flops
from sekron.geometry import Geometry
from sekron.kinds import TRANSPOSED
from sekron.plan import Plan
from sekron.structure import Structure, block_shape
from sekron.surgery import DEPTHWISE, reason_to_skip, replaceable_modules, shared_weights
from sekron.witness import reasons_to_keep

Inputs = Tensor | tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """One module with a weight.

    Attributes:
        name: Of the module; of the first of its names, where it has several.
        kind: Class of the module.
        weight_shape: `(out, in, kernel extents…)`; `in` of one group.
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

    @property
    def groups(self) -> int:
        """Of the convolution; 1 for a layer that never ran."""
        return self.calls[0].groups if self.calls else 1

    @property
    def block_shape(self) -> tuple[int, ...]:
        """Shape of what a structure factorizes: of the weight, or of that of one group."""
        return block_shape(self.weight_shape, self.groups)

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
    include: Selection | None = None,
    exclude: Selection | None = None,
    min_share: float = 0.0,
) -> NetworkProfile:
    """Count a network's cost on an example and find the layers that can be replaced.

    The first convolution and the last linear layer, cheap and sensitive, stay dense unless
    `include` names them. The model is not touched: everything runs on a copy.

    Args:
        model: Any network that torch.jit can trace.
        example_input: What its forward takes: a tensor, or a tuple of arguments. Of a tensor the
            first image counts, of a tuple everything.
        include: Shell-style patterns of layer names, classes of layers, or a function of name and
            module; only these are searched.
        exclude: In the same way, layers that are left dense.
        min_share: Share of the FLOPs, or of the parameters, that a layer must have to be worth a
            search.

    Returns:
        The costs.

    Raises:
        ValueError: If the network does not run on the example, a pattern, a class or a function
            matches no layer, or `min_share` is no share.
    """
    if not 0.0 <= min_share <= 1.0:
        raise ValueError(f"`min_share` must be between 0 and 1, got {min_share}.")
    network = copy.deepcopy(model).eval()
    arguments = first_image(example_input)
    calls = _record_calls(network, arguments)
    total, unsupported = count_flops(network, arguments)
    modules, shared = replaceable_modules(network), shared_weights(network)
    order = sorted(modules, key=lambda name: list(calls).index(name) if name in calls else 10**9)
    listed = {name: modules[name] for name in order}
    include = patterns_of("include", include, listed)
    exclude = patterns_of("exclude", exclude, listed)
    ends = sensitive_ends([name for name in order if name in calls], modules)
    replaced = [name for name in calls if not reason_to_skip(modules[name])]
    kept = reasons_to_keep(network, replaced, arguments)
    layers = []
    for name in order:
        module = modules[name]
        reason = reason_to_skip(module)
        if not reason and name in shared:
            reason = f"shares its weight with {shared[name]}"
        if not reason and name not in calls:
            reason = "never ran on the example input"
        reason = reason or kept.get(name, "")
        if not reason:
            reason = left_out(name, include, exclude) or (
                "" if include is not None else ends.get(name, "")
            )
        layers.append(_layer(name, module, tuple(calls.get(name, ())), reason))
    n_params = sum(p.numel() for p in network.parameters())
    for index, layer in enumerate(layers):
        share = max(layer.flops / max(total, 1), layer.params / max(n_params, 1))
        if not layer.reason and share < min_share:
            layers[index] = replace(layer, reason=f"below `min_share`, {share:.4f} at most")
        if layer.reason == DEPTHWISE:
            cost = layer.flops / max(total, 1)
            layers[index] = replace(layer, reason=f"{DEPTHWISE}: {cost:.1%} of the FLOPs")
    return NetworkProfile(
        flops=total,
        params=n_params,
        unsupported=unsupported,
        layers=tuple(layers),
    )


def first_image(example_input: Inputs) -> tuple[Any, ...]:
    """Return the arguments that FLOPs are counted on: of a tensor the first image."""
    return example_input if isinstance(example_input, tuple) else (example_input[:1],)


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
        int(module.groups),  # type: ignore[arg-type]
    )


def _layer(name: str, module: nn.Module, calls: tuple[Geometry, ...], reason: str) -> LayerProfile:
    weight = module.weight
    assert isinstance(weight, Tensor)
    shape = tuple(weight.shape)
    dense = Structure.dense(shape, int(getattr(module, "groups", 1)))
    flops = sum(
        dense.flops(c.output_size, stride=c.stride, dilation=c.dilation, input_size=c.input_size)
        for c in calls
    )
    kind = type(module).__name__
    return LayerProfile(name, kind, shape, calls, flops, weight.numel(), reason)
