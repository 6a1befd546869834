"""Compress the pitch tracker CREPE without a label: raw pitch accuracy on tones with noise.

Raw pitch accuracy is the share of frames whose pitch is within 50 cents of the true one.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

import search
import sekron
from search.front.result import SearchResult
from studies.pitch.splits import beside_divided
from studies.pitch.tones import noisy, tones
from studies.pretrained.crepe import cents_of, cents_of_hertz, crepe_full
from studies.training import RUNS

BUDGET = search.Budget(flops=0.5)
N_CALIBRATION, N_TEST, BATCH = 96, 200, 32
NOISIEST, CLEANEST = 0.0, 30.0
"""Signal-to-noise ratios of the calibration, in dB; each tone has one of its own."""

SNRS = (20.0, 5.0, 0.0)
NEAR_CENTS = 50.0


def main() -> None:
    """Run the study and print its tables; what is in the files beside this one is not run again."""
    options = _options()
    torch.set_num_threads(options.threads)
    model, folder = crepe_full(), Path(__file__).parent
    start = time.process_time()
    result = _searched(model)
    print(f"search: {time.process_time() - start:.0f} s of the processor, or read from `.runs`")
    plan = result.plan(BUDGET)
    layers = result.layers(plan)
    print(layers[["layer", "weight_shape", "flops", "structure"]].to_string(index=False))
    path = folder / "tones.csv"
    if not path.exists():
        _accuracies(model, plan).to_csv(path, index=False)
    print(f"\nraw pitch accuracy in percent\n{pd.read_csv(path).to_string(index=False)}")
    path = folder / "divided.csv"
    if not path.exists():
        beside_divided(model, result, plan).round(4).to_csv(path, index=False)
    print(f"\nkernels that two factors divide\n{pd.read_csv(path).to_string(index=False)}")


def _searched(model: nn.Module) -> SearchResult:
    return search.run(
        model,
        torch.zeros(1, 1024),
        budget=BUDGET,
        run=RUNS / "pitch-crepe",
        measure_seconds=0,
        calibration=calibration(),
    )


def calibration() -> tuple[Tensor, ...]:
    """Return batches of frames with as much noise as comes, without their pitches."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(N_CALIBRATION, 1, generator=generator)
    samples, _ = tones(N_CALIBRATION, seed=0)
    snr_db = NOISIEST + (CLEANEST - NOISIEST) * drawn
    return noisy(samples, snr_db, seed=0).split(BATCH)


def raw_pitch_accuracy(network: nn.Module, snr_db: float) -> float:
    """Return the share in percent of test tones whose pitch is within `NEAR_CENTS`.

    Args:
        network: Puts out how likely each pitch is.
        snr_db: Signal-to-noise ratio of the tones.
    """
    samples, hertz = tones(N_TEST, seed=1)
    with torch.no_grad():
        parts = [network(frames) for frames in noisy(samples, snr_db, seed=2).split(BATCH)]
    off = (cents_of(torch.cat(parts)) - cents_of_hertz(hertz)).abs()
    return 100.0 * float((off < NEAR_CENTS).float().mean())


def _accuracies(model: nn.Module, plan: sekron.Plan) -> pd.DataFrame:
    """Return a row for each network, with a column for each signal-to-noise ratio."""
    decomposed, repaired = plan.apply(model), plan.apply(model)
    start = time.process_time()
    print(sekron.repair(repaired, model, calibration(), progress=False))
    print(f"repair: {time.process_time() - start:.0f} s of the processor")
    networks = {"dense": model, "decomposed": decomposed, "repaired": repaired}
    rows = [
        (name, *(round(raw_pitch_accuracy(network, snr), 1) for snr in SNRS))
        for name, network in networks.items()
    ]
    return pd.DataFrame(rows, columns=["network", *(f"{snr:g} dB" for snr in SNRS)])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.pitch", description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
