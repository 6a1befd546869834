"""Batches are what loaders yield, and anything else is one line."""

import re

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from sekron.forward import inputs_of

IMAGES = torch.arange(24.0).reshape(6, 4)


@pytest.mark.parametrize(
    "batches",
    [
        IMAGES.split(2),
        ((x, None) for x in IMAGES.split(2)),
        DataLoader(TensorDataset(IMAGES, torch.zeros(6)), 2),
    ],
    ids=["tensors", "generator of tuples", "loader"],
)
def test_inputs_are_the_tensors_or_what_is_first(batches):
    assert torch.equal(torch.cat(list(inputs_of(batches, "it"))), IMAGES)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "it must hold at least one batch, got none."),
        (IMAGES, "it must be a list or a loader of batches, got one tensor."),
        ([{"image": IMAGES}], "it must hold tensors, or tuples with a tensor first, got dict."),
        ([IMAGES.numpy()], "it must hold tensors, or tuples with a tensor first, got ndarray."),
        ([()], "it must hold tensors, or tuples with a tensor first, got tuple."),
        ([IMAGES, IMAGES[:0]], "it must hold images, got a batch of shape (0, 4)."),
        ([torch.tensor(1.0)], "it must hold images, got a batch of shape ()."),
        ([IMAGES, IMAGES / 0], "it must be finite, got NaN or Inf in a batch."),
    ],
)
def test_anything_else_is_refused(batches, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        list(inputs_of(batches, "it"))
