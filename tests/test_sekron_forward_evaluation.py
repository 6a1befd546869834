"""Batches are what loaders yield, and anything else is one line."""

import re

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sekron
from sekron.forward.evaluation import inputs_of, must_allow_gradients, without_singles
from sekron.forward.inputs import as_arguments

IMAGES = torch.arange(24.0).reshape(6, 4)
NETWORK = nn.Linear(4, 2)


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
    found = [batch.tensors[0] for batch in inputs_of(batches, NETWORK, "it")]
    assert torch.equal(torch.cat(found), IMAGES)


KINDS = "it must hold tensors, tuples with the inputs first, or mappings of keyword arguments, got "


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "it must hold at least one batch, got none."),
        (IMAGES, "it must be a list or a loader of batches, got one tensor."),
        ([IMAGES.numpy()], f"{KINDS}ndarray."),
        ([()], f"{KINDS}tuple."),
        ([IMAGES, IMAGES[:0]], "it must hold images, got a batch of shape (0, 4)."),
        ([torch.tensor(1.0)], "it must hold images, got a batch of shape ()."),
        ([{"input": 3}], "it must hold images, got a batch of shape input=int."),
        ([IMAGES, IMAGES / 0], "it must be finite, got NaN or Inf in a batch."),
        ([{"x": IMAGES, "mask": IMAGES / 0}], "it must be finite, got NaN or Inf in a batch."),
    ],
)
def test_anything_else_is_refused(batches, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        list(inputs_of(batches, NETWORK, "it"))


def test_a_mask_may_be_infinite():
    mask = torch.full((6, 4), -torch.inf)
    (found,) = inputs_of([{"input": IMAGES, "mask": mask}], NETWORK, "it")
    assert found.named["mask"] is mask


@pytest.mark.parametrize(
    ("sizes", "joined"),
    [
        ([3, 3, 1], [3, 4]),
        ([1] * 7, [2, 2, 3]),
        ([1, 3], [4]),
        ([4], [4]),
        ([1], [1]),
        ([3, 1, 2], [3, 3]),
    ],
)
def test_a_batch_of_one_is_joined_to_another(sizes, joined):
    x = torch.arange(float(sum(sizes)))[:, None]
    batches = list(without_singles(map(as_arguments, x.split(sizes))))
    assert [len(batch) for batch in batches] == joined
    assert torch.equal(torch.cat([batch.tensors[0] for batch in batches]), x)


def test_images_of_another_size_are_not_joined():
    batches = map(as_arguments, [torch.zeros(3, 2), torch.zeros(1, 5)])
    assert [batch.tensors[0].shape for batch in without_singles(batches)] == [(3, 2), (1, 5)]


def test_a_lone_image_without_a_variance_is_told_with_the_cure():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    with pytest.raises(ValueError, match=r"two images or more: a larger `batch_size`, or `drop_la"):
        sekron.recalibrate(network, [torch.randn(1, 3, 1, 1)])


def test_gradients_must_be_possible():
    with torch.no_grad():
        must_allow_gradients(NETWORK)
    with (
        torch.inference_mode(),
        pytest.raises(ValueError, match=r"stands within `torch.inference_mode\(\)`; take it out"),
    ):
        must_allow_gradients(NETWORK)
    with torch.inference_mode():
        network = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"network was made within `torch.inference_mode\(\)`"):
        must_allow_gradients(network)
