"""What takes part in a race: the network of one setting, under our plans and by other hands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from search.cli.sources import load_model
from search.clock.stand_in import stand_in
from sekron import Plan, SeKronConv2d
from sekron.network.copying import copy_of
from studies.speed_layers.__main__ import LAYOUTS


@dataclass(frozen=True, slots=True)
class Setting:
    """How a network runs.

    Attributes:
        network: Name of a torchvision model.
        batch: Images of 224² at once.
        layout: `contiguous` or `channels_last`.
        device: Of torch.
        dtype: Of torch.
    """

    network: str
    batch: int
    layout: str
    device: str = "cpu"
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.network}-{self.batch}-{self.layout}-{self.device}-{self.dtype}"

    def model(self) -> nn.Module:
        """Return the network with random weights whose spectra fall."""
        model = untrained(f"torchvision.models:{self.network}")
        kind = {"device": self.device, "dtype": getattr(torch, self.dtype)}
        return model.to(**kind, memory_format=LAYOUTS[self.layout])

    def images(self) -> Tensor:
        """Return a batch."""
        x = torch.randn(self.batch, 3, 224, 224, device=self.device)
        return x.to(getattr(torch, self.dtype)).contiguous(memory_format=LAYOUTS[self.layout])


def untrained(spec: str) -> nn.Module:
    """Return the network that a spec names, its weights random, with spectra that fall."""
    torch.manual_seed(0)
    model = load_model(spec)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                u, s, v = torch.linalg.svd(module.weight.flatten(1), full_matrices=False)
                falling = s * torch.arange(1, len(s) + 1) ** -0.5
                module.weight.copy_(((u * falling) @ v).reshape(module.weight.shape))
    return model


def applied(network: nn.Module, plan: Plan) -> nn.Module:
    """Replace the layers as a search does for its clock, their factors random."""
    return stand_in(network, network, plan)


def by_hand(layer: SeKronConv2d) -> nn.Sequential:
    """Return the convolutions that a plain layer runs as anyone would write them."""
    assert layer.sequence is not None
    convolutions = []
    for (operation, padding), weight in zip(layer.sequence, layer.weights, strict=True):
        n_out, n_in, *kernel = weight.shape
        convolution = nn.Conv2d(
            n_in,
            n_out,
            (kernel[0], kernel[1]),
            operation.stride,
            padding,
            operation.dilation,
            bias=False,
        )
        convolution.weight = nn.Parameter(weight.detach().clone())
        convolutions.append(convolution)
    convolutions[-1].bias = layer.bias
    return nn.Sequential(*convolutions)


def with_layers(network: nn.Module, make: Callable[[str, SeKronConv2d], nn.Module]) -> nn.Module:
    """Return a copy in which our convolutions are made by someone else."""
    other = copy_of(network)
    for path, layer in network.named_modules():
        if isinstance(layer, SeKronConv2d):
            parent, _, name = path.rpartition(".")
            setattr(other.get_submodule(parent), name, make(path, layer))
    return other.eval()
