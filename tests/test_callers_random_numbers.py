"""What makes, fills or repairs layers takes nothing from the caller's random numbers."""

import pytest
import torch
from torch import nn

import sekron
from sekron import Plan, SeKronConv, SeKronConv2d, SeKronConvTranspose, SeKronLinear, Structure
from sekron.network.surgery import rebuild, structures_of
from sekron.training.random_state import random_state
from tests.trained import equal, images_and_labels, networks

QUIET = {"progress": False}
LAYERS = {
    "conv-1d": (SeKronConv, nn.Conv1d(3, 8, 3), "cp:8x1x1,1x3x3@4"),
    "conv-2d": (SeKronConv2d, nn.Conv2d(3, 8, 3), "chain:8x1x3x1,1x3x1x3@4"),
    "transposed": (SeKronConvTranspose, nn.ConvTranspose2d(3, 8, 3), "chain:3x1x3x1,1x8x1x3@4"),
    "linear": (SeKronLinear, nn.Linear(7, 5), "sekron:5x1,1x7@4"),
}
WORK = {
    "apply": lambda dense, small, _: Plan(structures_of(small)).apply(dense),
    "rebuild": lambda dense, small, _: rebuild(dense, structures_of(small)),
    "plain": lambda _, small, __: sekron.to_plain(small),
    "recalibrate": lambda _, small, batches: sekron.recalibrate(small, batches),
    "repair": lambda dense, small, batches: sekron.repair(small, dense, batches, **QUIET),
    "refit": lambda dense, small, batches: sekron.refit(small, dense, batches, steps=2, **QUIET),
    "tune": lambda dense, small, batches: sekron.tune(small, dense, batches, steps=2, **QUIET),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_made_from_another_without_a_draw(name):
    kind, dense, text = LAYERS[name]
    is_linear = kind is SeKronLinear
    before = random_state()
    layer = (kind.from_linear if is_linear else kind.from_conv)(dense, Structure.parse(text))
    assert equal(random_state(), before)
    again = layer.to_linear() if is_linear else layer.to_conv()
    assert equal(random_state(), before)
    assert torch.equal(again.weight, layer.dense_weight())
    assert torch.equal(again.bias, dense.bias)


@pytest.mark.parametrize("work", WORK)
def test_a_network_is_made_and_repaired_without_a_draw(work):
    dense, small = networks()
    batches = list(images_and_labels()[0].split(8))
    before = random_state()
    WORK[work](dense, small, batches)
    assert equal(random_state(), before)


def test_a_network_is_loaded_without_a_draw(tmp_path):
    dense, small = networks()
    before = random_state()
    sekron.save(small, tmp_path / "small")
    sekron.load(dense, tmp_path / "small")
    assert equal(random_state(), before)
