"""Batches are what loaders yield, and anything else is one line."""

import re

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from sekron.forward import inputs_of, without_singles

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


@pytest.mark.parametrize(
    ("sizes", "joined"),
    [([3, 3, 1], [3, 4]), ([1, 1, 1], [3]), ([1, 3], [1, 3]), ([4], [4]), ([3, 1, 2], [4, 2])],
)
def test_a_batch_of_one_is_joined_to_the_one_before(sizes, joined):
    x = torch.arange(float(sum(sizes)))[:, None]
    batches = list(without_singles(x.split(sizes)))
    assert [len(batch) for batch in batches] == joined
    assert torch.equal(torch.cat(batches), x)


def test_images_of_another_size_are_not_joined():
    batches = [torch.zeros(3, 2), torch.zeros(1, 5)]
    assert [x.shape for x in without_singles(batches)] == [(3, 2), (1, 5)]
