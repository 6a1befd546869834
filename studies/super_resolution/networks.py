"""The pretrained networks of the study, and the photographs that they are shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

import search
from search.front.result import SearchResult
from sekron.calibration.metrics import metrics_of
from sekron.calibration.moments import moments
from sekron.network.network_metric import NetworkMetric
from sekron.network.surgery import weight_of
from studies.pretrained.photographs import CALIBRATION, TEST, crops
from studies.pretrained.rrdbnet import realesrgan
from studies.pretrained.srvggnet import realesr_animevideov3
from studies.training import RUNS

SCALE = 4
"""All networks magnify so many times."""

N_TEST, TEST_SIZE = 12, 96
SEARCHED = search.Budget(flops=0.4)
"""What searches are asked for, which changes nothing of their candidates."""

PLAIN, BY_METRIC, CALIBRATED = "plain", "metric", "calibrated"
"""How a search is calibrated: not at all; by moments, which weigh layers too; or wholly, where each
layer is tried at three errors. The last runs the whole network thrice for every layer."""

EACH_ALONE, REPAIRED, TUNED = "each_alone", "repaired", "tuned"


@dataclass(frozen=True, slots=True)
class Network:
    """A pretrained network and how much it is calibrated on.

    Attributes:
        name: On the command line and in tables.
        build: Returns the network, in eval mode.
        n_crops: Unlabelled crops of photographs that a calibration and a repair look at.
        size: Of a side of such a crop, in pixels.
        batch: Crops at a time.
        searches: Of `PLAIN`, `BY_METRIC` and `CALIBRATED`; `upscale` takes the last.
        budgets: That are tried with each.
        rungs: What is done for the decomposed network: of `EACH_ALONE`, `REPAIRED`, and `TUNED`,
            which comes after that.
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

    def search(self, model: nn.Module, label: str) -> tuple[SearchResult, float | None]:
        """Search the network, or read the search that was done.

        Args:
            model: What `build` returns.
            label: `PLAIN`, `BY_METRIC` or `CALIBRATED`.

        Returns:
            The result, and the seconds of the processor that it took; None where it was kept.
        """
        start = time.process_time()
        run = RUNS / f"sr-{self.name}-{label}"
        is_finished = (run / "front.csv").exists()
        calibration: Sequence[Tensor] | NetworkMetric | None = None
        if label == CALIBRATED:
            calibration = self.calibration()
        elif label == BY_METRIC:
            calibration = search.load(run).metrics if is_finished else self._metric(model)
        image = torch.zeros(1, 3, TEST_SIZE, TEST_SIZE)
        result = search.run(
            model, image, budget=SEARCHED, run=run, measure_seconds=0, calibration=calibration
        )
        return result, None if is_finished else time.process_time() - start

    def _metric(self, model: nn.Module) -> NetworkMetric:
        """Return the metric of all layers that are searched, which weighs them by its size."""
        image = torch.zeros(1, 3, TEST_SIZE, TEST_SIZE)
        names = [layer.name for layer in search.profile(model, image).searched]
        collected = moments(model, names, self.calibration(), output="values")
        return NetworkMetric(
            metrics_of({name: weight_of(model, name) for name in names}, collected)
        )


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
            rungs=(EACH_ALONE, REPAIRED, TUNED),
        ),
        Network(
            "x4plus-anime",
            partial(realesrgan, "realesrgan-x4plus-anime"),
            n_crops=32,
            size=48,
            batch=8,
            searches=(BY_METRIC,),
            budgets=_HALF,
            rungs=(REPAIRED,),
        ),
        Network(
            "x4plus",
            partial(realesrgan, "realesrgan-x4plus"),
            n_crops=8,
            size=32,
            batch=4,
            searches=(BY_METRIC,),
            budgets=_HALF,
            rungs=(),
        ),
    )
}
"""By name; for the larger ones less is done."""


def test_images() -> Tensor:
    """Return crops of the photographs that nothing is calibrated on, `(N, 3, H, W)`."""
    return crops(TEST, N_TEST, TEST_SIZE, seed=1)
