"""Channel SVD of a weight as its inputs see it: least error of a layer's output at every rank.

For inputs `x` with the second moment `G = E[x xᵀ] = V Λ Vᵀ`, what a factorization changes of the
output is `E‖(W − Ŵ) x‖² = ‖(W − Ŵ) V Λ^½‖²`. The singular value decomposition of `W V Λ^½` makes it
least at every rank; `Λ^-½ Vᵀ` then takes the whitening out of the second factor.

Reference:
    González Martínez, BALF: Budgeted activation-aware low-rank factorization for fine-tuning-free
    model compression, arXiv 2509.25136.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from baselines.methods import SVD
from sekron.calibration.moments import WIDEST, moments
from sekron.forward.batches import Batches
from sekron.network.eligibility import TRANSPOSED
from sekron.network.surgery import weight_of
from sekron.profiling.network_profile import NetworkProfile
from sekron.rank_curves.curves import Spectra
from sekron.rank_curves.table import CandidateTable
from sekron.structures.structure import Structure

CUTOFF = torch.finfo(torch.float32).eps
"""Share of the largest eigenvalue below which another is rounding: moments are sums in fp32."""


@dataclass(frozen=True, eq=False, slots=True)
class Whitening:
    """What a layer's inputs are made of: `V Λ^½` of their second moment.

    Directions that no input has are left out: a factorization keeps nothing of them.

    Attributes:
        directions: `V`, of shape `(groups, n, n)`, where `n` counts the numbers of a patch, or the
            channels alone; None if only the squares of `n` numbers are known.
        scales: `Λ^½`, of shape `(groups, n)`, zero where a direction is left out.
        mode: Mode of the weight that holds the input channels: 1, of a transposed convolution 0.
    """

    directions: Tensor | None
    scales: Tensor
    mode: int = 1

    @classmethod
    def of(cls, moment: Tensor, mode: int = 1) -> Whitening:
        """Return the whitening of a second moment.

        Args:
            moment: `(n, n)`, with groups `(groups, n, n)`; or its diagonal, `(n,)`.
            mode: Mode of the weight that holds the input channels.
        """
        exact = moment.double()
        if exact.dim() == 1:
            values, directions = exact[None], None
        else:
            values, directions = torch.linalg.eigh(exact.reshape(-1, *exact.shape[-2:]))
        largest = values.amax(dim=-1, keepdim=True)
        values = torch.where(values > CUTOFF * largest, values, 0.0)
        # A layer or group that was never given anything is decomposed as it is.
        return cls(directions, torch.where(largest > 0.0, values, 1.0).sqrt(), mode)

    def whiten(self, weight: Tensor, modes: Sequence[bool] = (True, True)) -> Tensor:
        """Return `W V Λ^½` in fp64, in the shape of the weight.

        Args:
            weight: `(out, in, kernel…)`.
            modes: As a `Metric` takes them; a channel SVD divides no channels.
        """
        assert all(modes)
        rows = self._rows(weight, weight.dim())
        if self.directions is not None:
            rows = torch.einsum("gnm,gbna->gbma", self.directions.to(rows.device), rows)
        return (self.scales.to(rows.device)[:, None, :, None] * rows).reshape(weight.shape)

    def undo(self, factors: Sequence[Tensor], structure: Structure) -> tuple[Tensor, ...]:
        """Take the whitening out of the factor that holds the input channels.

        Args:
            factors: Factors of the whitened weight, as `decompose` returns them.
            structure: The channel SVD.
        """
        results = list(factors)
        factor = results[self.mode]
        rows = self._rows(factor, len(structure.weight_shape))
        inverse = torch.where(self.scales > 0.0, self.scales.reciprocal(), 0.0).to(rows.device)
        rows = inverse[:, None, :, None] * rows
        if self.directions is not None:
            rows = torch.einsum("gmn,gbna->gbma", self.directions.to(rows.device), rows)
        results[self.mode] = rows.reshape(factor.shape)
        return tuple(results)

    def _rows(self, tensor: Tensor, n_modes: int) -> Tensor:
        """Return a weight, or a factor of it, as `(groups, before, n, after)` in fp64."""
        groups, n = self.scales.shape
        after = prod(tensor.shape[1 - n_modes :])  # all modes but the first
        return tensor.double().reshape(groups, -1, n, after if self.mode == 0 else after // n)


def whitenings(model: nn.Module, profile: NetworkProfile, batches: Batches) -> dict[str, Whitening]:
    """Return layer name -> whitening of every searched layer, from unlabelled batches.

    The inputs of a convolution are whole patches of at most `WIDEST` numbers. Of larger ones, and
    of a transposed convolution, the channels are known, and of more than `WIDEST` of these their
    squares.

    Args:
        model: A trained network; not modified.
        profile: Names the layers.
        batches: Inputs of the network, as `sekron.recalibrate` takes them.

    Raises:
        ValueError: If there are no batches, or the network does not run on one.
    """
    names = [layer.name for layer in profile.searched]
    collected = moments(model, names, batches, largest_patch=WIDEST, centred=False)
    results = {}
    for name, of_layer in collected.items():
        is_transposed = isinstance(model.get_submodule(name), TRANSPOSED)
        moment = of_layer.gradients if is_transposed else of_layer.inputs
        results[name] = Whitening.of(moment, mode=0 if is_transposed else 1)
    return results


def activation_candidates(
    model: nn.Module,
    profile: NetworkProfile,
    layer_whitenings: Mapping[str, Whitening],
) -> dict[str, CandidateTable]:
    """Return layer name -> the whitened weight's channel SVD at every rank that saves something.

    The error of a candidate is that of the layer's output, `‖(W − Ŵ) V Λ^½‖ / ‖W V Λ^½‖`; its
    square is the share of energy that the paper's allocation weighs. Grouped layers take part, all
    groups at the same rank.

    Args:
        model: A trained network.
        profile: Costs of the network.
        layer_whitenings: Layer name -> whitening, for the searched layers.
    """
    tables = {}
    for layer in profile.searched:
        weight = weight_of(model, layer.name).detach()
        spectra = Spectra(layer_whitenings[layer.name].whiten(weight), layer.calls)
        table = CandidateTable(spectra.dense_flops, spectra.dense_params, groups=layer.groups)
        for curve in SVD.curves(spectra, float("inf")):
            table.add(curve)
        tables[layer.name] = table
    return tables
