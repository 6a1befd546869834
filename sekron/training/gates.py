"""Gates on the rank indices of a factorization, which training closes: ranks without a spectrum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

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

    A gate that shrinks could be made up for by the slices that it multiplies, so none of them
    may grow beyond its first norm: `hold` sees to it after every step.

    Args:
        layer: Of any family; becomes a part of this module.
    """

    def __init__(self, layer: Factorized) -> None:
        super().__init__()
        self.layer = layer
        factors = layer.factors()
        for k, axis in self._slices():
            self.register_buffer(f"norms_{k}_{axis}", _norms(factors[k].detach(), axis))
        for bond in range(len(layer.structure.ranks)):
            self.register_buffer(f"first_{bond}", self._carried(bond))
        self.gates = nn.ParameterList(first.clone() for first in self.first)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  as torch names it
        """Run the layer with its gated factors."""
        factors = self.factors()
        packed = {
            f"weights.{i}": operation.pack(factors[operation.factor])
            for i, operation in enumerate(self.layer.operations)
        }
        result: Tensor = functional_call(self.layer, packed, (input,))
        return result

    @property
    def first(self) -> list[Tensor]:
        """The first values of the gates of every bond, positive."""
        return [getattr(self, f"first_{bond}") for bond in range(len(self.layer.structure.ranks))]

    @property
    def sizes(self) -> list[Tensor]:
        """What the gates of every bond are, relative to the mean square of their first values."""
        return [gate.detach().abs() for gate in self.gates]

    def factors(self) -> list[Tensor]:
        """Return the factors, the gates of a bond multiplied into the first that carries it."""
        factors = list(self.layer.factors())
        bonds = self.layer.structure.bonds
        for bond, (gate, first) in enumerate(zip(self.gates, self.first, strict=True)):
            k = next(k for k, own in enumerate(bonds) if bond in own)
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
            grown = _norms(factors[k], axis).clamp_min(1e-30)
            factors[k] = _scaled(factors[k], axis, (first / grown).clamp_max(1.0))
        self.layer.set_factors(factors)

    def structure(self, threshold: float) -> Structure:
        """Return the structure that is left without the gates below a threshold.

        The threshold is relative to the mean square of the first values in a bond, so the same for
        layers of any scale. The widest gate of a bond is kept in any case.
        """
        old = self.layer.structure
        ranks = [len(kept) for kept in self._kept(threshold)]
        return replace(old, ranks=clipped_ranks(old.family, old.shapes, ranks))

    def cut(self, threshold: float) -> tuple[Tensor, ...]:
        """Return the factors of that structure, the gates multiplied in.

        Where the ranks that are left are more than an exact factorization needs, what they
        compute is factorized anew.
        """
        kept, structure = self._kept(threshold), self.structure(threshold)
        cut, zeroed = [], []
        for bonds, factor in zip(self.layer.structure.bonds, self.factors(), strict=True):
            small = whole = factor.detach()
            for axis, bond in enumerate(bonds, start=self._first_axis):
                small = small.index_select(axis, kept[bond])
                closed = torch.ones(whole.shape[axis], dtype=torch.bool, device=whole.device)
                closed[kept[bond]] = False
                whole = whole.index_fill(axis, closed.nonzero().flatten(), 0.0)
            cut.append(small)
            zeroed.append(whole)
        if structure.ranks == tuple(map(len, kept)):
            return tuple(cut)
        return decompose(reconstruct(zeroed, self.layer.structure), structure)

    def _kept(self, threshold: float) -> list[Tensor]:
        sizes = self.sizes
        opened = [(size >= threshold).nonzero().flatten() for size in sizes]
        return [
            indices if len(indices) else size.argmax().reshape(1)
            for indices, size in zip(opened, sizes, strict=True)
        ]

    def _carried(self, bond: int) -> Tensor:
        """Return the product of the norms of the slices at every index, their mean square 1."""
        bonds = self.layer.structure.bonds
        norms = [
            getattr(self, f"norms_{k}_{self._axis(k, bond)}")
            for k, own in enumerate(bonds)
            if bond in own
        ]
        product: Tensor = torch.stack(norms).prod(dim=0)
        size = product.square().mean().sqrt().clamp_min(1e-30)
        return (product / size).clamp_min(LEAST)

    def _slices(self) -> Iterator[tuple[int, int]]:
        """Yield factor and axis of every bond of every factor."""
        for k, bonds in enumerate(self.layer.structure.bonds):
            yield from ((k, self._axis(k, bond)) for bond in bonds)

    def _axis(self, k: int, bond: int) -> int:
        return self._first_axis + self.layer.structure.bonds[k].index(bond)

    @property
    def _first_axis(self) -> int:
        """Of a factor's bonds; the groups of a convolution stand before, and share their gates."""
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
