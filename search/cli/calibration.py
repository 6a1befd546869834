"""Unlabelled inputs from what `--calibration` names: a folder of pictures, or a file of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from search.cli.arguments import check_with
from search.cli.pictures import NORMALIZATIONS, Normalization, load_pictures, spread
from search.cli.trained import load_tensors
from search.folder.input_spec import InputSpec, arguments_for
from sekron.forward.inputs import Arguments

BATCH = 64
"""Images that are passed through a network at once, at most."""

NUMBERS = BATCH * 3 * 224 * 224
"""Of a batch, at most, where that leaves two images: batch norm finds no variance in one."""

MOST_PICTURES = 256
"""That are read of a folder by default."""


def load_calibration(
    path: str,
    inputs: Sequence[InputSpec],
    normalization: Normalization | None = None,
    n_images: int | None = None,
) -> tuple[Arguments, ...] | None:
    """Read unlabelled inputs in batches.

    Args:
        path: Folder of pictures; or a file with one tensor `(N, …)` under any name, for a network
            with several inputs one for each, under the name of the keyword argument or the number
            of the positional one, from 0 on. Empty for nothing.
        inputs: What the network takes.
        normalization: Of pictures.
        n_images: Most that are taken, evenly spread; default all of a file, `MOST_PICTURES` of a
            folder.

    Raises:
        ValueError: If it holds something else, or too much or too little is said about it.
        FileNotFoundError: If there is no such file.
    """
    check_with("--calibration", bool(path), normalize=normalization, images=n_images is not None)
    if not path:
        return None
    if n_images is not None and n_images < 1:
        raise ValueError(f"--images must be at least 1, got {n_images}.")
    if Path(path).is_dir():
        tensors = [_of_pictures(path, inputs, normalization, n_images or MOST_PICTURES)]
    elif normalization is not None:
        raise ValueError(f"{path} is no folder of pictures, so --normalize must not be given.")
    else:
        tensors = _of_file(path, inputs)
    if n_images is not None:
        tensors = [tensor[spread(len(tensor), n_images)] for tensor in tensors]
    size = min(BATCH, max(NUMBERS // max(prod(t.shape[1:]) or 1 for t in tensors), 2))
    kinds = [spec.torch_dtype for spec in inputs]
    split = (torch.split(t.to(kind), size) for t, kind in zip(tensors, kinds, strict=True))
    return tuple(arguments_for(inputs, batch) for batch in zip(*split, strict=True))


def calibration_options(
    path: str, normalization: Normalization | None, n_images: int | None
) -> list[str]:
    """Return the options by which another process loads the same."""
    options = ["--calibration", path] if path else []
    if normalization is not None:
        options += ["--normalize", "/".join(",".join(map(str, part)) for part in normalization)]
    return options if n_images is None else [*options, "--images", str(n_images)]


def _of_pictures(
    folder: str, inputs: Sequence[InputSpec], normalization: Normalization | None, n_images: int
) -> Tensor:
    if len(inputs) != 1:
        raise ValueError(
            f"pictures are one input, but the network takes {len(inputs)}; give a file of tensors."
        )
    if not inputs[0].torch_dtype.is_floating_point:
        raise ValueError(
            "pictures are normalised to floating-point numbers, but the input is of "
            f"{inputs[0].dtype}; give a file with a tensor."
        )
    if normalization is None:
        raise ValueError(
            f"the pictures in {folder} must be normalised as in training; add --normalize "
            f"{', '.join(NORMALIZATIONS)} or numbers."
        )
    return load_pictures(folder, inputs[0].shape, normalization, n_images)


def _of_file(path: str, inputs: Sequence[InputSpec]) -> list[Tensor]:
    """Return the tensors of a file in the order of the inputs."""
    found = load_tensors(path)
    numbers = map(str, count())
    names = [spec.name or next(numbers) for spec in inputs]
    if len(names) == len(found) == 1:
        found = dict(zip(names, found.values(), strict=True))
    tensors = [found[name] for name in names if name in found]
    fits = len(tensors) == len(names) == len(found) and all(map(_fits, tensors, inputs))
    if fits and len({len(tensor) for tensor in tensors}) == 1:
        return tensors
    if len(names) == 1:
        wanted = f"one tensor of images (N, …) under any name, of {inputs[0].dtype}"
        got = ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in found.values())
    else:
        wanted = f"a tensor (N, …) for each of {', '.join(names)}, all of one N"
        got = ", ".join(f"{name} {tuple(t.shape)} {t.dtype}" for name, t in found.items())
    raise ValueError(f"{path} must hold {wanted}, got {got or 'nothing'}.")


def _fits(tensor: Tensor, spec: InputSpec) -> bool:
    """Whether numbers are of the input's kind; another precision is converted."""
    both = tensor.is_floating_point() and spec.torch_dtype.is_floating_point
    return tensor.dim() == len(spec.shape) and (both or tensor.dtype == spec.torch_dtype)
