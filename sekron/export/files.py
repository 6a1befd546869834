"""Exported files: each is opened in its runtime and compared with torch before it is there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from sekron.export.difference import TOLERANCE, largest_difference
from sekron.export.onnx_graph import OPSET, check_packages, write_onnx
from sekron.export.other_inputs import larger_batch, larger_size, smaller_size
from sekron.export.packages import needed, quiet
from sekron.export.program import Free, Program, Shape, trace
from sekron.export.readers import Reader, open_onnx, open_openvino, open_program
from sekron.export.refusal import CannotRun, reason_of
from sekron.forward.evaluation import output_of, untouched
from sekron.forward.inputs import Arguments, Inputs, example_of
from sekron.forward.tensors import tensors_in
from sekron.records import check_folder

Writer = Callable[[Program, Path], None]

PROGRAM = "torch.export"
"""The one target that keeps all that a network puts out; the others know tensors only."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that holds a network for another runtime.

    Attributes:
        path: Of the file.
        inputs: Name -> shape; a size that is free is a name.
        outputs: Name -> shape; a size that is free is a name, or a formula of names.
        difference: The largest one between its outputs and torch's, relative to the largest number
            of an output; for the example, and where these are free for twice its images, for the
            first of several if the network takes one alone, and for larger ones, or smaller ones
            where larger do not run.
    """

    path: str
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    difference: float


def export_onnx(
    model: nn.Module,
    example_input: Inputs,
    path: str | Path,
    *,
    opset: int = OPSET,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Write a network as an ONNX file, and compare its outputs in ONNX Runtime with torch's.

    Inputs are named as forward calls them, outputs by the keys of what it returns, else `output`.
    The number of images is free, and so are their sizes where the network allows it. All are as in
    the example where one image is treated unlike several, as by `squeeze`, which is tried where
    all inputs can be taken apart by image. A factorized layer that divides no channel is one Conv
    or MatMul for each factor.

    Args:
        model: Compressed or not, on the CPU; exported as it is in evaluation, and left as it was.
        example_input: What it takes: a tensor, a tuple or a mapping.
        path: Of the file; weights beyond 2 GB go into a second one beside it.
        opset: Version of ONNX's operators.
        tolerance: Largest relative difference that the outputs may have.

    Returns:
        What was written, and the largest difference.

    Raises:
        CannotRun: If the network cannot be exported, with the node and the reason, or its outputs
            differ by more; it is a ValueError, and nothing is written.
        ValueError: If it does not run on the example input.
        ImportError: If onnx, onnxscript or onnxruntime is not installed.
        FileNotFoundError: If there is no such folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = export_onnx(nn.Conv2d(3, 8, 3), torch.ones(1, 3, 9, 9), folder + "/a.onnx")
        >>> file.inputs
        {'input': ('batch', 3, 'height', 'width')}
        >>> file.difference < 1e-4
        True
    """
    check_packages()
    needed("onnxruntime", "onnxruntime")
    write = partial(write_onnx, opset=opset)
    return _export(model, example_input, Path(path), "ONNX", (write, open_onnx), tolerance)


