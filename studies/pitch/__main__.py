"""Compress the pitch tracker CREPE without a label: raw pitch accuracy on tones with noise.

Raw pitch accuracy is the share of frames whose pitch is within 50 cents of the true one. Of speech,
whose pitch nobody has written down, the dense network's pitch stands for the true one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from search.front.result import SearchResult
from sekron.forward.evaluation import one_line
from studies.pitch.accuracy import agreement, heard, raw_pitch_accuracy, voiced
from studies.pitch.networks import BUDGETS, networks, searched
from studies.pitch.speech import speech_frames
from studies.pitch.splits import beside_divided
from studies.pretrained.crepe import crepe_full

SNRS = (20.0, 5.0, 0.0)
COLUMNS = ("network", "budget", *(f"{snr:g} dB" for snr in SNRS))
N_SPEECH = 300
"""Frames of speech."""

FOLDER = Path(__file__).parent


def main() -> None:
    """Run the study; what went wrong is told in one line."""
    options = _options()
    torch.set_num_threads(options.threads)
    try:
        _study(options)
    except (ModuleNotFoundError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {one_line(error)}\n")
        sys.exit(2)


def _study(options: argparse.Namespace) -> None:
    """Print all tables; what is in the files beside this one is not run again."""
    speech = None if options.speech is None else speech_frames(options.speech, N_SPEECH)
    model = crepe_full()
    result = searched(model)
    plans = {str(budget): result.plan(budget) for budget in BUDGETS}
    for budget, plan in plans.items():
        layers = result.layers(plan)[["layer", "weight_shape", "flops", "structure"]]
        print(f"\n{budget}\n{layers.to_string(index=False)}")
    accuracies = _accuracies(model, result, FOLDER / "tones.csv")
    print(f"\nraw pitch accuracy in percent\n{accuracies.to_string(index=False)}")
    if speech is not None:
        print("\nagreement with the dense network on voiced frames of speech, in percent")
        print(_agreements(model, result, speech).to_string(index=False))
    path = FOLDER / "divided.csv"
    if not path.exists():
        beside_divided(model, result, plans).round(4).to_csv(path, index=False)
    print(f"\nkernels that two factors divide\n{pd.read_csv(path).to_string(index=False)}")


def _accuracies(model: nn.Module, result: SearchResult, path: Path) -> pd.DataFrame:
    """Return a row for each network, with a column for each signal-to-noise ratio."""
    frame = pd.read_csv(path, keep_default_na=False) if path.exists() else _empty()
    known = set(zip(frame["network"], frame["budget"], strict=True))
    for name, budget, network in networks(model, result):
        if (name, budget) not in known:
            scores = [round(raw_pitch_accuracy(network, snr), 1) for snr in SNRS]
            frame.loc[len(frame)] = [name, budget, *scores]
            frame.to_csv(path, index=False)
    return frame


def _empty() -> pd.DataFrame:
    return pd.DataFrame(columns=list(COLUMNS))


def _agreements(model: nn.Module, result: SearchResult, frames: Tensor) -> pd.DataFrame:
    """Return a row for each network: voiced frames, and on how many it hears the same pitch."""
    dense = heard(model, frames)
    rows = [
        (name, budget, int(voiced(dense).sum()), agreement(heard(network, frames), dense))
        for name, budget, network in networks(model, result)
    ]
    return pd.DataFrame(rows, columns=["network", "budget", "frames", "percent"]).round(1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.pitch", description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--speech", type=Path, help="folder of recordings, WAV at 16 kHz")
    return parser.parse_args()


if __name__ == "__main__":
    main()
