"""How many frames a network hears the right pitch in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from studies.pitch.networks import BATCH
from studies.pitch.tones import noisy, tones
from studies.pretrained.crepe import cents_of, cents_of_hertz

N_TEST = 200
NEAR_CENTS = 50.0
VOICED = 0.5
"""How likely a pitch must be for a frame to have one."""


def raw_pitch_accuracy(network: nn.Module, snr_db: float) -> float:
    """Return the share in percent of test tones whose pitch is within `NEAR_CENTS`.

    Args:
        network: Puts out how likely each pitch is.
        snr_db: Signal-to-noise ratio of the tones.
    """
    samples, hertz = tones(N_TEST, seed=1)
    likely = heard(network, noisy(samples, snr_db, seed=2))
    return _percent_near(cents_of(likely), cents_of_hertz(hertz))


def heard(network: nn.Module, frames: Tensor) -> Tensor:
    """Return how likely each pitch is, `(N, 360)`, for frames `(N, 1024)`."""
    with torch.no_grad():
        return torch.cat([network(part) for part in frames.split(BATCH)])


def agreement(likely: Tensor, dense: Tensor) -> float:
    """Return the share in percent of voiced frames whose pitch is within `NEAR_CENTS`.

    Args:
        likely: What a network hears, `(N, 360)`.
        dense: What the dense network hears, which tells the pitch and whether there is one.
    """
    is_voiced = voiced(dense)
    return _percent_near(cents_of(likely[is_voiced]), cents_of(dense[is_voiced]))


def voiced(likely: Tensor) -> Tensor:
    """Return for each frame whether it has a pitch, `(N,)`."""
    return likely.amax(dim=1) >= VOICED


def _percent_near(cents: Tensor, truth: Tensor) -> float:
    return 100.0 * float(((cents - truth).abs() < NEAR_CENTS).float().mean())
