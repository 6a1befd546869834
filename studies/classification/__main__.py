"""Compress classifiers at equal budgets, and give every one the same ladder of repairs.

Decomposed; batch norm re-estimated, factors refitted and tuned on unlabelled images; fine-tuned on
labels.
"""

from __future__ import annotations

import argparse
import copy
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from torch import nn

import search
import sekron
from baselines.contenders import Contender
from baselines.entrants import IN_METRIC, PRUNING, RIVALS, Field
from sekron.decomposition.metric import Metric
from sekron.profiling.count import count_flops
from sekron.profiling.profile import profile
from sekron.training.funnel_penalty import Funnel
from studies.classification.tasks import SPLITS, Task, task_of
from studies.training import RUNS

OURS, FUNNEL = "sekron", "funnel"
AS_LONG = "sekron, as long as funnel"
"""Our plan, fine-tuned for as many epochs as the funnel and its fine-tuning take together."""

PLAIN = "sekron, uncalibrated"
"""Our plan by plain error, as the rivals' are: from a search that has seen no image."""

METHODS = (OURS, FUNNEL, AS_LONG, "gkpd", "tensor_train", "tensor_ring", "cp", "tucker2", PRUNING)
"""By default; every other rival can be named too."""


def main() -> None:
    """Run the study; a row that is in the table already is not computed again."""
    options = _options()
    path = options.output or Path(__file__).with_name(f"{options.data}.csv")
    frame = pd.read_csv(path) if path.exists() else pd.DataFrame()
    for name in options.networks:
        task = task_of(name, options)
        dense = task.score(task.model)
        print(f"{name}, dense accuracy {dense:.4f}")
        # A rival's candidates are those of every budget; TensorLy's take minutes.
        rival = functools.cache(functools.partial(_rival, task, options))
        for budget in options.budgets:
            for method in options.methods:
                key = {"network": name, "budget": str(budget)}
                forms = _forms(method, both=options.both_norms)
                if _is_there(frame, key, forms):
                    continue
                entered = {m: _compressed(task, budget, m, options, rival) for m in forms}
                reached = {m: network for m, network in entered.items() if network is not None}
                if not reached:
                    print(f"{method} does not reach {budget}")
                    continue
                key["method"] = _best(task, reached)
                network = reached[key["method"]]
                epochs = options.epochs + options.funnel_epochs * (method == AS_LONG)
                recipe = sekron.Recipe(epochs=epochs, learning_rate=options.learning_rate)
                row = {
                    **key,
                    "dense": dense,
                    **_ladder(task, network, method, options.steps, recipe),
                }
                print(row)
                frame = pd.concat([frame, pd.DataFrame([row])], ignore_index=True)
                frame.round(4).to_csv(path, index=False)
    print(_beside_claims(frame, options.data).to_string(index=False, float_format="{:.4g}".format))


def _beside_claims(frame: pd.DataFrame, data: str) -> pd.DataFrame:
    """Return the table with the points lost, and with what papers claim on the real sets."""
    lost = 100.0 * (frame["dense"] - frame["finetuned"])
    claims = pd.read_csv(Path(__file__).with_name("claims.csv"))
    seconds = [column for column in frame if column.endswith("_seconds")]
    measured = frame.drop(columns=seconds).assign(lost=lost, source=f"measured, {data}")
    return pd.concat([measured, claims], ignore_index=True)


def _compressed(
    task: Task,
    budget: search.Budget,
    method: str,
    options: argparse.Namespace,
    rival: Callable[[str], Contender],
) -> nn.Module | None:
    """Return a compressed network, or None where the method does not reach the budget."""
    if method in (OURS, AS_LONG, PLAIN):
        result = _searched(task, budget, options, is_plain=method == PLAIN)
        return result.best.apply(task.model)
    if method == FUNNEL:
        recipe = sekron.Recipe(epochs=options.funnel_epochs)
        found = search.funnel(
            task.model,
            task.loader(),
            task.example,
            budget=budget,
            dense=task.model,
            penalty=Funnel("global", options.funnel_strength),
            recipe=recipe,
        )
        return found.network
    entry = rival(method).enter(budget, "exact")
    return None if entry is None else entry.network


def _searched(
    task: Task, budget: search.Budget, options: argparse.Namespace, *, is_plain: bool = False
) -> search.SearchResult:
    folder = f"classification-{options.data}-{task.name}"
    return search.run(
        task.model,
        task.example,
        budget=budget,
        n_trials=options.trials,
        max_sequence_length=options.max_length,
        run=options.runs / (f"{folder}-plain" if is_plain else folder),
        measure_seconds=0,
        calibration=None if is_plain else task.unlabelled,
    )


