"""Real handwritten digits that need no download, as tensors ready for a small network."""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn import functional as F

NATIVE_SIZE = 8


# Two tensors have no single truth value, so a generated `==` could only raise.
@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Labelled images in a part to train on and a part to test on.

    Args:
        train_images: Float images of shape `(N, C, H, W)`.
        train_labels: Class indices of shape `(N,)`, int64.
        test_images: Float images of shape `(M, C, H, W)`.
        test_labels: Class indices of shape `(M,)`, int64.

    Raises:
        ValueError: If images and labels differ in number, or the two parts in image shape.

    Example:
        >>> images, labels = torch.zeros(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64)
        >>> Split(images, labels, images[:2], labels[:2]).test_labels.shape
        torch.Size([2])
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def __post_init__(self) -> None:
        for images, labels in (
            (self.train_images, self.train_labels),
            (self.test_images, self.test_labels),
        ):
            if labels.shape != images.shape[:1]:
                raise ValueError(
                    f"every image must have one label, got images {tuple(images.shape)} and "
                    f"labels {tuple(labels.shape)}."
                )
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise ValueError(
                "train and test images must have one shape, got "
                f"{tuple(self.train_images.shape[1:])} and {tuple(self.test_images.shape[1:])}."
            )


def digits(size: int = 32, test_fraction: float = 0.25, seed: int = 0) -> Split:
    """Load scikit-learn's 1797 handwritten digits, enlarged and normalised.

    The 8x8 originals are enlarged bilinearly and normalised by the mean and the standard
    deviation of the training part alone, so that nothing of the test part leaks.

    Args:
        size: Height and width of the images in pixels, at least 8.
        test_fraction: Share of the images kept for testing, in (0, 1).
        seed: Seed of the split, which keeps the ten classes balanced.

    Returns:
        The split; images of shape `(N, 1, size, size)`, labels 0 to 9.

    Raises:
        ValueError: If `size` is below 8, or `test_fraction` outside (0, 1).

    Example:
        >>> split = digits(size=16)
        >>> tuple(split.train_images.shape), tuple(split.test_images.shape)
        ((1347, 1, 16, 16), (450, 1, 16, 16))
    """
    if size < NATIVE_SIZE:
        raise ValueError(f"`size` must be at least {NATIVE_SIZE}, the native size, got {size}.")
    if not 0 < test_fraction < 1:
        raise ValueError(f"`test_fraction` must lie in (0, 1), got {test_fraction}.")
    pixels, classes = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().view(-1, 1, NATIVE_SIZE, NATIVE_SIZE)
    images = F.interpolate(images, size=(size, size), mode="bilinear")  # (N, 1, size, size)
    labels = torch.from_numpy(classes).long()  # (N,)
    train, test = train_test_split(
        torch.arange(len(labels)).numpy(),
        test_size=test_fraction,
        random_state=seed,
        stratify=classes,
    )
    std, mean = torch.std_mean(images[train])
    images = (images - mean) / std
    return Split(images[train], labels[train], images[test], labels[test])
