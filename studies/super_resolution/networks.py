"""The pretrained networks of the study, and the photographs that they are shown."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

import search
from search.front.result import SearchResult
from studies.pretrained.photographs import CALIBRATION, TEST, crops
from studies.pretrained.rrdbnet import realesrgan
from studies.pretrained.srvggnet import realesr_animevideov3
from studies.training import RUNS

SCALE = 4
"""All networks magnify so many times."""

N_TEST, TEST_SIZE = 12, 96
SEARCHED = search.Budget(flops=0.4)
"""What searches are asked for, which changes nothing of their candidates."""

PLAIN, CALIBRATED = "plain", "calibrated"
EACH_ALONE, REPAIRED = "each_alone", "repaired"


@dataclass(frozen=True, slots=True)
class Network:
    """A pretrained network and how much it is calibrated on.

    Attributes:
        name: On the command line and in tables.
        build: Returns the network, in eval mode.
        n_crops: Unlabelled crops of photographs that a calibration and a repair look at.
        size: Of a side of such a crop, in pixels.
        batch: Crops at a time.
        searches: `PLAIN`, `CALIBRATED` or both; `upscale` takes the last.
        budgets: That are tried with each.
        rungs: What is done for the decomposed network: `EACH_ALONE`, `REPAIRED`.
    """

    name: str
    build: Callable[[], nn.Module]
    n_crops: int
    size: int
    batch: int
    searches: tuple[str, ...]
    budgets: tuple[search.Budget, ...]
    rungs: tuple[str, ...]

    def calibration(self) -> tuple[Tensor, ...]:
        """Return the crops, of photographs that nothing is tested on."""
        return crops(CALIBRATION, self.n_crops, self.size).split(self.batch)

    def search(self, model: nn.Module, label: str) -> tuple[SearchResult, float]:
        """Search the network, or read the search that was done.

        Args:
            model: What `build` returns.
            label: `PLAIN` or `CALIBRATED`.

        Returns:
            The result, and the seconds of the processor that it took.
        """
        start = time.process_time()
        result = search.run(
            model,
            torch.zeros(1, 3, TEST_SIZE, TEST_SIZE),
            budget=SEARCHED,
            run=RUNS / f"sr-{self.name}-{label}",
            measure_seconds=0,
            calibration=None if label == PLAIN else self.calibration(),
        )
        return result, time.process_time() - start


_FLOPS = tuple(search.Budget(flops=share) for share in (0.6, 0.4, 0.25))
_HALF = (search.Budget(flops=0.5),)

NETWORKS = {
    network.name: network
    for network in (
        Network(
            "animevideov3",
            realesr_animevideov3,
            n_crops=64,
            size=48,
            batch=16,
            searches=(PLAIN, CALIBRATED),
            budgets=(*_FLOPS, search.Budget(params=0.25)),
            rungs=(EACH_ALONE, REPAIRED),
        ),
        Network(
            "x4plus-anime",
            partial(realesrgan, "realesrgan-x4plus-anime"),
            n_crops=16,
            size=24,
            batch=8,
            searches=(CALIBRATED,),
            budgets=_HALF,
            rungs=(REPAIRED,),
        ),
        Network(
            "x4plus",
            partial(realesrgan, "realesrgan-x4plus"),
            n_crops=8,
            size=24,
            batch=4,
            searches=(PLAIN,),
            budgets=_HALF,
            rungs=(),
        ),
    )
}
"""By name; the larger ones do less: a calibration runs the whole network thrice for each layer."""


def test_images() -> Tensor:
    """Return crops of the photographs that nothing is calibrated on, `(N, 3, H, W)`."""
    return crops(TEST, N_TEST, TEST_SIZE, seed=1)
