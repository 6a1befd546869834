"""A compressed network beside the dense one that it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from sekron.forward.evaluation import evaluating, output_of, uncompiled
from sekron.forward.inputs import Arguments
from sekron.forward.tensors import tensors_in
from sekron.layers.factorized import Factorized
from sekron.network.surgery import structures_of


def paired(model: nn.Module, dense: nn.Module) -> dict[str, Factorized]:
    """Return name -> factorized layer of a network, each of which has a counterpart in the other.

    Args:
        model: The compressed network.
        dense: The network that it was made from; some of its layers may be factorized too.

    Raises:
        ValueError: If a layer has no counterpart with a weight of its shape; the layer is named.
    """
    modules = dict(dense.named_modules(remove_duplicate=False))
    layers: dict[str, Factorized] = {}
    for name, structure in structures_of(model).items():
        counterpart = modules.get(name)
        weight = getattr(counterpart, "weight", None)
        shape = tuple(weight.shape) if isinstance(weight, Tensor) else None
        if isinstance(counterpart, Factorized):
            shape = counterpart.structure.weight_shape
        if shape != structure.weight_shape:
            text = f"a weight {shape}" if shape else "no weight"
            raise ValueError(
                f"the networks must fit together, but layer {name!r} has a weight "
                f"{structure.weight_shape} in the compressed one and {text} in the dense one."
            )
        layer = model.get_submodule(name)
        assert isinstance(layer, Factorized)
        layers[name] = layer
    return layers


def in_running_order(
    layers: Mapping[str, Factorized], network: nn.Module, batch: Arguments
) -> dict[str, Factorized]:
    """Return the layers in the order in which they run first, those that run on anything at all.

    Args:
        layers: Layer name -> layer.
        network: Has modules of these names.
        batch: Its input.

    Raises:
        ValueError: If the network, or each of the layers, does not run.
    """
    order: dict[str, Factorized] = {}

    def hook_of(name: str) -> Callable[..., None]:
        def hook(*call: object) -> None:
            if any(x.numel() for x in tensors_in(call)):
                order[name] = layers[name]

        return hook

    handles = [
        network.get_submodule(name).register_forward_pre_hook(hook_of(name), with_kwargs=True)
        for name in layers
    ]
    try:
        with uncompiled(), evaluating(network):
            output_of(network, batch, "the batches")
    finally:
        for handle in handles:
            handle.remove()
    if not order:
        raise ValueError(
            "the factorized layers must run on the first batch, but none does; put another first."
        )
    return order
