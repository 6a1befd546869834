"""What layers take in when a network runs, for several layers at a pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from sekron.calibration.patches import batched
from sekron.forward.evaluation import uncompiled
from sekron.forward.inputs import Arguments

AHEAD = 4
"""Layers whose inputs one pass collects, where they can be kept."""

KEPT = 2**27
"""Most numbers of inputs that are kept for the layers to come."""


class InputsAhead:
    """The inputs of the layers of a network that stays as it is, for one layer after the other.

    One pass of a batch collects the inputs of the next layers too, and these are kept until their
    turn comes.

    Args:
        network: In the mode in which it shall run.
        names: Of the layers, in the order in which they are asked for.
        batches: Unlabelled inputs.
    """

    def __init__(
        self, network: nn.Module, names: Sequence[str], batches: Sequence[Arguments]
    ) -> None:
        self.network, self.batches = network, batches
        self._names = list(names)
        self._n_calls: dict[str, int] = {}
        self._kept: dict[tuple[str, int], list[Tensor]] = {}

    def of(self, name: str, place: int) -> list[Tensor]:
        """Return the input of every call of a layer for a batch, and keep it no longer."""
        following = self._names[self._names.index(name) :]
        self._kept = {key: kept for key, kept in self._kept.items() if key[0] in following}
        if (name, place) not in self._kept:
            has_room = sum(x.numel() for kept in self._kept.values() for x in kept) < KEPT
            asked = following[: AHEAD if has_room else 1]
            found = layer_inputs(self.network, asked, self.batches[place], self._n_calls)
            self._n_calls |= {layer: len(inputs) for layer, inputs in found.items()}
            self._kept |= {(layer, place): inputs for layer, inputs in found.items()}
        return self._kept.pop((name, place))


def layer_inputs(
    network: nn.Module, names: Sequence[str], batch: Arguments, n_calls: Mapping[str, int]
) -> dict[str, list[Tensor]]:
    """Return layer name -> the input of every call of the layer, for one batch.

    Args:
        network: In the mode in which it shall run.
        names: Of layers.
        batch: Unlabelled inputs.
        n_calls: Calls of the layers, where they are known: of all of them, nothing runs that comes
            after the last one.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in names}

    def hook_of(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, positional: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            # A copy: what comes next may work in place.
            x = positional[0] if positional else named["input"]
            found[name].append(batched(network.get_submodule(name), x.detach().clone()))
            if all(len(inputs) == n_calls.get(layer) for layer, inputs in found.items()):
                raise _AllCalled

        return hook

    handles = [
        network.get_submodule(name).register_forward_pre_hook(hook_of(name), with_kwargs=True)
        for name in names
    ]
    try:
        with uncompiled():
            batch.run(network)
    except _AllCalled:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found


def paired_inputs(
    name: str, dense: InputsAhead, compressed: nn.Module, place: int
) -> list[tuple[Tensor, Tensor]] | None:
    """Return what a layer gets in the dense network beside what it gets in the compressed one.

    A network may send images, or parts of them, to other layers where its numbers are others. What
    the layer gets then has no counterparts. Where it gets as many others, that is not seen.

    Args:
        name: Of the layer.
        dense: Its inputs in the dense network.
        compressed: The other network, in the mode in which it shall run.
        place: Of the batch.

    Returns:
        The inputs of every call that the dense network makes; None where the other one makes
        fewer, or a shape differs.
    """
    own = dense.of(name, place)
    others = layer_inputs(compressed, [name], dense.batches[place], {name: len(own)})[name]
    if [x.shape for x in own] != [x.shape for x in others]:
        return None
    return list(zip(own, others, strict=True))


class _AllCalled(Exception):
    """Raised at the last call of the layers: nothing behind it needs to run."""
