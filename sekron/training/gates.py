"""Gates on the rank indices of a factorization, which training closes: ranks without a spectrum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sekron.decomposition.decompose import decompose, reconstruct
from sekron.layers.factorized import Factorized
from sekron.structures.families import clipped_ranks
from sekron.structures.structure import Structure

LEAST = 1e-3
"""First value of a gate at whose index there is nothing."""


class Gated(nn.Module):
    """A factorized layer in which every index of every bond is multiplied by a gate.

    A gate's first value is what its index carries, relative to the others of its bond, as the
    product of slice norms: in an SVD the singular value. So a penalty that pulls alike at all
    closes the weak ones first, and gates that were hardly trained say what the spectrum says.

    The slices that a gate multiplies could make up for it when it shrinks, so none of them may
    grow beyond its first norm: `hold` sees to it after every step.

    Args:
        layer: A layer of any family; it becomes a part of this module.
    """

    def __init__(self, layer: Factorized) -> None:
        super().__init__()
        self.layer = layer
        factors = layer.factors()
        for k, axis in self._slices():
            self.register_buffer(f"norms_{k}_{axis}", _norms(factors[k].detach(), axis))
        for bond in range(len(layer.structure.ranks)):
            self.register_buffer(f"first_{bond}", self._first_values(bond))
        self.gates = nn.ParameterList(first.clone() for first in self.first)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the layer, which a network may read; called for no own one."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    def forward(self, *inputs: Any, **kwargs: Any) -> Tensor:
        """Run the layer with its gated factors, on what it takes."""
        factors = self.factors()
        weights = {
            f"weights.{i}": operation.pack(factors[operation.factor])
            for i, operation in enumerate(self.layer.operations)
        }
        result: Tensor = functional_call(self.layer, weights, inputs, kwargs)
        return result

    @property
    def first(self) -> list[Tensor]:
        """The first values of the gates of every bond, positive."""
        return [getattr(self, f"first_{bond}") for bond in range(len(self.layer.structure.ranks))]

    @property
    def sizes(self) -> list[Tensor]:
        """The sizes of the gates of every bond, whose first values have the root mean square 1."""
        return [gate.detach().abs() for gate in self.gates]

    def factors(self) -> list[Tensor]:
        """Return the factors, the gates of a bond multiplied into the first that carries it."""
        factors = list(self.layer.factors())
        bonds = self.layer.structure.bonds
        for bond, (gate, first) in enumerate(zip(self.gates, self.first, strict=True)):
            k = next(k for k, factor_bonds in enumerate(bonds) if bond in factor_bonds)
            factors[k] = _scaled(factors[k], self._axis(k, bond), gate / first)
        return factors

    @torch.no_grad()
    def hold(self) -> None:
        """Shrink every slice that has grown beyond its first norm; close gates below zero."""
        for gate in self.gates:
            gate.clamp_(min=0.0)  # a step that a steep penalty took too far
        factors = list(self.layer.factors())
        for k, axis in self._slices():
            first: Tensor = getattr(self, f"norms_{k}_{axis}")
            norms = _norms(factors[k], axis).clamp_min(torch.finfo(factors[k].dtype).tiny)
            factors[k] = _scaled(factors[k], axis, (first / norms).clamp_max(1.0))
        self.layer.set_factors(factors)

    def structure(self, threshold: float) -> Structure:
        """Return the structure that is left without the gates below a threshold.

        The threshold is relative to the root mean square of the first values in a bond, so it is
        the same for layers of any scale. The widest gate of a bond is kept in any case.
        """
        full = self.layer.structure
        ranks = [len(indices) for indices in self._open(threshold)]
        return replace(full, ranks=clipped_ranks(full.family, full.shapes, ranks))

    def cut(self, threshold: float) -> tuple[Tensor, ...]:
        """Return the factors of the structure that is left, the gates multiplied in.

        Where the ranks that are left are more than an exact factorization needs, what they
        compute is factorized anew.
        """
        indices, structure = self._open(threshold), self.structure(threshold)
        parts, wholes = [], []
        for bonds, factor in zip(self.layer.structure.bonds, self.factors(), strict=True):
            part = whole = factor.detach()
            for axis, bond in enumerate(bonds, start=self._first_axis):
                part = part.index_select(axis, indices[bond])
                closed = torch.ones(whole.shape[axis], dtype=torch.bool, device=whole.device)
                closed[indices[bond]] = False
                whole = whole.index_fill(axis, closed.nonzero().flatten(), 0.0)
            parts.append(part)
            wholes.append(whole)
        if structure.ranks == tuple(map(len, indices)):
            return tuple(parts)
        return decompose(reconstruct(wholes, self.layer.structure), structure)

    def _open(self, threshold: float) -> list[Tensor]:
        """Return the indices of the open gates of every bond, at least one each."""
        sizes = self.sizes
        indices = [(size >= threshold).nonzero().flatten() for size in sizes]
        return [
            row if len(row) else size.argmax().reshape(1)
            for row, size in zip(indices, sizes, strict=True)
        ]

    def _first_values(self, bond: int) -> Tensor:
        """Return the products of the norms of the slices at every index, their mean square 1."""
        bonds = self.layer.structure.bonds
        norms = [
            getattr(self, f"norms_{k}_{self._axis(k, bond)}")
            for k, factor_bonds in enumerate(bonds)
            if bond in factor_bonds
        ]
        product: Tensor = torch.stack(norms).prod(dim=0)
        scale = product.square().mean().sqrt().clamp_min(torch.finfo(product.dtype).tiny)
        return (product / scale).clamp_min(LEAST)

    def _slices(self) -> Iterator[tuple[int, int]]:
        """Yield factor and axis of every bond of every factor."""
        for k, bonds in enumerate(self.layer.structure.bonds):
            yield from ((k, self._axis(k, bond)) for bond in bonds)

    def _axis(self, k: int, bond: int) -> int:
        return self._first_axis + self.layer.structure.bonds[k].index(bond)

    @property
    def _first_axis(self) -> int:
        """First axis of a factor's bonds; the groups stand before it, and share their gates."""
        return int(self.layer.structure.groups > 1)


def gated(model: nn.Module) -> dict[str, Gated]:
    """Return layer name -> gated layer of a network."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Gated)}


def _scaled(factor: Tensor, axis: int, values: Tensor) -> Tensor:
    """Multiply the slices of a factor along an axis, each by its own value."""
    shape = [1] * factor.dim()
    shape[axis] = -1
    return factor * values.reshape(shape)


def _norms(factor: Tensor, axis: int) -> Tensor:
    """Return the norms of the slices along an axis."""
    norms: Tensor = factor.movedim(axis, 0).flatten(1).norm(dim=1)
    return norms
