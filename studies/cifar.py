"""CIFAR-10 and CIFAR-100 in their binary format, from a folder that the user has."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from studies.digits import Split

PIXELS = 3 * 32 * 32


def cifar10(folder: str | Path) -> Split:
    """Read CIFAR-10, normalised by the training images of each channel.

    Args:
        folder: With `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin`.

    Returns:
        Images of shape `(N, 3, 32, 32)`, labels 0 to 9.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is no whole number of records.

    Reference:
        https://www.cs.toronto.edu/~kriz/cifar.html, "binary version".
    """
    train = [f"data_batch_{number}.bin" for number in range(1, 6)]
    return _split(Path(folder), train, ["test_batch.bin"], n_labels=1)


def cifar100(folder: str | Path) -> Split:
    """Read CIFAR-100 with its fine labels, normalised by the training images of each channel.

    Args:
        folder: With `train.bin` and `test.bin`.

    Returns:
        Images of shape `(N, 3, 32, 32)`, labels 0 to 99.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is no whole number of records.
    """
    return _split(Path(folder), ["train.bin"], ["test.bin"], n_labels=2)


def _split(folder: Path, train: list[str], test: list[str], n_labels: int) -> Split:
    train_images, train_labels = _read(folder, train, n_labels)
    test_images, test_labels = _read(folder, test, n_labels)
    std, mean = torch.std_mean(train_images, dim=(0, 2, 3), keepdim=True)
    return Split((train_images - mean) / std, train_labels, (test_images - mean) / std, test_labels)


def _read(folder: Path, names: list[str], n_labels: int) -> tuple[Tensor, Tensor]:
    """Return images in [0, 1] and the last label of every record, the fine one."""
    records = []
    for name in names:
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{folder} must hold {', '.join(names)}, but has no {name}.")
        numbers = np.fromfile(path, dtype=np.uint8)
        if len(numbers) == 0 or len(numbers) % (n_labels + PIXELS):
            raise ValueError(
                f"{path} must hold records of {n_labels + PIXELS} bytes, got {len(numbers)} bytes."
            )
        records.append(numbers.reshape(-1, n_labels + PIXELS))
    table = torch.from_numpy(np.concatenate(records))
    images = table[:, n_labels:].reshape(-1, 3, 32, 32).float() / 255.0
    return images, table[:, n_labels - 1].long()
