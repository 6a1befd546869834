"""Who takes part in a comparison: names, the rules for their ranks, and how they are prepared."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from baselines.activation_svd import activation_candidates, whitenings
from baselines.contenders import VBMF, Contender, Decomposed, Planned, Pruned
from baselines.layer_candidates import candidates
from baselines.methods import METHODS, truncate
from sekron.budget import Budget
from sekron.decomposition.metric import Metric
from sekron.forward.batches import Batches
from sekron.forward.inputs import Inputs
from sekron.network.eligibility import computed, replaceable_modules
from sekron.network.plan import Plan
from sekron.profiling.network_profile import NetworkProfile
from sekron.rank_curves.table import CandidateTable

ACTIVATION_SVD = "activation_svd"
"""The rival that sees the inputs of the layers."""

PRUNING = "pruning"
"""The rival that decomposes nothing."""

IN_METRIC = " in metric"
"""What follows the name of a rival that decomposes in our metric."""

RIVALS = (*METHODS, *(f"{name}{IN_METRIC}" for name in METHODS), ACTIVATION_SVD, PRUNING)
"""All rivals, by name."""


@dataclass(frozen=True, slots=True)
class Field:
    """What those who take part are given.

    Attributes:
        model: The dense network.
        example_input: What its forward takes.
        profile: Costs of the dense network.
        metric: Layer name -> our metric, or None.
        calibration: Unlabelled batches, or None.
        max_seconds: Time for the candidates of one rival.
    """

    model: nn.Module
    example_input: Inputs
    profile: NetworkProfile
    metric: Mapping[str, Metric] | None
    calibration: Batches | None
    max_seconds: float

    def __post_init__(self) -> None:
        layers = [layer.name for layer in self.profile.searched]
        missing = [] if self.metric is None else [n for n in layers if n not in self.metric]
        if missing:
            raise ValueError(
                f"`metric` must hold every layer that is compared, got none for {missing[0]!r}; "
                "take that of a calibrated search with the same `include` and `exclude`."
            )

    def rivals(self) -> list[str]:
        """Return the names of all rivals that can take part."""
        return [name for name in RIVALS if not self.lack(name)]

    def lack(self, name: str) -> str:
        """Return what a rival needs and does not have; empty if it can take part."""
        if name.endswith(IN_METRIC) and self.metric is None:
            return "needs `metric`, such as `result.metrics` of a calibrated search"
        if name == ACTIVATION_SVD and self.calibration is None:
            return "needs unlabelled batches; give `calibration`"
        if name == PRUNING and not importlib.util.find_spec("torch_pruning"):
            return "needs Torch-Pruning: pip install 'sekron[compare]'"
        layers = replaceable_modules(self.model)
        of_hooks = [layer for layer in layers if computed(layers[layer])]
        if name == PRUNING and of_hooks:
            return f"needs weights that are no function of others, unlike layer {of_hooks[0]!r}'s"
        return ""

    def rival(self, name: str) -> Contender:
        """Prepare a rival: its candidates are computed."""
        if name == PRUNING:
            return Pruned(self.model, self.example_input, self.profile)
        if name == ACTIVATION_SVD:
            return self._activation_svd()
        method = METHODS[name.removesuffix(IN_METRIC)]
        metrics = self.metric if name.endswith(IN_METRIC) and self.metric is not None else {}
        tables = candidates(
            self.model, self.profile, method, max_seconds=self.max_seconds, metrics=metrics
        )
        return Decomposed(self.model, self.profile, tables, method.factorize, metrics)

    def _activation_svd(self) -> Contender:
        assert self.calibration is not None
        by_layer = whitenings(self.model, self.profile, self.calibration)
        tables = activation_candidates(self.model, self.profile, by_layer)
        return Decomposed(self.model, self.profile, tables, truncate, by_layer)

    def searched(self, name: str, tables: Mapping[str, CandidateTable]) -> Callable[[], Contender]:
        """Return how to prepare the candidates of a search.

        Raises:
            ValueError: If they are not of the same layers, or not in the plain norm.
        """
        layers = [layer.name for layer in self.profile.searched]
        if list(tables) != layers or any(table.power != 2 for table in tables.values()):
            raise ValueError(
                f"the tables of {name!r} must be of the layers that are compared, "
                f"{', '.join(layers)}, and without a calibration, got {', '.join(tables)}; "
                "give the `include` and `exclude` of their search, or its `plans`."
            )
        return partial(Decomposed, self.model, self.profile, tables, truncate)

    def planned(self, plan: Callable[[Budget], Plan]) -> Callable[[], Contender]:
        """Return how to prepare plans that are made elsewhere."""
        return partial(Planned, self.model, self.profile, plan)


def rules_of(rival: str, allocations: Sequence[str]) -> tuple[str, ...]:
    """Return the rules by which a rival gets its ranks: the allocations, and its own."""
    if rival == PRUNING:
        return ("magnitude",)
    own = {"tucker2": VBMF, ACTIVATION_SVD: "lagrangian"}.get(rival.removesuffix(IN_METRIC))
    return tuple(dict.fromkeys((*allocations, *([own] if own else []))))
