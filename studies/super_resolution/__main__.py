"""Compress a pretrained super-resolution network: fidelity to the dense one on photographs.

The fidelity is the PSNR between what the two put out for photographs that nothing is calibrated on;
seconds are of the processor, not of the clock.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

import search
import sekron
from studies.each_alone import fit_each_alone
from studies.pretrained.photographs import CALIBRATION, TEST, crops
from studies.pretrained.srvggnet import realesr_animevideov3
from studies.super_resolution.fidelity import fidelity
from studies.training import RUNS

BUDGETS = [search.Budget(flops=share) for share in (0.6, 0.4, 0.25)]
N_CALIBRATION, CALIBRATION_SIZE, BATCH = 64, 48, 16
N_TEST, TEST_SIZE = 12, 96
COLUMNS = ("budget", "search", "decomposed", "each_alone", "repaired", "seconds")


def main() -> None:
    """Run the study and print its table; rows in the file beside this one are not run again."""
    options = _options()
    torch.set_num_threads(options.threads)
    model = realesr_animevideov3()
    calibration = crops(CALIBRATION, N_CALIBRATION, CALIBRATION_SIZE).split(BATCH)
    test = crops(TEST, N_TEST, TEST_SIZE, seed=1)
    path = Path(__file__).with_name("photographs.csv")
    frame = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=COLUMNS)
    for label in ("plain", "calibrated"):
        known = set(frame.loc[frame["search"] == label, "budget"])
        budgets = [budget for budget in BUDGETS if str(budget) not in known]
        if not budgets:
            continue
        for row in _repaired(model, label, budgets, calibration, test):
            frame.loc[len(frame)] = list(row)
            frame.round(2).to_csv(path, index=False)
            print(*row, flush=True)
    print(f"\nfidelity in dB\n{frame.round(1).to_string(index=False)}")


def _repaired(
    model: nn.Module,
    label: str,
    budgets: list[search.Budget],
    calibration: tuple[Tensor, ...],
    test: Tensor,
) -> Iterator[tuple[object, ...]]:
    """Yield a row for every budget: one plan, left as it is and repaired in two ways."""
    result = search.run(
        model,
        test[:1],
        budget=BUDGETS[1],
        run=RUNS / f"sr-{label}",
        measure_seconds=0,
        calibration=None if label == "plain" else calibration,
    )
    for budget in budgets:
        networks = [result.plan(budget).apply(model) for _ in range(3)]
        _, alone, repaired = networks
        fit_each_alone(alone, model, calibration)
        start = time.process_time()
        sekron.repair(repaired, model, calibration, progress=False)
        seconds = time.process_time() - start
        scores = [fidelity(network, model, test) for network in networks]
        yield str(budget), label, *scores, round(seconds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.super_resolution", description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
