"""The product that alternating least squares of CP repeats, in little memory.

TensorLy forms the Khatri-Rao product of all factors but one: for the modes of a kernel, that is the
number of channel pairs times the rank, 14 GB for 512 channels. One factor at a time needs far less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import tensorly as tl
import torch
from tensorly.tenalg.core_tenalg import CoreTenalgBackend
from torch import Tensor


def mttkrp(tensor: Tensor, cp: tuple[Tensor | None, Sequence[Tensor]], mode: int) -> Tensor:
    """Multiply an unfolded tensor by the Khatri-Rao product of all factors but one.

    Args:
        tensor: `(n_0, n_1, …)`.
        cp: Weights `(rank,)`, or None for ones, and a factor `(n_k, rank)` of every mode.
        mode: Mode whose factor is left out.

    Returns:
        Shape `(n_mode, rank)`.

    Reference:
        Kolda, Bader, Tensor decompositions and applications, 2009, section 3.4.
    """
    weights, factors = cp
    modes = [m for m in range(tensor.dim()) if m != mode]
    first = max(modes, key=lambda m: tensor.shape[m])  # the product is then smallest
    product: Tensor = torch.tensordot(tensor, factors[first].conj(), ([first], [0]))
    axes = [m for m in range(tensor.dim()) if m != first]
    for k in reversed([m for m in modes if m != first]):
        product = torch.einsum(
            "...jr,jr->...r", product.movedim(axes.index(k), -2), factors[k].conj()
        )
        axes.remove(k)
    return product if weights is None else product * weights


# TensorLy has no types, so that neither its class nor the name it takes is known.
class _Frugal(CoreTenalgBackend, backend_name="frugal"):  # type: ignore[call-arg, misc]
    unfolding_dot_khatri_rao = staticmethod(mttkrp)


@contextmanager
def frugal() -> Iterator[None]:
    """Let TensorLy's decompositions in this thread use `mttkrp`."""
    with tl.tenalg.backend_context(_Frugal(), local_threadsafe=True):
        yield
