"""Frames of recorded speech, whose pitch nobody has written down."""

from __future__ import annotations

import sys
import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sekron.forward.evaluation import one_line
from studies.pretrained.crepe import FRAME, SAMPLE_RATE, normalised

HOP = SAMPLE_RATE // 100


def speech_frames(folder: Path, most: int) -> Tensor:
    """Return frames of all recordings below a folder, as the network takes them, `(n, 1024)`.

    A recording that cannot be read is named and left out.

    Args:
        folder: With WAV files of one channel, 16 bits and 16,000 samples per second.
        most: Frames that are returned at most, evenly spread over all.

    Raises:
        ValueError: If there is no recording that can be read.
    """
    frames = []
    paths = sorted(folder.rglob("*.wav"))
    for path in paths:
        try:
            frames.append(_samples(path).unfold(0, FRAME, HOP))
        except (EOFError, OSError, ValueError, RuntimeError, wave.Error) as error:
            sys.stderr.write(f"skipped {path}: {one_line(error)}\n")
    if not frames:
        raise ValueError(
            f"{folder} must hold a WAV file that can be read, got {len(paths)} that cannot."
        )
    found = torch.cat(frames)
    spread = torch.linspace(0, len(found) - 1, min(most, len(found))).round().long()
    return normalised(found[spread])


def _samples(path: Path) -> Tensor:
    """Return the samples of a recording of at least one frame, in [-1, 1]."""
    with wave.open(str(path)) as file:
        form = file.getnchannels(), file.getsampwidth(), file.getframerate()
        data = file.readframes(file.getnframes())
    if form != (1, 2, SAMPLE_RATE):
        raise ValueError(
            f"it must have 1 channel, 2 bytes a sample and {SAMPLE_RATE} samples a second, got "
            f"{form[0]}, {form[1]} and {form[2]}."
        )
    samples = np.frombuffer(data, "<i2").astype(np.float32) / 32768.0
    if len(samples) < FRAME:
        raise ValueError(f"it must have {FRAME} samples, got {len(samples)}.")
    return torch.from_numpy(samples)