def export_openvino(
    model: nn.Module, example_input: Inputs, path: str | Path, *, tolerance: float = TOLERANCE
) -> Exported:
    """Write a network as an OpenVINO IR, by way of ONNX, and compare it with torch in OpenVINO.

    Args:
        model: As for `export_onnx`.
        example_input: As there.
        path: Of the `.xml` file; the weights go into a `.bin` beside it.
        tolerance: As there.

    Returns:
        What was written, and the largest difference.

    Raises:
        CannotRun: As there.
        ImportError: If onnx, onnxscript or openvino is not installed.
        FileNotFoundError: If there is no such folder.
        ValueError: If the path does not end in `.xml`.
    """
    check_packages()
    openvino = needed("openvino", "openvino")
    _check_suffix(path, ".xml")

    def write(program: Program, file: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            onnx = Path(folder) / "network.onnx"
            write_onnx(program, onnx)
            # By default weights are rounded to half precision.
            openvino.save_model(openvino.Core().read_model(onnx), file, compress_to_fp16=False)

    return _export(model, example_input, Path(path), "OpenVINO", (write, open_openvino), tolerance)


def export_program(
    model: nn.Module, example_input: Inputs, path: str | Path, *, tolerance: float = TOLERANCE
) -> Exported:
    """Write a network as a program of `torch.export`, and compare it, read again, with the network.

    Args:
        model: As for `export_onnx`, on any device.
        example_input: As there.
        path: Of the `.pt2` file.
        tolerance: As there.

    Returns:
        What was written, and the largest difference.

    Raises:
        CannotRun: As there.
        FileNotFoundError: If there is no such folder.
        ValueError: If the path does not end in `.pt2`.
    """
    _check_suffix(path, ".pt2")

    def write(program: Program, file: Path) -> None:
        torch.export.save(program.exported, file)

    return _export(model, example_input, Path(path), PROGRAM, (write, open_program), tolerance)


def _check_suffix(path: str | Path, suffix: str) -> None:
    if Path(path).suffix != suffix:
        raise ValueError(f"the file must end in {suffix!r}, got {str(path)!r}.")


def _export(
    model: nn.Module,
    example_input: Inputs,
    path: Path,
    target: str,
    way: tuple[Writer, Reader],
    tolerance: float,
) -> Exported:
    """Export with as many free sizes as go, compare, and put the files in their place."""
    check_folder(path)
    example = example_of(example_input, model)
    write, read = way
    why = ""
    with untouched(model):
        expected = tensors_in(output_of(model, example, "the example input"))
        for free in get_args(Free):
            with quiet(), tempfile.TemporaryDirectory(dir=path.parent) as folder:
                try:
                    program = trace(model, example, free, of_tensors=target != PROGRAM)
                    write(program, Path(folder) / path.name)
                    run = read(Path(folder) / path.name, program.inputs)
                    differences = [largest_difference(run(example), expected)]
                    for other, outputs in _others(model, example, program):
                        differences.append(largest_difference(run(other), outputs))
                except Exception as error:  # an exporter raises anything
                    why = f"{target} must take the network, but does not: {reason_of(error)}"
                    continue
                difference = max(differences)
                if difference <= tolerance:
                    for file in Path(folder).iterdir():
                        os.replace(file, path.parent / file.name)
                    return Exported(str(path), program.inputs, program.outputs, difference)
                why = (
                    f"outputs of {target} must be within {tolerance:g} of torch's, relative to the "
                    f"largest, but differ by {difference:.1e}"
                )
    raise CannotRun(f"{why}; {path} is not written.")


def _others(
    model: nn.Module, example: Arguments, program: Program
) -> Iterator[tuple[Arguments, list[Tensor]]]:
    """Yield inputs of other sizes that the program takes, and what the network puts out for them.

    Raises:
        ValueError: If a size is free in the program, but not in the network.
    """
    for makers in ((larger_batch,), (larger_size, smaller_size)):
        made = (make(example) for make in makers)
        fitting = [other for other in made if other is not None and _fit(program, other)]
        outputs = ((other, _outputs(model, other)) for other in fitting)
        taken = next(((other, found) for other, found in outputs if found is not None), None)
        if taken is not None:
            yield taken
        elif fitting:
            raise ValueError(f"the network must take other sizes, but not {fitting[0]}.")
    # Programs are traced for several images: what forward does for one alone is not in them.
    one = example.images(0, 1)
    is_other = example.is_divisible and len(example) > 1 and _fit(program, one)
    found = _outputs(model, one) if is_other else None
    if found is not None:
        yield one, found


def _fit(program: Program, arguments: Arguments) -> bool:
    return all(map(_fits, program.inputs.values(), arguments.tensors))


def _fits(shape: Shape, tensor: Tensor) -> bool:
    sizes = zip(shape, tensor.shape, strict=True)
    return all(free == size or isinstance(free, str) for free, size in sizes)


def _outputs(model: nn.Module, arguments: Arguments) -> list[Tensor] | None:
    """Return what the network puts out; None where it does not take this."""
    try:
        return tensors_in(arguments.run(model))
    except Exception:  # whatever the network raises
        return None
