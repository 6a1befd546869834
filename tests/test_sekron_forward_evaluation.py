"""Batches are what loaders yield, and anything else is one line."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sekron
from sekron.forward.evaluation import (
    buffers_kept,
    inputs_of,
    must_allow_gradients,
    without_singles,
)
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


class Growing(nn.Module):
    """Makes its buffers when it sees images of another size, and knows by that size."""

    def __init__(self):
        super().__init__()
        self.size = None
        self.register_buffer("late", None)
        self.register_buffer("first", torch.ones(2))
        self.register_buffer("gone", torch.ones(3), persistent=False)

    def forward(self, x):
        if self.size != x.shape[1]:
            self.size = x.shape[1]
            self.late = self.first = torch.zeros(self.size)
            self.register_buffer("made", torch.ones(self.size), persistent=False)
            self.register_buffer("saved", torch.ones(self.size))
            del self.gone
        return x * self.made + self.late


def test_buffers_that_forward_makes_are_not_there_afterwards():
    network, x = Growing(), torch.ones(2, 5)
    first, gone = network.first, network.gone
    for _ in range(2):
        with buffers_kept(network):
            assert torch.equal(network(x), x)
        assert network._buffers.keys() == {"late", "first", "gone"}
        assert network.late is None
        assert network.first is first
        assert network.gone is gone
        assert network._non_persistent_buffers_set == {"gone"}


LAYOUTS = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "csr": lambda: torch.eye(3).to_sparse_csr(),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
}


# torch says of both layouts, whenever one is made, that they may change yet.
@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_buffers_of_any_layout_are_put_back(layout):
    network, buffer = nn.Module(), LAYOUTS[layout]()
    network.register_buffer("buffer", buffer)
    with buffers_kept(network):
        buffer.mul_(2.0)
    assert network.buffer is buffer
    assert all(
        torch.equal(x, y) for x, y in zip(rows(buffer), rows(LAYOUTS[layout]()), strict=True)
    )


def rows(tensor):
    return tensor.unbind() if tensor.is_nested else tensor.to_dense()


def test_buffers_of_a_script_are_put_back():
    network = torch.jit.script(nn.Sequential(nn.BatchNorm1d(4)))
    before = copy.deepcopy(network.state_dict())
    with buffers_kept(network):
        network(IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
