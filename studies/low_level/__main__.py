"""Train super-resolution networks, compress them at equal budgets, and repair them alike.

Our plans and the rivals' are made for a share of the weights of the residual blocks; each network
is repaired and tuned on unlabelled patches, and fine-tuned on pairs of patches. Scores are PSNR
in dB and SSIM on the luminance.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import search
import sekron
from sekron.profiling.count import count_flops
from studies.low_level.methods import DENSE, METHODS, RUNGS, climb, compressing
from studies.low_level.networks import NETWORKS
from studies.low_level.photographs import SAMPLES, Photographs, from_folders, samples
from studies.low_level.quality import quality
from studies.low_level.table import Key, Table
from studies.low_level.task import Task, task_of
from studies.training import RUNS

BICUBIC = "bicubic"
SHARES = (0.35, 0.24)
"""Of the residual blocks' weights: about those of the filter-basis paper."""


def main() -> None:
    """Run the study; a row that is in the table already is not computed again."""
    options = _options()
    torch.set_num_threads(options.threads)
    data = options.data.name if options.data else SAMPLES
    table = Table(options.output or Path(__file__).with_name(f"{data}.csv"))
    photographs = _photographs(options)
    for name in options.networks:
        task = task_of(name, photographs, options)
        _add_rows(task, table, options)
        if options.measure_seconds:
            _time_rows(task, table, options)
    print(table.beside_claims(data))


def _photographs(options: argparse.Namespace) -> Photographs:
    if not options.data:
        return samples(options.scale)
    try:
        return from_folders(options.data, options.scale, options.patch)
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from error


def _add_rows(task: Task, table: Table, options: argparse.Namespace) -> None:
    key: Key = {"network": task.name, "scale": task.scale}
    bicubic = key | {"share": 1.0, "method": BICUBIC}
    if not table.has(bicubic):
        enlarge = functools.partial(
            F.interpolate,
            scale_factor=float(task.scale),
            mode="bicubic",
            antialias=True,  # for its kernel, which is the one that Pillow and MATLAB have
        )
        table.add(_scored(task, bicubic, {RUNGS[0]: _scores(task, enlarge)}))
    for method, shares in {DENSE: [1.0], **dict.fromkeys(options.methods, options.shares)}.items():
        missing = [s for s in shares if not table.has(key | {"share": s, "method": method})]
        if not missing:
            continue
        compress = compressing(
            task,
            method,
            trials=options.trials,
            max_length=options.max_length,
            max_seconds=options.max_seconds,
            runs=options.runs,
        )
        for share in missing:
            network = compress(share)
            if network is None:
                print(f"{method} does not reach {share:.1%}")
                continue
            row = key | {"share": share, "method": method}
            rows = _climbed(task, network, row, options)
            sekron.save(network, _path(row, options.runs))
            table.add(rows)
            print(table.frame.tail(1).to_string(index=False), flush=True)


def _climbed(
    task: Task, network: nn.Module, key: Key, options: argparse.Namespace
) -> list[dict[str, object]]:
    rungs = climb(task, network, tune_steps=options.tune_steps, learning_rate=options.learning_rate)
    scores = {rung: _scores(task, network.eval()) for rung in rungs}
    counts = [
        (count_flops(n, (task.example,))[0], sum(p.numel() for p in n.parameters()))
        for n in (network, task.model)
    ]
    flops, params = (mine / whole for mine, whole in zip(*counts, strict=True))
    return _scored(task, key | {"flops": flops, "params": params}, scores)


def _scores(task: Task, network: Callable[[Tensor], Tensor]) -> dict[str, tuple[float, float]]:
    """Return set of photographs -> PSNR and SSIM."""
    return {name: quality(network, pairs) for name, pairs in task.photographs.tests.items()}


def _scored(
    task: Task, key: Key, scores: dict[str, dict[str, tuple[float, float]]]
) -> list[dict[str, object]]:
    """Return a row for each set of photographs."""
    return [
        key
        | {"images": images}
        | {rung: of_sets[images][0] for rung, of_sets in scores.items()}
        | {f"ssim_{rung}": of_sets[images][1] for rung, of_sets in scores.items()}
        for images in task.photographs.tests
    ]


def _time_rows(task: Task, table: Table, options: argparse.Namespace) -> None:
    """Race the networks of rows without a latency against the dense one."""
    for key in table.untimed():
        path = _path(key, options.runs)
        if (key["network"], key["scale"]) != (task.name, task.scale) or not path.exists():
            continue
        network = sekron.load(task.model, path)
        raced = search.compare(
            task.model, network, task.photograph, max_seconds=options.measure_seconds
        )
        table.fill(key, {"latency_ms": raced.second.median_ms, "speedup": raced.ratio})


def _path(key: Key, runs: Path) -> Path:
    """Return where the network of a row is kept, for the clock."""
    name = f"low_level-{key['network']}-x{key['scale']}-{key['share']}-{key['method']}"
    return runs / f"{name.replace(', ', '-')}.safetensors"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.low_level", description=__doc__)
    parser.add_argument(
        "--data", type=Path, help="folder with `train` and sets to test on, such as Set5"
    )
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=("srresnet",))
    parser.add_argument("--scale", type=int, choices=(2, 3, 4), default=2)
    parser.add_argument("--shares", nargs="+", type=_share, default=SHARES)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--patch", type=int, default=24, help="pixels of a small patch's side")
    parser.add_argument("--batch", type=int, default=4, help="patches")
    parser.add_argument("--dense-steps", type=int, default=3000)
    parser.add_argument("--dense-learning-rate", type=float, default=1e-3)
    parser.add_argument("--trials", type=int, default=0, help="of the search, per layer")
    parser.add_argument("--max-length", type=int, default=3, help="of a sequence, in the search")
    parser.add_argument("--max-seconds", type=float, default=180, help="for a rival's candidates")
    parser.add_argument("--calibration", type=int, default=6, help="batches, unlabelled")
    parser.add_argument("--tune-steps", type=int, default=40)
    parser.add_argument("--steps", type=int, default=100, help="of fine-tuning")
    parser.add_argument("--learning-rate", type=float, default=0.001, help="of fine-tuning")
    parser.add_argument(
        "--measure-seconds", type=float, default=5, help="for a latency; the machine must be quiet"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="of the table; default beside this file")
    parser.add_argument("--runs", type=Path, default=RUNS, help="of trained networks and searches")
    return parser.parse_args()


def _share(text: str) -> float:
    share = float(text)
    if not 0.0 < share < 1.0:
        raise argparse.ArgumentTypeError(f"a share must be between 0 and 1, got {text}.")
    return share


if __name__ == "__main__":
    main()
