"""What a row of the survey begins with: a network, and what its forward takes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sekron.forward.inputs import Arguments, Inputs, as_arguments
from sekron.forward.tensors import map_tensors

Made = tuple[nn.Module, Inputs]

Networks = dict[str, Callable[[], Made]]
"""Name -> function that makes a network and an example input."""


def images(size: int) -> Tensor:
    """Return one image of noise, `(1, 3, size, size)`."""
    return torch.randn(1, 3, size, size)


def more(example: Inputs, n_images: int) -> Arguments:
    """Return arguments like an example's: noise for what is real, the same ids and masks again."""

    def drawn(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return torch.randn(n_images, *tensor.shape[1:])
        return torch.cat([tensor[:1]] * n_images)

    found: Arguments = map_tensors(drawn, as_arguments(example))
    return found
