"""Compress the pitch tracker CREPE without a label: raw pitch accuracy on tones with noise.

Raw pitch accuracy is the share of frames whose pitch is within 50 cents of the true one.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

import search
import sekron
from search.front.result import SearchResult
from sekron.forward.evaluation import one_line
from studies.pitch.speech import speech_frames
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
N_SPEECH, VOICED = 300, 0.5
"""Frames of speech, and how likely a pitch must be for a frame to have one."""

FOLDER = Path(__file__).parent


def main() -> None:
    """Run the study and print its tables; what is in the files beside this one is not run again."""
    options = _options()
    torch.set_num_threads(options.threads)
    try:
        _study(options)
    except (ModuleNotFoundError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {one_line(error)}\n")
        sys.exit(2)


def _study(options: argparse.Namespace) -> None:
    model = crepe_full()
    result = _searched(model)
    plan = result.plan(BUDGET)
    layers = result.layers(plan)
    print(layers[["layer", "weight_shape", "flops", "structure"]].to_string(index=False))
    path = FOLDER / "tones.csv"
    if not path.exists():
        _accuracies(_networks(model, plan)).to_csv(path, index=False)
    print(f"\nraw pitch accuracy in percent\n{pd.read_csv(path).to_string(index=False)}")
    if options.speech is not None:
        frames = speech_frames(options.speech, N_SPEECH)
        agreed = _agreed(_networks(model, plan), frames)
        print(f"\nvoiced frames of speech within {NEAR_CENTS:g} cents of the dense network's pitch")
        print(agreed.to_string(index=False))
    path = FOLDER / "divided.csv"
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
    return 100.0 * float(_is_near(cents_of(torch.cat(parts)), cents_of_hertz(hertz)))


def _networks(model: nn.Module, plan: sekron.Plan) -> dict[str, nn.Module]:
    """Return the networks by name; what is repaired once is kept under `.runs`."""
    path = RUNS / "pitch-crepe-repaired" / f"{plan.digest[:16]}.safetensors"
    if path.exists():
        repaired = sekron.load(model, path)
    else:
        repaired, start = plan.apply(model), time.process_time()
        print(sekron.repair(repaired, model, calibration(), output="values", progress=False))
        print(f"repair: {time.process_time() - start:.0f} s of the processor", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        sekron.save(repaired, path)
    return {"dense": model, "decomposed": plan.apply(model), "repaired": repaired.eval()}


def _accuracies(networks: dict[str, nn.Module]) -> pd.DataFrame:
    """Return a row for each network, with a column for each signal-to-noise ratio."""
    rows = [
        (name, *(round(raw_pitch_accuracy(network, snr), 1) for snr in SNRS))
        for name, network in networks.items()
    ]
    return pd.DataFrame(rows, columns=["network", *(f"{snr:g} dB" for snr in SNRS)])


def _agreed(networks: dict[str, nn.Module], frames: Tensor) -> pd.DataFrame:
    """Return the share in percent of voiced frames on which networks agree with the dense one."""
    with torch.no_grad():
        likely = {
            name: torch.cat([network(part) for part in frames.split(BATCH)])
            for name, network in networks.items()
        }
    is_voiced = likely["dense"].amax(dim=1) >= VOICED
    truth = cents_of(likely["dense"])[is_voiced]
    rows = [
        (name, int(is_voiced.sum()), 100.0 * float(_is_near(cents_of(own)[is_voiced], truth)))
        for name, own in likely.items()
    ]
    return pd.DataFrame(rows, columns=["network", "frames", "percent"]).round(1)


def _is_near(cents: Tensor, truth: Tensor) -> Tensor:
    """Return the share of pitches that are within `NEAR_CENTS`."""
    return ((cents - truth).abs() < NEAR_CENTS).float().mean()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.pitch", description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--speech", type=Path, help="folder of recordings, WAV at 16 kHz")
    return parser.parse_args()


if __name__ == "__main__":
    main()
