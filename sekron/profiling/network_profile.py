"""The record of what a network costs: layer by layer, and under a plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sekron.budget import RESOURCES, Budget
from sekron.network.plan import Plan
from sekron.structures.families import block_shape
from sekron.structures.flops import flops_of_calls
from sekron.structures.geometry import Geometry
from sekron.structures.structure import Structure


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """The costs of one module with a weight.

    Attributes:
        name: Name of the module; the first one, where it has several.
        kind: Class of the module.
        weight_shape: `(out, in, kernel extents…)`; `in` of one group.
        calls: Geometry of every call in the example's forward pass; a convolution called on a batch
            counts as one call for each image in it.
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
        """Number of groups of the convolution; 1 for a layer that never ran."""
        return self.calls[0].groups if self.calls else 1

    @property
    def block_shape(self) -> tuple[int, ...]:
        """Shape of what a structure factorizes: the weight, or its part for one group."""
        return block_shape(self.weight_shape, self.groups)

    def dense(self, resource: str) -> int:
        """Return what the dense layer uses of a resource, by its name in a budget."""
        return self.flops if resource == "flops" else self.params

    def flops_of(self, structure: Structure, order: tuple[int, ...] | None = None) -> int:
        """Return the multiply-adds of all calls with a structure, default in its cheapest order."""
        ranks = np.array([structure.ranks], dtype=np.int64)
        shapes, bonds = structure.shapes, structure.bonds
        return int(flops_of_calls(shapes, bonds, ranks, self.calls, order)[0])


@dataclass(frozen=True, slots=True)
class NetworkProfile:
    """A network's cost for one image.

    Attributes:
        flops: fvcore's count of the whole network.
        params: Parameters of the whole network.
        unsupported: Operator that fvcore does not count -> number of its calls.
        layers: Every convolution and linear layer, in the order of execution; then whatever else
            holds a weight.
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
