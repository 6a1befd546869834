"""Judge the layers again in the compressed network, and choose once more: does it help?

The integer program adds layers that were judged one at a time in the intact network. Here every
layer is judged by what the output gains when it alone is given back its dense weight, the program
is solved again with those sensitivities, a few times, and of all plans the one whose output
diverges least is repaired beside the first one.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

import search
import sekron
from search.front.choices import Choices
from search.front.result import SearchResult
from sekron.calibration.divergence import Reference, reference_of
from sekron.decomposition.metric import ERROR_POWER
from sekron.forward.evaluation import evaluating
from sekron.forward.inputs import as_arguments
from sekron.network.swap import swap
from sekron.training.sequential_fit import batch_statistics
from studies.glyphs import glyphs, trained_resnet
from studies.pretrained.photographs import CALIBRATION, TEST, crops
from studies.pretrained.srvggnet import realesr_animevideov3
from studies.super_resolution.fidelity import fidelity
from studies.training import RUNS, accuracy

SHARES = (0.1, 0.15, 0.25)
"""Of the FLOPs."""

ROUNDS = 3
N_JUDGED = 256
"""Images by which plans and layers are judged."""

PULL = 0.25
"""Power of the new sensitivity's ratio to the old one; from 0.5 on plans swing back and forth."""

LEAST = 1e-3
"""Least gain of a layer, relative to the divergence, and least relative error that count."""

COLUMNS = (
    *("network", "budget", "dense", "round"),
    *("divergence", "divergence_again"),
    *("repaired_divergence", "repaired_divergence_again", "repaired", "repaired_again"),
)


@dataclass(frozen=True)
class Task:
    """A network and its images.

    Attributes:
        model: Trained.
        run: Name of the folder of its search.
        example: One image, whose size counts for FLOPs.
        images: Unlabelled batches.
        score: Rates a network, higher is better: accuracy in percent, fidelity in dB.
    """

    model: nn.Module
    run: str
    example: Tensor
    images: Sequence[Tensor]
    score: Callable[[nn.Module], float]


def main() -> None:
    """Run the study and print its table; rows in the file are not run again."""
    options = _options()
    torch.set_num_threads(options.threads)
    path = options.output
    frame = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=list(COLUMNS))
    for name in options.networks:
        known = set(frame.loc[frame["network"] == name, "budget"])
        budgets = [search.Budget(flops=share) for share in options.shares]
        budgets = [budget for budget in budgets if str(budget) not in known]
        if not budgets:
            continue
        task = TASKS[name]()
        result = _searched(task)
        for budget in budgets:
            row = {"network": name, "budget": str(budget), **_compared(task, result, budget)}
            frame = pd.concat([frame, pd.DataFrame([row])], ignore_index=True)
            frame.round(6).to_csv(path, index=False)
            print(row, flush=True)
    print(frame.round(6).to_string(index=False))


def _compared(task: Task, result: SearchResult, budget: search.Budget) -> dict[str, float]:
    """Return a row: the first plan and the one that diverges least, each repaired."""
    reference = reference_of(task.model, map(as_arguments, task.images))
    found = judged_again(task.model, result, budget, reference.sample(N_JUDGED))
    best = min(range(len(found)), key=lambda place: found[place][1])
    print(f"{budget}: divergence {[round(divergence, 4) for _, divergence in found]}", flush=True)
    row: dict[str, float] = {"dense": task.score(task.model), "round": best}
    for suffix, place in (("", 0), ("_again", best)):
        plan, row[f"divergence{suffix}"] = found[place]
        small = plan.apply(task.model)
        if place or not suffix:
            outcome = sekron.repair(small, task.model, task.images, progress=False)
            repaired = outcome.after, task.score(small)
        row[f"repaired_divergence{suffix}"], row[f"repaired{suffix}"] = repaired
    return row


def judged_again(
    model: nn.Module, result: SearchResult, budget: search.Budget, judging: Reference
) -> list[tuple[sekron.Plan, float]]:
    """Return the plan of a search and those of further rounds, each with its divergence.

    Args:
        model: The dense network.
        result: Of a calibrated search.
        budget: Of all plans.
        judging: By whose outputs layers and plans are judged.
    """
    found = []
    for _ in range(1 + ROUNDS):
        plan = result.plan(budget)
        divergence, given_back = _given_back(model, plan, judging)
        found.append((plan, divergence))
        gains = {name: divergence - without for name, without in given_back.items()}
        result = _weighed(result, plan, gains, divergence)
    return found


def _given_back(
    model: nn.Module, plan: sekron.Plan, judging: Reference
) -> tuple[float, dict[str, float]]:
    """Return a plan's divergence, and layer -> that with the layer's dense weight given back."""
    small, given_back = plan.apply(model), {}
    with evaluating(model), evaluating(small), batch_statistics(small):
        divergence = judging.divergence(small)
        for name in plan:
            own = small.get_submodule(name)
            swap(small, {name: model.get_submodule(name)})
            given_back[name] = judging.divergence(small)
            swap(small, {name: own})
    return divergence, given_back


def _weighed(
    result: SearchResult, plan: sekron.Plan, gains: Mapping[str, float], divergence: float
) -> SearchResult:
    """Return a result whose sensitivities go some of the way to what the gains say."""
    layers = zip(result.tables.items(), result.choices.choice(plan), strict=True)
    errors = {name: float(table.errors[row]) for (name, table), row in layers if name in plan}
    ratios = {
        name: max(gains[name], LEAST * divergence)
        / max(error, LEAST) ** ERROR_POWER
        / result.tables[name].sensitivity
        for name, error in errors.items()
    }
    mean = math.exp(sum(map(math.log, ratios.values())) / len(ratios))
    tables = {
        name: replace(
            table, sensitivity=table.sensitivity * (ratios.get(name, mean) / mean) ** PULL
        )
        for name, table in result.tables.items()
    }
    return replace(result, choices=Choices(result.profile, tables, result.metrics))


def _searched(task: Task) -> SearchResult:
    return search.run(
        task.model,
        task.example,
        budget=search.Budget(flops=SHARES[-1]),
        run=RUNS / task.run,
        measure_seconds=0,
        calibration=task.images,
    )


def _resnet(depth: int) -> Task:
    split = glyphs()

    def score(network: nn.Module) -> float:
        return 100.0 * accuracy(network, split.test_images, split.test_labels)

    images = split.train_images[:1024].split(128)
    return Task(
        trained_resnet(split, depth), f"repair-resnet{depth}", split.test_images[:1], images, score
    )


def _super_resolution() -> Task:
    model, test = realesr_animevideov3(), crops(TEST, 12, 96, seed=1)
    images = crops(CALIBRATION, 64, 48).split(16)

    def score(network: nn.Module) -> float:
        return fidelity(network, model, test)

    return Task(model, "sr-calibrated", test[:1], images, score)


TASKS: Mapping[str, Callable[[], Task]] = {
    "resnet20": lambda: _resnet(20),
    "resnet32": lambda: _resnet(32),
    "super_resolution": _super_resolution,
}
"""Networks by name."""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.repair.working_point")
    parser.add_argument("--networks", nargs="+", choices=tuple(TASKS), default=tuple(TASKS))
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of the FLOPs")
    parser.add_argument("--threads", type=int, default=1)
    output = Path(__file__).with_name("working_point.csv")
    parser.add_argument("--output", type=Path, default=output)
    return parser.parse_args()


if __name__ == "__main__":
    main()
