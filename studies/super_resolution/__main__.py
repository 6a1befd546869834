"""Compress pretrained super-resolution networks: fidelity to the dense ones on photographs.

The fidelity is the PSNR between what the two put out for photographs that nothing is calibrated on;
seconds are of the processor, not of the clock. `upscale` magnifies a picture of yours instead.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import nn

import search
import sekron
from sekron.forward.evaluation import one_line
from studies.each_alone import fit_each_alone
from studies.super_resolution.fidelity import OnLuminance, fidelity
from studies.super_resolution.networks import (
    EACH_ALONE,
    NETWORKS,
    REPAIRED,
    SCALE,
    TUNED,
    Network,
    test_images,
)
from studies.super_resolution.repaired import repaired, tuned
from studies.super_resolution.upscale import bicubic, magnified, read_picture, side_by_side

COLUMNS = (
    *("network", "search", "budget", "decomposed", "each_alone", "repaired", "tuned"),
    *("psnr_y", "ssim_y", "search_seconds", "repair_seconds", "tune_seconds"),
)


def main() -> None:
    """Run the study, or magnify a picture; what went wrong is told in one line."""
    options = _options()
    torch.set_num_threads(options.threads)
    try:
        if options.command == "upscale":
            _upscale(options)
        else:
            _study([NETWORKS[name] for name in options.networks])
    except (ModuleNotFoundError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {one_line(error)}\n")
        sys.exit(2)


def _study(networks: list[Network]) -> None:
    """Print the table of all networks; rows in the file beside this one are not run again."""
    path = Path(__file__).with_name("photographs.csv")
    frame = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=list(COLUMNS))
    for network in networks:
        model = network.build()
        for label in network.searches:
            is_own = (frame["network"] == network.name) & (frame["search"] == label)
            known = set(frame.loc[is_own, "budget"])
            budgets = [budget for budget in network.budgets if str(budget) not in known]
            for row in _rows(network, model, label, budgets) if budgets else ():
                frame.loc[len(frame)] = list(row)
                frame.round(4).to_csv(path, index=False)
                print(*row, flush=True)
    print(f"\nfidelity in dB\n{frame.round(3).to_string(index=False)}")


def _rows(
    network: Network, model: nn.Module, label: str, budgets: list[search.Budget]
) -> Iterator[tuple[object, ...]]:
    """Yield a row for every budget: one plan, left as it is and repaired as far as is tried."""
    result, search_seconds = network.search(model, label)
    test = test_images()
    for budget in budgets:
        plan = result.plan(budget)
        best = plan.apply(model)
        scores = {"decomposed": fidelity(best, model, test)}
        seconds: dict[str, float | None] = {"search": search_seconds}
        if EACH_ALONE in network.rungs:
            alone = plan.apply(model)
            fit_each_alone(alone, model, network.calibration())
            scores[EACH_ALONE] = fidelity(alone, model, test)
        for rung, fitted in ((REPAIRED, repaired), (TUNED, tuned)):
            if rung in network.rungs:
                best, spent = fitted(network, model, plan)
                scores[rung], seconds[rung] = fidelity(best, model, test), spent
        with torch.no_grad():
            seen = OnLuminance.of(best(test), model(test), SCALE)
        known = {stage: round(spent) for stage, spent in seconds.items() if spent is not None}
        yield (
            *(network.name, label, str(budget)),
            *(scores.get(rung) for rung in ("decomposed", EACH_ALONE, REPAIRED, TUNED)),
            *(seen.psnr, seen.ssim),
            *(known.get(stage) for stage in ("search", REPAIRED, TUNED)),
        )


def _upscale(options: argparse.Namespace) -> None:
    """Write the dense network's, the compressed one's and the bicubic picture beside each other."""
    if options.output.suffix.lower() != ".png" or not options.output.parent.is_dir():
        raise ValueError(
            f"{options.output} must end in .png and be in a folder that exists; give another name."
        )
    image = read_picture(options.picture)
    network = NETWORKS[options.network]
    model = network.build()
    if options.plan is None:
        sys.stderr.write("searching, and repairing, unless that is kept in .runs\n")
        result, _ = network.search(model, network.searches[-1])
        plan = result.plan(search.Budget(flops=options.flops))
    else:
        plan = sekron.Plan.load(options.plan)
    small = repaired(network, model, plan)[0] if REPAIRED in network.rungs else plan.apply(model)
    (dense, dense_seconds), (ours, seconds), (smooth, smooth_seconds) = (
        magnified(model, image),
        magnified(small, image),
        bicubic(image),
    )
    decibel = float(-10.0 * (ours - dense).square().mean().log10())
    sheet = side_by_side(
        [
            (dense, f"{network.name}: {dense_seconds:.2f} s"),
            (ours, f"compressed: {seconds:.2f} s, {decibel:.1f} dB to it"),
            (smooth, f"bicubic: {smooth_seconds:.2f} s"),
        ]
    )
    sheet.save(options.output)
    print(f"{options.output}: {sheet.width} by {sheet.height} pixels")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.super_resolution", description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    commands = parser.add_subparsers(dest="command")
    upscale = commands.add_parser("upscale", help="magnify a picture in three ways")
    upscale.add_argument("picture", type=Path)
    upscale.add_argument("output", type=Path)
    upscale.add_argument("--network", choices=NETWORKS, default="animevideov3")
    plans = upscale.add_mutually_exclusive_group()
    plans.add_argument("--flops", type=float, default=0.5, help="share that the plan may have")
    plans.add_argument("--plan", type=Path, help="file of a plan for the network")
    return parser.parse_args()


if __name__ == "__main__":
    main()
