"""Time our layers against the same convolutions in sequence, TensorLy-Torch and the dense layer.

The shapes are the convolutions of torchvision's ResNet-18 at 224²; ranks halve the FLOPs.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import sekron
from search.clock.race import interval, race
from sekron.structures import templates

SHARE = 0.5
PRECISION = 0.005
"""Relative half width of the ratios' intervals at which a race ends before its time."""

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
STRUCTURES = ("tucker2", "spatial_svd")
TURNS = (("ours", "sequential"), ("sequential", "ours"))
RIVALS = ("sequential", "tltorch", "dense")


class Case(NamedTuple):
    """One convolution of the network; `side` is that of its input."""

    n_in: int
    n_out: int
    kernel: int
    stride: int
    padding: int
    side: int

    def __str__(self) -> str:
        return f"{self.n_in}-{self.n_out} {self.kernel}x{self.kernel} /{self.stride} @{self.side}"


CASES = (
    Case(64, 64, 3, 1, 1, 56),
    Case(64, 128, 3, 2, 1, 56),
    Case(64, 128, 1, 2, 0, 56),
    Case(128, 128, 3, 1, 1, 28),
    Case(128, 256, 3, 2, 1, 28),
    Case(128, 256, 1, 2, 0, 28),
    Case(256, 256, 3, 1, 1, 14),
    Case(256, 512, 3, 2, 1, 14),
    Case(256, 512, 1, 2, 0, 14),
    Case(512, 512, 3, 1, 1, 7),
)
"""The distinct ones, without the stem."""


def main() -> None:
    """Run the study, print the table and write it beside this file."""
    options = _options()
    factorized_conv = load_tensorly_torch()
    name = "training step" if options.backward else "forward"
    print(f"{name}, batch {options.batch}, {torch.get_num_threads()} threads; speed against rivals")
    rows: list[dict[str, object]] = []
    for case in CASES:
        sides = _sides(case, factorized_conv)
        for layout in LAYOUTS:
            times = _times(case, sides, layout, options)
            rows += [{"pass": name, **row} for row in _rows(case, layout, times)]
    frame = pd.DataFrame(rows)
    table = frame.to_string(index=False, float_format="{:.3f}".format, na_rep="")
    print(f"{table}\n\n{_summary(frame).to_string(float_format='{:.3f}'.format, na_rep='')}")
    path = f"{'backward' if options.backward else 'forward'}_batch{options.batch}.csv"
    frame.round(4).to_csv(Path(__file__).with_name(path), index=False)


def _sides(case: Case, factorized_conv: Any) -> dict[str, nn.Module]:
    """Return what races: each of our layers, its rivals of equal weights, the dense layer."""
    torch.manual_seed(0)
    dense = nn.Conv2d(case.n_in, case.n_out, case.kernel, case.stride, case.padding)
    sides: dict[str, nn.Module] = {"dense": dense}
    for name in STRUCTURES if case.kernel > 1 else STRUCTURES[:1]:  # they are one for 1×1
        structure = _halved(name, case)
        ours = sekron.SeKronConv2d.from_conv2d(dense, structure)
        sides[f"{name} ours"] = ours
        sides[f"{name} sequential"] = _sequential(name, case, ours)
        if name == "tucker2":
            sides[f"{name} tltorch"] = tltorch_layer(dense, ours, factorized_conv)
    x = torch.randn(2, case.n_in, case.side, case.side)
    with torch.no_grad():
        outputs = {name: side(x) for name, side in sides.items()}
    for name, output in outputs.items():
        wanted = outputs[f"{name.split()[0]} ours"] if name != "dense" else output
        error = float((output - wanted).norm() / wanted.norm())
        assert error < 1e-4, f"{name} must compute what ours does, relative error {error:.1e}"
    return sides


