"""A network as a program of `torch.export`, with names for its inputs, outputs and free sizes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection, export
from torch.export.graph_signature import TensorArgument
from torch.utils._pytree import tree_leaves

from sekron.export.other_inputs import larger_batch, sizes_of
from sekron.forward.inputs import Arguments
from sekron.forward.tensors import named_tensors, tensors_in

Free = Literal["all", "batch", "none"]
"""Which sizes of the inputs may be others than in the example, as far as the network allows it."""

Shape = tuple[int | str, ...]
"""Sizes; those that are free have a name, or are a formula of names."""

SIZES = {3: ("length",), 4: ("height", "width"), 5: ("depth", "height", "width")}
"""Axes of a tensor -> what those behind the channels are called."""


@dataclass(frozen=True, slots=True)
class Program:
    """A traced network.

    Attributes:
        exported: The program itself.
        inputs: Name -> shape; the arguments of forward, and what is within them.
        outputs: Name -> shape; the keys of what forward returns, else `output`.
        symbols: Symbol of a free size in the program -> its name.
    """

    exported: ExportedProgram
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    symbols: Mapping[str, str]


class _TensorsOnly(nn.Module):
    """A network that puts out its tensors, one by one, and nothing besides."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *positional: Any, **named: Any) -> tuple[Tensor, ...]:
        """Run the network."""
        return tuple(tensors_in(self.network(*positional, **named)))


def trace(model: nn.Module, arguments: Arguments, free: Free, *, of_tensors: bool) -> Program:
    """Trace a network in the mode that it is in.

    Args:
        model: Not modified.
        arguments: What it runs on.
        free: Sizes that may be free; those that the network fixes are not.
        of_tensors: Whether to leave out numbers and all else that is put out besides tensors.

    Raises:
        Exception: Whatever the exporter raises.
    """
    names = input_names(model, arguments)
    output = arguments.run(model)
    output_names = [_output_name(name) for name, _ in named_tensors(output)]
    is_more = any(not isinstance(leaf, Tensor | None) for leaf in tree_leaves(output))
    network = _TensorsOnly(model) if of_tensors and is_more else model
    shapes: Any = None
    if free != "none":
        # A size of one is never free, so a single image stands there twice.
        arguments = (larger_batch(arguments) if len(arguments) == 1 else None) or arguments
        shapes = ShapesCollection()  # type: ignore[no-untyped-call]  # torch has no type for it
        for tensor in arguments.tensors:
            axes = (*range(min(tensor.dim(), 1)), *(sizes_of(tensor) if free == "all" else ()))
            shapes[tensor] = dict.fromkeys(axes, Dim.AUTO)
    named = dict(arguments.named)
    exported = export(network, arguments.positional, named, dynamic_shapes=shapes)
    signature = exported.graph_signature
    inputs = _tensors(exported, signature.input_specs, "USER_INPUT")
    outputs = _tensors(exported, signature.output_specs, "USER_OUTPUT")
    symbols = _symbols(names, inputs)
    return Program(
        exported,
        {name: named_shape(t.shape, symbols) for name, t in zip(names, inputs, strict=True)},
        {
            name: named_shape(t.shape, symbols)
            for name, t in zip(output_names, outputs, strict=True)
        },
        symbols,
    )


def input_names(model: nn.Module, arguments: Arguments) -> list[str]:
    """Return the name of each tensor among the arguments, as forward calls them."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    pairs: list[tuple[str, Any]] = []
    for place, value in enumerate(arguments.positional):
        last = min(place, len(parameters) - 1)
        name = parameters[last].name
        if parameters[last].kind is inspect.Parameter.VAR_POSITIONAL:
            name = f"{name}_{place - last}"
        pairs.append((name, value))
    pairs += arguments.named.items()
    return [name for pair in pairs for name, _ in named_tensors(pair[1], pair[0])]


def named_shape(shape: Any, symbols: Mapping[str, str]) -> Shape:
    """Return a shape in which symbols have their names, and fixed sizes are numbers."""
    texts = (str(getattr(size, "value", size)) for size in shape)  # an axis of ONNX has a value
    renamed = (re.sub(r"\bs\d+\b", lambda s: symbols.get(s[0], s[0]), text) for text in texts)
    return tuple(int(text) if text.isdecimal() else text for text in renamed)


def _output_name(name: str) -> str:
    return name if name[:1].isidentifier() else f"output_{name}".rstrip("_")


def _tensors(exported: ExportedProgram, specs: Any, kind: str) -> list[Tensor]:
    """Return the made-up tensors that stand for inputs or outputs of a program."""
    values = {node.name: node.meta["val"] for node in exported.graph.nodes if "val" in node.meta}
    return [
        values[spec.arg.name]
        for spec in specs
        if spec.kind.name == kind and isinstance(spec.arg, TensorArgument)
    ]


def _symbols(names: list[str], inputs: list[Tensor]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, tensor in zip(names, inputs, strict=True):
        for axis, size in enumerate(tensor.shape):
            if str(size).isdecimal() or str(size) in found:
                continue
            sizes = ("batch", "length", *SIZES.get(tensor.dim(), ()))
            ours = sizes[axis] if axis < len(sizes) else f"{name}_{axis}"
            found[str(size)] = f"{name}_{ours}" if ours in found.values() else ours
    return found
