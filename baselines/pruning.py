"""Structured pruning by Torch-Pruning: what most would try before any decomposition."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from sekron.budget import RESOURCES, Budget, InfeasibleBudget
from sekron.forward.inputs import Arguments, Inputs, example_of
from sekron.network.copying import copy_of
from sekron.profiling.count import count_flops
from sekron.profiling.network_profile import NetworkProfile
from sekron.profiling.profile import first_image

BISECTIONS = 8
"""Halvings of the pruning ratio; each prunes a copy of the network."""


def pruned(
    model: nn.Module, example_input: Inputs, profile: NetworkProfile, budget: Budget
) -> nn.Module:
    """Remove the channels with the smallest weights, the same share of every layer.

    The least share that meets the budget is found by bisection. The channels of the network's
    output are kept.

    Args:
        model: Not modified.
        example_input: What its forward takes.
        profile: Costs of the network.
        budget: Budget of FLOPs and parameters.

    Raises:
        ModuleNotFoundError: If Torch-Pruning is not installed.
        InfeasibleBudget: If no share of channels meets the budget.

    Reference:
        Fang et al., DepGraph: towards any structural pruning, arXiv 2301.12900; Li et al.,
        Pruning filters for efficient convnets, arXiv 1608.08710, for the norm.
    """
    prune = _pruner(model, example_input)
    limits = {name: budget.limit(name, profile.dense(name)) for name in RESOURCES}

    def fits(network: nn.Module) -> bool:
        used = {"params": sum(p.numel() for p in network.parameters())}
        if limits["flops"] is not None:
            used["flops"] = count_flops(network, first_image(example_input, model))[0]
        return all(used[name] <= limit for name, limit in limits.items() if limit is not None)

    low, high, best = 0.0, 1.0, None
    for _ in range(BISECTIONS):
        ratio = (low + high) / 2
        network = prune(ratio)
        if fits(network):
            best, high = network, ratio
        else:
            low = ratio
    if best is None:
        raise InfeasibleBudget(f"the budget must be reachable by pruning, got {budget}.")
    return best


def _pruner(model: nn.Module, example_input: Inputs) -> Callable[[float], nn.Module]:
    import torch_pruning as tp  # noqa: PLC0415  an extra

    arguments = example_of(example_input, model)

    def forward(network: nn.Module, given: Arguments) -> Any:
        return given.run(network)

    def prune(ratio: float) -> nn.Module:
        network = copy_of(model)
        trainable = {name: p.requires_grad for name, p in network.named_parameters()}
        network.requires_grad_(True)  # Torch-Pruning finds what depends on what by autograd
        with torch.enable_grad():
            graph = tp.DependencyGraph().build_dependency(network, arguments, forward)
            tp.pruner.MagnitudePruner(
                network,
                arguments,
                forward_fn=forward,
                importance=tp.importance.MagnitudeImportance(p=1),
                pruning_ratio=ratio,
                ignored_layers=_last_layers(graph.module2node.values()),
            ).step()
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(trainable[name])
        flags = {name: module.training for name, module in model.named_modules()}
        for name, module in network.named_modules():
            module.training = flags[name]
        return network

    return prune


def _last_layers(nodes: Iterable[Any]) -> list[nn.Module]:
    """Return the layers whose channels are those of the network's outputs.

    Args:
        nodes: Nodes of Torch-Pruning's graph, each with `module`, `inputs` and `outputs`.
    """
    pending = [node for node in nodes if not node.outputs]
    layers: list[nn.Module] = []
    seen: set[int] = set()
    while pending:
        node = pending.pop()
        if id(node) not in seen:
            seen.add(id(node))
            if isinstance(node.module, nn.Linear | _ConvNd):
                layers.append(node.module)
            else:
                pending += node.inputs
    return layers
