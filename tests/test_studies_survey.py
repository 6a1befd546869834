"""The survey's checks hold on the networks that need nothing installed, and on two large ones."""

import pytest
import torch
from torch import nn

from search import profile
from sekron.network.surgery import structures_of
from studies.survey.__main__ import full_rank, survey
from studies.survey.networks import NETWORKS

HERE = ("audio", "unet", "lstm", "transformer")


def made(name):
    torch.manual_seed(0)
    network, example = NETWORKS[name]()
    return network.eval(), example


def check(row):
    assert row["equal"]
    assert row["holds"]
    assert row["gradients"]
    assert row["restored"]
    assert row["unexplained_flops"] == 0
    assert row["unlisted"] == 0
    assert 0.59 < row["flops"] <= 0.6


@pytest.mark.parametrize("name", HERE)
def test_a_network_is_replaced_trains_and_comes_back(name):
    network, example = made(name)
    check(survey(network, example))
    assert structures_of(network) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "convnext_tiny"])
def test_networks_of_pointwise_and_linear_layers_have_a_plan(name, torchvision):
    network, example = made(name)
    row = survey(network, example)
    check(row)
    assert "depthwise convolution" in row["left_dense"]


def test_full_rank_is_the_smallest_exact_pair():
    network, example = made("audio")
    for layer in profile(network, example).searched:
        structure = full_rank(layer)
        assert structure.weight_shape == layer.weight_shape
        assert structure.groups == layer.groups
        assert structure.length == 2


def test_what_cannot_be_reached_says_why():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1))
    row = survey(network.eval(), torch.randn(1, 3, 20, 20))
    assert row["equal"]
    assert "holds" not in row
    assert row["refused"].startswith("`flops` must leave at least")
    assert row["left_dense"].startswith("first convolution")
