"""Harmonic tones of known pitch, with noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from studies.pretrained.crepe import FRAME, SAMPLE_RATE, normalised

LOWEST, HIGHEST = 50.0, 1000.0
"""Of the pitch, in Hz."""

STEEPEST = 2.0
"""The amplitude of harmonic h is at least `1 / h ** STEEPEST`."""

MOST_HARMONICS = 30


def tones(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return frames of harmonic tones, each of a pitch and a timbre of its own.

    Pitches are drawn evenly in cents; the amplitudes of harmonics fall by a power that is drawn,
    those above half of the sample rate are left out, and all phases are drawn.

    Args:
        count: Number of tones.
        seed: Seed of all that is drawn.

    Returns:
        Samples `(count, 1024)` of unit power, and their pitches in Hz, `(count,)`.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    hertz = LOWEST * (HIGHEST / LOWEST) ** drawn(count)
    steepness = STEEPEST * drawn(count, 1)
    harmonics = torch.arange(1, MOST_HARMONICS + 1, dtype=torch.float64)
    frequencies = hertz[:, None] * harmonics  # (count, harmonics)
    amplitudes = harmonics**-steepness * (frequencies < SAMPLE_RATE / 2)
    seconds = torch.arange(FRAME, dtype=torch.float64) / SAMPLE_RATE
    turns = frequencies[..., None] * seconds + drawn(count, MOST_HARMONICS, 1)
    samples = (amplitudes[..., None] * torch.sin(2 * math.pi * turns)).sum(dim=1)
    power = samples.square().mean(dim=1, keepdim=True)
    return (samples / power.sqrt()).float(), hertz.float()


def noisy(samples: Tensor, snr_db: Tensor | float, seed: int) -> Tensor:
    """Return frames with white noise, as the network takes them.

    Args:
        samples: Of unit power, `(N, 1024)`.
        snr_db: Signal-to-noise ratio in dB, one for all or `(N, 1)`.
        seed: Seed of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(samples.shape, generator=generator)
    return normalised(samples + 10.0 ** (-torch.as_tensor(snr_db) / 20.0) * noise)
