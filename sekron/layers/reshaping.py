"""What stands between the steps of a plain layer where torch has no module for it.

All of them can be scripted, and traced by `torch.fx`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Rearranged(nn.Module):
    """Permute the axes that make up the channels.

    Args:
        sizes: Sizes of these axes, slowest first.
        permutation: Old position of the axis at each new position.
        axis: Where the channels are, counted from the end: -1 is the last.
    """

    def __init__(self, sizes: Sequence[int], permutation: Sequence[int], axis: int) -> None:
        super().__init__()
        first = axis - len(sizes) + 1  # of them, once they are apart
        self.axis, self.sizes = axis, list(sizes)
        self.source = [first + old for old in permutation]
        self.destination = [first + new for new in range(len(sizes))]

    def forward(self, x: Tensor) -> Tensor:
        """Map `(…, channels, sizes…)` to the same shape."""
        split = torch.unflatten(x, self.axis, self.sizes)
        moved = torch.movedim(split, self.source, self.destination)
        return moved.flatten(self.destination[0], self.destination[-1])

    def extra_repr(self) -> str:
        """Show the sizes, and which axis comes where."""
        first = self.destination[0]
        return f"sizes={self.sizes}, permutation={[old - first for old in self.source]}"


class Bias(nn.Module):
    """Add a bias to the channels.

    Args:
        bias: Of shape `(channels,)`; it becomes a parameter of this module.
        n_axes: How many axes follow the channels.
    """

    def __init__(self, bias: nn.Parameter, n_axes: int) -> None:
        super().__init__()
        self.bias = bias
        self.shape = [-1] + [1] * n_axes

    def forward(self, x: Tensor) -> Tensor:
        """Map `(…, channels, sizes…)` to the same shape."""
        return x + self.bias.to(x.dtype).reshape(self.shape)


class GroupedLinear(nn.Module):
    """A linear layer that multiplies every group of its inputs by a matrix of its own.

    Args:
        weight: Of shape `(groups·out, in)`; it becomes a parameter of this module.
        groups: How many there are.
    """

    def __init__(self, weight: nn.Parameter, groups: int) -> None:
        super().__init__()
        self.weight = weight
        self.sizes = [groups, weight.shape[1]]
        self.blocks = [groups, -1, weight.shape[1]]

    def forward(self, x: Tensor) -> Tensor:
        """Map `(…, groups·in)` to `(…, groups·out)`."""
        groups, matrices = torch.unflatten(x, -1, self.sizes), self.weight.reshape(self.blocks)
        return torch.einsum("...gc,gfc->...gf", groups, matrices).flatten(-2)

    def extra_repr(self) -> str:
        """Show the groups and the shape of the weight."""
        return f"groups={self.sizes[0]}, weight={tuple(self.weight.shape)}"
