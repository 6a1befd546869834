"""A network under a plan, for the clock: made at once, as nothing is decomposed for it."""

from __future__ import annotations

from math import prod

import torch
from torch import nn

from sekron.layers.factorized import Factorized
from sekron.network.plan import Plan
from sekron.network.surgery import rebuild, weight_of


def stand_in(dense: nn.Module, opened: nn.Module, plan: Plan) -> nn.Module:
    """Return the network under a plan, its factors random.

    Each layer's weight varies as much as the dense one, and no two layers are alike, so that maps
    look like those of the network itself. Some operators take longer for some numbers than for
    others: ONNX Runtime's PReLU asks of each one whether it is negative, which a processor foresees
    where signs hardly change from one to the next, as with factors of another scale that are equal
    in all layers of one structure.

    Args:
        dense: The network, not modified.
        opened: The same with all that the plan replaces as layers of their own.
        plan: For it.
    """
    network = rebuild(dense, plan, {name: plan.form(name) for name in plan})
    generators: dict[torch.device, torch.Generator] = {}
    for name, structure in plan.items():
        layer, weight = network.get_submodule(name), weight_of(opened, name).detach()
        assert isinstance(layer, Factorized)
        if weight.device not in generators:
            generators[weight.device] = torch.Generator(weight.device)  # of one seed
        variance = weight.float().square().mean().item() / prod(structure.ranks)
        for factor in layer.weights:
            std = variance ** (0.5 / structure.length)
            nn.init.normal_(factor, std=std, generator=generators[weight.device])
    return network
