"""What is measured of every network of a comparison, and what tells one comparison from another."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from baselines.contenders import Entry
from baselines.rows import COLUMNS, Row
from sekron.budget import RESOURCES
from sekron.decomposition.errors import fitted_error
from sekron.decomposition.metric import ERROR_POWER, Metric
from sekron.forward.evaluation import Score
from sekron.forward.inputs import Arguments, Inputs
from sekron.layers.factorized import Factorized
from sekron.network.digest import digest_of
from sekron.network.network_metric import NetworkMetric
from sekron.network.opening import opened
from sekron.network.surgery import structures_of, weight_of
from sekron.profiling.network_profile import NetworkProfile
from sekron.profiling.profile import first_image
from sekron.training.batch_norm import recalibrate
from sekron.training.repair import repair

Clock = Callable[[nn.Module, nn.Module], tuple[float, float]]
"""From the dense and another network to the other's milliseconds and its speed-up."""


@dataclass(frozen=True, slots=True)
class Judge:
    """The measurements that fill a row of the table.

    Attributes:
        model: The dense network.
        profile: Costs of the dense network.
        metric: Layer name -> metric in which errors are taken once more, or None.
        score: Rates a network, higher is better, or None.
        calibration: Unlabelled batches, on which it is scored once more, or None.
        repairs: Whether the best of a method's networks is scored a third time, repaired on the
            same batches.
        clock: Times a network, or None.
    """

    model: nn.Module
    profile: NetworkProfile
    metric: Mapping[str, Metric] | None
    score: Score | None
    calibration: Sequence[Arguments] | None
    repairs: bool
    clock: Clock | None

    def row(self, entry: Entry | None) -> Row:
        """Return errors, costs, latency and scores.

        The network, which is the entry's own, is switched to evaluation, and its batch norm is
        re-estimated.
        """
        row: Row = dict.fromkeys(COLUMNS[3:-1], np.nan)
        if entry is None:
            return row
        entry.network.eval()
        row["error"] = entry.error
        if self.metric is not None and not np.isnan(entry.error):
            row["error_in_metric"] = error_in_metric(entry.network, self.model, self.metric)
        for resource in RESOURCES:
            row[resource] = entry.used[resource]
            row[f"{resource}_ratio"] = entry.used[resource] / self.profile.dense(resource)
        if self.clock is not None:
            row["latency_ms"], row["speedup"] = self.clock(self.model, entry.network)
        if self.score is not None:
            row["score"] = float(self.score(entry.network))
            if self.calibration is not None:
                recalibrate(entry.network, self.calibration)
                row["score_recalibrated"] = float(self.score(entry.network))
        return row

    def repair_best(self, made: Sequence[tuple[Row, Entry | None]]) -> None:
        """Repair the network with the best score, and add its score to its row.

        Args:
            made: Rows as `row` returns them, and their entries. A network without factorized
                layers, such as a pruned one, is not repaired.
        """
        assert self.score is not None
        assert self.calibration is not None
        scored = [(row, e.network) for row, e in made if e and structures_of(e.network)]
        if scored:
            row, network = max(scored, key=lambda pair: float(str(pair[0]["score_recalibrated"])))
            repair(network, self.model, self.calibration, progress=False)
            row["score_repaired"] = float(self.score(network.eval()))

    def fingerprint(self, example_input: Inputs, max_seconds: float) -> str:
        """Return a digest of what rows depend on: the network, its images, what is measured.

        Args:
            example_input: What the network's forward takes.
            max_seconds: Time for the candidates of one method.
        """
        shapes = [tuple(tensor.shape) for tensor in first_image(example_input, self.model).tensors]
        layers = [layer.name for layer in self.profile.searched]
        flags = [_named(self.score), _named(self.clock), self.repairs]
        metric = NetworkMetric(self.metric).digest
        batches = {
            f"batch {number}, {place}": tensor
            for number, batch in enumerate(self.calibration or ())
            for place, tensor in enumerate(batch.tensors)
        }
        seen = digest_of(self.model.state_dict() | batches)
        text = f"{shapes} {layers} {flags} {max_seconds} {metric} {seen}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _named(function: Any) -> str | None:
    """Return the name of a function, and its setting if it has one: what tells it from others."""
    if function is None:
        return None
    named = function if hasattr(function, "__qualname__") else type(function)
    setting = getattr(function, "setting", "")
    return f"{named.__module__}.{named.__qualname__}{setting and f' in {setting}'}"


def error_in_metric(network: nn.Module, dense: nn.Module, metric: Mapping[str, Metric]) -> float:
    """Return `Σ sensitivityₗ · errorₗ⁴` over the layers of a network that were factorized.

    Args:
        network: From `Plan.apply` on `dense`, or with factors of any other origin.
        dense: The dense network.
        metric: Layer name -> metric in which the layer's relative error is taken.
    """
    total = 0.0
    structures = structures_of(network)
    dense = opened(dense, structures)
    already = structures_of(dense)
    for name, structure in structures.items():
        if name in already:
            continue
        layer = network.get_submodule(name)
        assert isinstance(layer, Factorized)
        error = fitted_error(weight_of(dense, name), layer.factors(), structure, metric[name])
        total += metric[name].sensitivity * error**ERROR_POWER
    return total
