"""Search one network, and write down to the last bit what came of it.

Run by its path in a process of its own, with the checkout under test on Python's path. It sees both
sides of a comparison, so nothing below the names that `search` and `sekron` export is used.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import search
import sekron
from studies.networks import resnet20

ERRORS = "errors"
"""Table of the errors of plans."""

Row = dict[str, str]
"""A row of a table, a plan by layer, or a network by tensor; floats as `float.hex`."""

CHANNELS = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
"""Expansion, channels and blocks of MobileNetV2's stages."""

HALVED = (24, 32, 64, 160)
"""Channels of the stages that begin with a stride of 2."""


@dataclass(frozen=True, slots=True)
class Case:
    """A network and how to search it.

    Args:
        build: Returns it with fresh weights, drawn from torch's global generator.
        shape: Of the example input.
        settings: Arguments of `search.run` other than its defaults.
        weights: Those in the file of inputs that it gets, if it does.
        is_calibrated: Whether the search sees the calibration of that file.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""
    is_calibrated: bool = False


class InvertedResidual(nn.Module):
    """A 1×1 expansion, a depthwise 3×3 and a 1×1 projection, added to the input where it fits.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Of the depthwise convolution.
        expansion: Channels in between over `in_channels`; 1 leaves the first convolution out.

    Example:
        >>> InvertedResidual(16, 24, stride=2, expansion=6)(torch.zeros(2, 16, 8, 8)).shape
        torch.Size([2, 24, 4, 4])

    Reference:
        Sandler et al., "MobileNetV2", CVPR 2018, table 1.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = expansion * in_channels
        self.is_added = stride == 1 and in_channels == out_channels
        self.layers = nn.Sequential(
            *(_conv(in_channels, inner, 1) if expansion > 1 else ()),
            *_conv(inner, inner, 3, stride, groups=inner),
            *_conv(inner, out_channels, 1)[:-1],
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map feature maps `(N, in_channels, H, W)` to `(N, out_channels, H/stride, W/stride)`."""
        y: Tensor = self.layers(x)
        return x + y if self.is_added else y


def mobilenet_v2() -> nn.Sequential:
    """Build a network with the shapes of MobileNetV2 and ten classes.

    Returns:
        The network with fresh weights.

    Example:
        >>> sum(parameter.numel() for parameter in mobilenet_v2().parameters())
        2236682

    Reference:
        Sandler et al., "MobileNetV2", CVPR 2018, table 2.
    """
    layers, width = [*_conv(3, 32, 3, stride=2)], 32
    for expansion, channels, n_blocks in CHANNELS:
        for block in range(n_blocks):
            stride = 2 if block == 0 and channels in HALVED else 1
            layers.append(InvertedResidual(width, channels, stride, expansion))
            width = channels
    layers += [*_conv(width, 1280, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 10)]
    return nn.Sequential(*layers)


def grouped_1d() -> nn.Sequential:
    """Build a one-dimensional network with convolutions in groups, strided and dilated.

    Returns:
        The network with fresh weights.

    Example:
        >>> grouped_1d()(torch.zeros(2, 3, 40)).shape
        torch.Size([2, 10])
    """
    return nn.Sequential(
        nn.Conv1d(3, 24, 7, padding=3),
        nn.ReLU(),
        nn.Conv1d(24, 48, 5, stride=2, padding=2, groups=3),
        nn.ReLU(),
        nn.Conv1d(48, 64, 3, padding=2, dilation=2, groups=4, bias=False),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Conv1d(64, 64, 1, groups=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(4),
        nn.Flatten(),
        nn.Linear(4 * 64, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def _conv(
    in_channels: int, out_channels: int, size: int, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(in_channels, out_channels, size, stride, size // 2, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(out_channels), nn.ReLU6()


BUDGETS = (
    search.Budget(flops=0.5),
    search.Budget(params=0.4),
    search.Budget(flops=0.6, params=0.5),
)
"""Of the search, and of plans asked for afterwards."""

SHARES = (0.1, 0.15, 0.25, 0.4, 0.6)
"""Of the FLOPs, and of the parameters, at which the errors of plans are told."""

ON_DIGITS = Case(resnet20, (1, 1, 32, 32), weights="digits")
ON_GLYPHS = Case(partial(resnet20, 44, 3), (1, 3, 32, 32), weights="glyphs")

CASES = {
    "ResNet-20": ON_DIGITS,
    "ResNet-20 on glyphs": ON_GLYPHS,
    "ResNet-20, calibrated": replace(ON_DIGITS, is_calibrated=True),
    # Beside CP, others are in few plans, and would hardly be decomposed.
    "ResNet-20, calibrated, no CP": replace(
        ON_DIGITS, is_calibrated=True, settings={"families": ("sekron", "chain")}
    ),
    "grouped 1-d": Case(grouped_1d, (1, 3, 128)),
    "grouped 1-d, ring and Tucker": Case(
        grouped_1d, (1, 3, 128), {"families": ("ring", "tucker"), "n_trials": 3}
    ),
    "MobileNetV2's shapes": Case(mobilenet_v2, (1, 3, 64, 64), {"n_trials": 20}),
}


def searched(
    case: Case, weights: Mapping[str, Mapping[str, Tensor]], calibration: Sequence[Tensor]
) -> dict[str, list[Row]]:
    """Search a case, and return as text all that a user can see of it.

    Args:
        case: What to search.
        weights: Name -> those of a trained network.
        calibration: Batches of unlabelled images of shape `(N, C, H, W)`.

    Returns:
        Rows of the dense network, the candidates, the front, of each budget the plan and the
        network that it makes, and the errors of more budgets; a plan, a network and the errors are
        one row, no row where none fits.
    """
    torch.manual_seed(0)
    model = case.build().eval()
    if case.weights:
        model.load_state_dict(weights[case.weights])
    result = search.run(
        model,
        torch.randn(case.shape),
        budget=BUDGETS[0],
        measure_seconds=0,
        calibration=calibration if case.is_calibrated else None,
        seed=0,
        progress=False,
        **case.settings,
    )
    found = {
        "dense network": [_tensors(model)],
        "candidates": _rows(result.candidates()),
        "front": _rows(result.pareto_front()),
    }
    for budget in BUDGETS:
        try:
            plan = result.best if budget == result.budget else result.plan(budget)
        except search.InfeasibleBudget:
            plans = []
        else:
            plans = [plan]
        found[f"plan for {budget}"] = [_texts(plan) for plan in plans]
        found[f"network for {budget}"] = [_tensors(plan.apply(model)) for plan in plans]
    found[ERRORS] = [_texts({str(budget): _error(result, budget) for budget in _budgets()})]
    return found


def _budgets() -> Iterator[search.Budget]:
    for share in SHARES:
        yield search.Budget(flops=share)
        yield search.Budget(params=share)


def _error(result: search.SearchResult, budget: search.Budget) -> float:
    """Return the error of the plan for a budget, infinite where none fits."""
    try:
        return result.allocate(budget).loss
    except search.InfeasibleBudget:
        return math.inf


def _rows(frame: pd.DataFrame) -> list[Row]:
    """Return the rows as text, a plan as one cell for each of its layers."""
    rows = []
    for values in frame.to_dict("records"):
        plan = values.pop("plan", {})
        rows.append(_texts(plan) | _texts(values))
    return rows


def _texts(values: Mapping[Any, object]) -> Row:
    return {k: v.hex() if isinstance(v, float) else str(v) for k, v in values.items()}


def _tensors(model: nn.Module) -> Row:
    return {
        name: f"{tuple(x.shape)} {hashlib.sha256(x.numpy().tobytes()).hexdigest()}"
        for name, x in model.state_dict().items()
    }


def main() -> None:
    """Search one case, and write what came of it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="where the packages must come from")
    parser.add_argument("case", choices=CASES)
    parser.add_argument("inputs", type=Path, help="weights and batches, as torch saves them")
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    for package in (search, sekron):
        assert package.__file__ is not None
        assert Path(package.__file__).is_relative_to(options.checkout), package.__file__
    torch.set_num_threads(1)
    inputs = torch.load(options.inputs)
    found = searched(CASES[options.case], inputs["weights"], inputs["calibration"])
    options.output.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