def _halved(name: str, case: Case) -> sekron.Structure:
    """Return the structure with the largest ranks that leave half of the FLOPs."""
    weight_shape = (case.n_out, case.n_in, case.kernel, case.kernel)
    family, shapes = getattr(templates, name)(weight_shape)
    shapes = tuple(shape for shape in shapes if max(shape) > 1)  # a 1×1 kernel has no middle
    output = ((case.side + 2 * case.padding - case.kernel) // case.stride + 1,) * 2

    def flops(structure: sekron.Structure) -> int:
        return structure.flops(output, stride=case.stride, input_size=(case.side,) * 2)

    dense = flops(sekron.Structure.dense(weight_shape))
    best = None
    for rank in range(1, case.n_in + 1):
        ranks = (rank,) if len(shapes) == 2 else (round(rank * case.n_out / case.n_in), rank)
        structure = sekron.Structure(family, shapes, ranks)
        if flops(structure) > SHARE * dense:
            break
        best = structure
    assert best is not None
    return best


def _sequential(name: str, case: Case, ours: sekron.SeKronConv2d) -> nn.Sequential:
    """Write by hand the convolutions that our layer runs, and give them its weights."""
    n_in, n_out, k, s, p, _ = case
    ranks = ours.structure.ranks
    convolutions: tuple[nn.Conv2d, ...]
    if name == "spatial_svd":
        convolutions = (
            nn.Conv2d(n_in, ranks[0], (1, k), (1, s), (0, p), bias=False),
            nn.Conv2d(ranks[0], n_out, (k, 1), (s, 1), (p, 0)),
        )
    elif k == 1:
        convolutions = (
            nn.Conv2d(n_in, ranks[0], 1, s, bias=False),
            nn.Conv2d(ranks[0], n_out, 1),
        )
    else:
        convolutions = (
            nn.Conv2d(n_in, ranks[1], 1, bias=False),
            nn.Conv2d(ranks[1], ranks[0], k, s, p, bias=False),
            nn.Conv2d(ranks[0], n_out, 1),
        )
    with torch.no_grad():
        for convolution, weight in zip(convolutions, ours.weights, strict=True):
            assert convolution.weight.shape == weight.shape
            convolution.weight.copy_(weight)
    convolutions[-1].bias = copy.deepcopy(ours.bias)
    return nn.Sequential(*convolutions)


def tltorch_layer(dense: nn.Conv2d, ours: sekron.SeKronConv2d, factorized_conv: Any) -> nn.Module:
    """Make TensorLy-Torch's layer of the same channel ranks, and give it our weights."""
    kernel = dense.kernel_size
    ranks = ours.structure.ranks
    layer = factorized_conv.from_conv(
        dense,
        rank=(ranks[0], ranks[-1], *kernel),
        factorization="tucker",
        implementation="factorized",
        decompose_weights=False,
    )
    first, *middle, last = (weight.detach() for weight in ours.weights)
    core = middle[0] if middle else torch.eye(ranks[0])[:, :, None, None]
    factors = (last.flatten(1), first.flatten(1).T, *(torch.eye(extent) for extent in kernel))
    with torch.no_grad():
        layer.weight.core.copy_(core)
        for index, factor in enumerate(factors):
            layer.weight.factors[index].copy_(factor)
        if ours.bias is not None:
            layer.bias.copy_(ours.bias)
    assert isinstance(layer, nn.Module)
    return layer


def _times(
    case: Case, sides: dict[str, nn.Module], layout: str, options: argparse.Namespace
) -> dict[str, NDArray[np.float64]]:
    """Race all sides in one layout; return the mean seconds of every round.

    A second race swaps ours and the sequence: a sequence against itself shall come out at 1.
    """
    x = torch.randn(options.batch, case.n_in, case.side, case.side)
    x = x.contiguous(memory_format=LAYOUTS[layout]).requires_grad_(options.backward)
    step = _training_step if options.backward else _forward
    runs = {name: step(side.to(memory_format=LAYOUTS[layout]), x) for name, side in sides.items()}
    parts = []
    for turns in (TURNS, TURNS[::-1]):
        names = _schedule(tuple(sides), turns)
        with torch.set_grad_enabled(options.backward):
            times = race([runs[name] for name in names], PRECISION, options.rounds_seconds / 2)
        counted = np.array(names[1:])
        parts.append({name: times[1:][counted == name].mean(axis=0) for name in sides})
    return {name: np.concatenate([part[name] for part in parts]) for name in sides}


def _schedule(names: Sequence[str], turns: Sequence[Sequence[str]]) -> list[str]:
    """Return a round: `D, T t L S s D, t T L s S D`, where small letters are the sequences.

    Each side runs twice, ours and the sequence in either order, so that both find what the same
    neighbours left in the caches. What runs first finds what the clock left, and is not counted.
    """
    done = ["dense"]
    for turn in turns:
        for name in STRUCTURES:
            done += [f"{name} {side}" for side in (*turn, "tltorch")]
        done.append("dense")
    return [name for name in done if name in names]


def _forward(side: nn.Module, x: Tensor) -> Callable[[], object]:
    return lambda: side(x)


def _training_step(side: nn.Module, x: Tensor) -> Callable[[], object]:
    """Forward, loss and backward, also to the input, as inside a network."""
    leaves = [x, *side.parameters()]

    def run() -> None:
        side(x).sum().backward()
        for leaf in leaves:
            leaf.grad = None

    return run


def _rows(
    case: Case, layout: str, times: dict[str, NDArray[np.float64]]
) -> Iterator[dict[str, object]]:
    for name in STRUCTURES:
        ours = times.get(f"{name} ours")
        if ours is None:
            continue
        row: dict[str, object] = {"shape": str(case), "layout": layout, "structure": name}
        row["ours_ms"] = 1e3 * float(np.median(ours))
        for rival in RIVALS:
            theirs = times.get("dense" if rival == "dense" else f"{name} {rival}")
            low, middle, high = interval(theirs / ours) if theirs is not None else (np.nan,) * 3
            row[f"vs_{rival}"] = middle
            if rival == "sequential":
                row |= {"low": low, "high": high}
        yield row | {"rounds": len(ours)}


def _summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return geometric means and minima over the shapes, and over everything."""
    columns = [f"vs_{rival}" for rival in RIVALS]
    parts = [("all", frame)]
    for (name, layout), part in frame.groupby(["structure", "layout"], sort=False):
        parts.append((f"{name} {layout}", part))
    rows = {}
    for key, part in parts:
        rows[key, "geometric mean"] = np.exp(np.log(part[columns]).mean())
        rows[key, "minimum"] = part[columns].min()
    return pd.DataFrame(rows).T


def load_tensorly_torch() -> Any:
    """Return TensorLy-Torch's convolution, or end with what to install."""
    try:
        return importlib.import_module("tltorch").FactorizedConv
    except ImportError as error:
        sys.exit(f"this study needs TensorLy-Torch: pip install tensorly-torch ({error})")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.speed_layers", description=__doc__)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--backward", action="store_true", help="time a training step")
    parser.add_argument(
        "--rounds-seconds", type=float, default=4.0, help="longest race of one shape and layout"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