def _rival(task: Task, options: argparse.Namespace, method: str) -> Contender:
    metric: Mapping[str, Metric] | None = None
    if method.endswith(IN_METRIC):
        metric = _searched(task, options.budgets[0], options).metrics
    measured = profile(task.model, task.example)
    field = Field(task.model, task.example, measured, metric, task.unlabelled, options.max_seconds)
    return field.rival(method)


def _forms(method: str, *, both: bool) -> tuple[str, ...]:
    """Return a method, and where both norms are asked for also its form in our metric."""
    in_metric = f"{method}{IN_METRIC}"
    return (method, in_metric) if both and in_metric in RIVALS else (method,)


def _is_there(frame: pd.DataFrame, key: Mapping[str, str], methods: Sequence[str]) -> bool:
    """Whether the table has a row of one of the methods."""
    if frame.empty:
        return False
    rows = frame[(frame[list(key)] == pd.Series(key)).all(axis=1)]
    return bool(rows["method"].isin(methods).any())


def _best(task: Task, networks: Mapping[str, nn.Module]) -> str:
    """Return the method whose network is the most accurate with batch norm re-estimated."""
    if len(networks) == 1:
        return next(iter(networks))
    accuracies = {}
    for method, network in networks.items():
        judged = copy.deepcopy(network)
        sekron.recalibrate(judged, task.unlabelled)
        accuracies[method] = task.score(judged)
    print(f"with batch norm re-estimated: {accuracies}")
    return max(accuracies, key=accuracies.__getitem__)


def _ladder(
    task: Task, network: nn.Module, method: str, tune_steps: int, recipe: sekron.Recipe
) -> dict[str, float]:
    """Return what the network costs, as shares of the dense one, and its accuracy on every rung."""
    flops = [count_flops(n, (task.example,))[0] for n in (network, task.model)]
    params = [sum(p.numel() for p in n.parameters()) for n in (network, task.model)]
    row = {"flops": flops[0] / flops[1], "params": params[0] / params[1]}
    row["decomposed"] = task.score(network)
    rungs: dict[str, Callable[[], object]] = {
        "recalibrated": lambda: sekron.recalibrate(network, task.unlabelled),
        "refitted": lambda: sekron.refit(network, task.model, task.unlabelled),
        "tuned": lambda: sekron.tune(network, task.model, task.unlabelled, steps=tune_steps),
        "finetuned": lambda: sekron.finetune(
            network, task.loader(), dense=task.model, recipe=recipe
        ),
    }
    if method in (FUNNEL, PRUNING):
        # Trained away from the dense weights, which these two go back to; or without factors.
        del rungs["refitted"], rungs["tuned"]
    for rung, climb in rungs.items():
        start = time.perf_counter()
        climb()
        row[f"{rung}_seconds"] = time.perf_counter() - start
        row[rung] = task.score(network)
    return row


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.classification", description=__doc__)
    parser.add_argument("--data", choices=(*SPLITS, "imagenet"), default="glyphs")
    parser.add_argument("--path", default="", help="folder of CIFAR (binary) or ImageNet")
    parser.add_argument("--weights", default="", help="state dict, for ImageNet")
    parser.add_argument("--networks", nargs="+", default=("resnet32", "se_resnet20"))
    parser.add_argument(
        "--budgets", nargs="+", type=_budget, default=(_budget("flops=0.5"), _budget("params=0.2"))
    )
    others = (PLAIN, *(name for name in RIVALS if name not in METHODS))
    parser.add_argument("--methods", nargs="+", choices=(*METHODS, *others), default=METHODS)
    parser.add_argument(
        "--both-norms", action="store_true", help="rivals in the better of the plain and our norm"
    )
    parser.add_argument("--dense-epochs", type=int, default=12)
    parser.add_argument("--dense-learning-rate", type=float, default=0.1)
    parser.add_argument("--trials", type=int, default=50, help="of the search, per layer")
    parser.add_argument("--max-length", type=int, default=3, help="of a sequence, in the search")
    parser.add_argument(
        "--max-seconds", type=float, default=float("inf"), help="for a rival's candidates"
    )
    parser.add_argument("--steps", type=int, default=60, help="of tune")
    parser.add_argument("--epochs", type=int, default=2, help="of fine-tuning")
    parser.add_argument("--learning-rate", type=float, default=0.01, help="of fine-tuning")
    parser.add_argument("--funnel-epochs", type=int, default=2, help="before the fine-tuning")
    parser.add_argument(
        "--funnel-strength", type=float, default=0.025, help="more than published: fewer steps"
    )
    parser.add_argument("--output", type=Path, help="of the table; default beside this file")
    parser.add_argument("--runs", type=Path, default=RUNS, help="of trained networks and searches")
    return parser.parse_args()


def _budget(text: str) -> search.Budget:
    """Read `flops=0.5`."""
    resource, _, share = text.partition("=")
    return search.Budget(**{resource: float(share)})


if __name__ == "__main__":
    main()
