"""A trained classifier and its data: what the study compresses, and on what it is repaired."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from search.cli.trained import load_trained
from sekron.forward.evaluation import evaluating
from studies.cifar import cifar10, cifar100
from studies.digits import Split
from studies.glyphs import glyphs
from studies.imagenet import imagenet
from studies.networks import resnet
from studies.training import accuracy, trained

BATCH = 64

N_UNLABELLED = 1024
"""Training images that may be looked at before fine-tuning."""

SMALL_IMAGES: dict[str, dict[str, Any]] = {
    "mobilenet_v2": {
        "inverted_residual_setting": [
            *([1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 3, 2], [6, 64, 4, 2]),
            *([6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]),
        ]
    },
    "resnet50": {
        "zero_init_residual": True,
        "replace_stride_with_dilation": [False, False, True],
    },
}
"""Network -> settings under which it learns from images of 32 pixels in a few epochs.

Strides and dilation leave more than one pixel at the end."""

SPLITS: dict[str, Callable[[str], Split]] = {
    "glyphs": lambda _: glyphs(),
    "cifar10": cifar10,
    "cifar100": cifar100,
}
"""Sets that fit into memory, by name; from a folder, but for the one that is drawn."""


@dataclass(frozen=True)
class Task:
    """A trained classifier and its data.

    Attributes:
        name: Of the network.
        model: Trained.
        unlabelled: Batches of training images.
        score: Accuracy on the test images.
        loader: Returns the labelled training images, shuffled alike for everyone.
    """

    name: str
    model: nn.Module
    unlabelled: Sequence[Tensor]
    score: Callable[[nn.Module], float]
    loader: Callable[[], DataLoader[Any]]

    @property
    def example(self) -> Tensor:
        """One image."""
        return self.unlabelled[0][:1]


def task_of(name: str, options: argparse.Namespace) -> Task:
    """Return a task; a network for a set that fits into memory is trained, once.

    Args:
        name: `resnet20`, `resnet32`, … for small images, `se_resnet20`, …, with squeeze and
            excitation; any other name is torchvision's.
        options: Of the study.
    """
    if options.data == "imagenet":
        return _imagenet(name, options.path, options.weights)
    split = SPLITS[options.data](options.path)
    images, labels = split.train_images, split.train_labels
    build = partial(build_network, name, int(labels.max()) + 1, images.shape[1])
    model = trained(
        f"{name}-{options.data}",
        build,
        images,
        labels,
        epochs=options.dense_epochs,
        learning_rate=options.dense_learning_rate,
        folder=options.runs,
    )

    def loader() -> DataLoader[Any]:
        order = torch.Generator().manual_seed(0)
        return DataLoader(TensorDataset(images, labels), BATCH, shuffle=True, generator=order)

    return Task(
        name,
        model,
        images[:N_UNLABELLED].split(BATCH),
        lambda network: accuracy(network, split.test_images, split.test_labels),
        loader,
    )


def build_network(name: str, n_classes: int, n_channels: int, *, small: bool = True) -> nn.Module:
    """Return a network with fresh weights, for small images or for large ones."""
    family, _, depth = name.rpartition("resnet")
    if family in ("", "se_") and _is_for_small_images(depth):
        return resnet(int(depth), n_classes, n_channels, squeeze=family == "se_")
    import torchvision  # noqa: PLC0415  heavy, and only needed here

    settings = SMALL_IMAGES.get(name, {}) if small else {}
    network: nn.Module = torchvision.models.get_model(
        name, weights=None, num_classes=n_classes, **settings
    )
    return network


def _is_for_small_images(depth: str) -> bool:
    """Whether ResNets of that depth are those of CIFAR; 50 and 152 are ImageNet's."""
    return depth.isdigit() and (int(depth) - 2) % 6 == 0 and depth not in ("50", "152")


def _imagenet(name: str, path: str, weights: str) -> Task:
    if not weights:
        raise SystemExit("imagenet needs --weights, the state dict of the trained network.")
    training = partial(imagenet, path, training=True, batch_size=BATCH)
    n_classes = len(training().dataset.classes)  # type: ignore[attr-defined]  # an ImageFolder
    model = build_network(name, n_classes, 3, small=False)
    load_trained(model, weights)
    return Task(
        name,
        model.eval(),
        [x for x, _ in islice(training(), -(-N_UNLABELLED // BATCH))],
        lambda network: _accuracy(network, imagenet(path, training=False)),
        training,
    )


def _accuracy(network: nn.Module, batches: DataLoader[Any]) -> float:
    right, seen = 0, 0
    with evaluating(network):
        for images, labels in batches:
            right += int((network(images).argmax(dim=1) == labels).sum())
            seen += len(labels)
    return right / seen
