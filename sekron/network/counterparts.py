"""A compressed network beside the dense one that it comes from."""

from __future__ import annotations

from torch import Tensor, nn

from sekron.layers.factorized import Factorized
from sekron.network.surgery import structures_of


def paired(model: nn.Module, dense: nn.Module) -> dict[str, Factorized]:
    """Return name -> factorized layer of a network, each of which has its like in the other.

    Args:
        model: Compressed.
        dense: What it was made from; some of its layers may be factorized too.

    Raises:
        ValueError: If one has no like, or one whose weight has another shape; it is named.
    """
    theirs = dict(dense.named_modules(remove_duplicate=False))
    layers: dict[str, Factorized] = {}
    for name, structure in structures_of(model).items():
        other = theirs.get(name)
        weight = getattr(other, "weight", None)
        shape = tuple(weight.shape) if isinstance(weight, Tensor) else None
        if isinstance(other, Factorized):
            shape = other.structure.weight_shape
        if shape != structure.weight_shape:
            found = f"a weight {shape}" if shape else "no weight"
            raise ValueError(
                f"the networks must fit together, but layer {name!r} has a weight "
                f"{structure.weight_shape} in the compressed one and {found} in the dense one."
            )
        layer = model.get_submodule(name)
        assert isinstance(layer, Factorized)
        layers[name] = layer
    return layers
