"""Multiply-adds of a whole network by fvcore, with the rules that it lacks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any, NamedTuple

import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import conv_flop_count, get_shape
from torch import Tensor, nn

from sekron.forward.evaluation import one_line, untouched
from sekron.forward.inputs import Arguments, Inputs, example_of
from sekron.forward.tensors import map_tensors, tensors_in
from sekron.profiling.einsum_flops import einsum_flops


def count_flops(model: nn.Module, inputs: Inputs) -> tuple[int, dict[str, int]]:
    """Return fvcore's multiply-adds of a network, and the operators that it does not count.

    Operators that multiply, but that fvcore takes for free or fails at, are counted here:
    convolutions with `padding="same"`, attention, products with vectors, `tensordot`, `baddbmm`,
    and recurrent layers. `einsum` is counted pair by pair, as torch contracts it.

    Args:
        model: The network; it runs in evaluation mode, and is then as it was.
        inputs: What its forward takes; all images count.

    Raises:
        ValueError: If the network cannot be traced.

    Reference:
        fvcore, docs/flop_count.md: one FLOP is one multiply-add.
    """
    counts = count(model, inputs)
    return counts.by_module[""], counts.unsupported


class Counts(NamedTuple):
    """Multiply-adds of a network, split in two ways.

    Attributes:
        by_module: Module name -> multiply-adds of it and its children; the network itself is `""`.
        by_operator: Operator -> its multiply-adds in the whole network.
        unsupported: Operator that is not counted -> number of its calls.
    """

    by_module: dict[str, int]
    by_operator: dict[str, int]
    unsupported: dict[str, int]


def count(model: nn.Module, inputs: Inputs) -> Counts:
    """Count as `count_flops` does, for every module and for every operator.

    Raises:
        ValueError: If the network cannot be traced.
    """
    with untouched(model), modules_alone():
        arguments = example_of(inputs, model)
        analysis = _Analysis(_OfTensors(model, arguments), tuple(arguments.tensors))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        for operator, handle in HANDLES.items():
            analysis.set_op_handle(operator, handle)
        try:
            by_module, by_operator = analysis.by_module(), analysis.by_operator()
        except Exception as error:  # whatever the tracer raises
            raise ValueError(
                "the network must run under torch.jit.trace, with which its FLOPs are counted, "
                f"but it raised {one_line(error).rstrip('.')}; compile, script and quantize after "
                "the compression, not before."
            ) from error
        by_module[INNER] = by_module.pop("network")
        return Counts(
            {
                name.replace(SLASH, "/").removeprefix(INNER): int(flops)
                for name, flops in by_module.items()
                if name
            },
            {name: int(flops) for name, flops in by_operator.items()},
            dict(analysis.unsupported_ops()),
        )


FASTPATH = threading.RLock()
"""Held where torch's fast path is closed, which all threads of a process share."""

INNER = "network."
"""What fvcore puts before the names of modules within `_OfTensors`."""


SLASH = "\ue000"
"""What stands for a slash in a module's name while fvcore counts: no letter of any script."""


class _Analysis(FlopCountAnalysis):  # type: ignore[misc]  # fvcore has no types
    """Counts modules with slashes in their names, too, as converted networks have them.

    fvcore parts the scopes of a trace at slashes, so that such a module is none that it knows.
    """

    def _get_aliases(self, model: nn.Module) -> dict[nn.Module | str, str]:
        aliases: dict[nn.Module | str, str] = super()._get_aliases(model)
        scopes = {key: name.replace("/", SLASH) for key, name in aliases.items()}
        return scopes | {scope: scope for scope in scopes.values()}


class _OfTensors(nn.Module):
    """A network as torch.jit can trace it: from tensors to tensors.

    A trace drops what no output depends on. Where the network puts out no tensors, or hides them
    where nobody finds them, all that its modules put out stands in their place.

    Args:
        network: The network; what it puts out besides tensors is left out.
        arguments: Of its forward; the tensors among them are handed in, one by one.
    """

    def __init__(self, network: nn.Module, arguments: Arguments) -> None:
        super().__init__()
        self.network, self._arguments = network, arguments

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors that the network puts out, or else those of its modules."""
        given = iter(tensors)
        arguments = map_tensors(lambda _: next(given), self._arguments)
        return tuple(tensors_in(arguments.run(self.network))) or self._of_modules(arguments)

    def _of_modules(self, arguments: Arguments) -> tuple[Tensor, ...]:
        found: list[Tensor] = []
        handles = [
            module.register_forward_hook(lambda *call: found.extend(tensors_in(call[2])))
            for module in self.network.modules()
        ]
        try:
            arguments.run(self.network)
        finally:
            for handle in handles:
                handle.remove()
        return tuple(found) or (torch.zeros(()),)


@contextmanager
def modules_alone() -> Iterator[None]:
    """Keep torch from running an attention block as one operator that nobody can count."""
    with FASTPATH:
        enabled = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(enabled)


def _same_convolution(inputs: list[Any], outputs: list[Any]) -> int:
    x, weight, out = (get_shape(value) for value in (inputs[0], inputs[1], outputs[0]))
    return int(conv_flop_count(x, weight, out))


def _attention(inputs: list[Any], outputs: list[Any]) -> int:
    """Queries are multiplied by keys, then the weights by values."""
    query, key, out = _shape(inputs[0]), _shape(inputs[1]), _shape(outputs[0])
    return prod(query[:-1]) * key[-2] * (query[-1] + out[-1])


def _product(inputs: list[Any], outputs: list[Any]) -> int:
    """Every number of the output sums over the last axis of the first factor."""
    return prod(_shape(outputs[0])) * _shape(inputs[0])[-1]


def _added_product(inputs: list[Any], outputs: list[Any]) -> int:
    return _product(inputs[1:], outputs)


def _tensordot(inputs: list[Any], outputs: list[Any]) -> int:
    shape, axes = _shape(inputs[0]), [int(a.toIValue()) for a in inputs[2].node().inputs()]
    return prod(_shape(outputs[0])) * prod(shape[axis] for axis in axes)


def _einsum(inputs: list[Any], outputs: list[Any]) -> int:
    shapes = [_shape(value) for value in inputs[1].node().inputs()]
    # The path is a list, or the constant None.
    path = [int(v.toIValue()) for value in inputs[2:] for v in value.node().inputs()]
    return einsum_flops(inputs[0].toIValue(), shapes, len(_shape(outputs[0])), path)


def _recurrent(inputs: list[Any], outputs: list[Any]) -> int:
    """Every matrix is applied once for each step of each sequence."""
    steps = prod(_shape(outputs[0])[:-1])
    # Lists of tensors are the states and then the weights, where sequences are packed as elsewhere.
    lists = [value.node() for value in inputs if value.node().kind() == "prim::ListConstruct"]
    weights = [_shape(value) for value in lists[-1].inputs()]
    return steps * sum(prod(weight) for weight in weights if len(weight) == 2)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(map(int, get_shape(value)))


HANDLES: dict[str, Callable[[list[Any], list[Any]], int]] = {
    "aten::_convolution_mode": _same_convolution,
    "aten::scaled_dot_product_attention": _attention,
    "aten::matmul": _product,
    "aten::mv": _product,
    "aten::dot": _product,
    "aten::baddbmm": _added_product,
    "aten::tensordot": _tensordot,
    "aten::einsum": _einsum,
    "aten::lstm": _recurrent,
    "aten::gru": _recurrent,
    "aten::rnn_tanh": _recurrent,
    "aten::rnn_relu": _recurrent,
}
"""Operator -> its multiply-adds, from the values that go in and come out of it."""
