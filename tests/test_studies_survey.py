"""The survey's checks hold on the networks that need nothing installed, and on two large ones."""

import pytest
import torch
from torch import nn

from search import profile
from sekron.network.surgery import structures_of
from studies.survey.__main__ import _difference, _enlivened, full_rank, survey
from studies.survey.made import images, more
from studies.survey.networks import NETWORKS

HERE = ("audio", "unet", "lstm", "transformer", "film", "denoiser, by keyword", "data class out")

COMPUTED = {
    "weight norm, old": "its weight is computed from other parameters 31.2%",
    "weight norm, parametrized": "its weight is computed from other parameters 31.2%",
    "spectral norm, old": "its weight is computed from other parameters 31.1%",
    "pruned by a mask": "its weight is computed from other parameters 31.2%",
}


def made(name):
    torch.manual_seed(0)
    network, example = NETWORKS[name]()
    return _enlivened(network.eval(), example), example


def check(row):
    assert row["equal"]
    assert row["holds"]
    assert row["gradients"]
    assert row["restored"]
    assert row["unexplained_flops"] == 0
    assert row["unlisted"] == 0
    assert 0.58 < row["flops"] <= 0.6


@pytest.mark.parametrize("name", HERE)
def test_a_network_is_replaced_trains_and_comes_back(name):
    network, example = made(name)
    check(survey(network, example))
    assert structures_of(network) == {}


# Old networks have it.
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "name",
    [
        "weight norm, old",
        "pruned by a mask",
        pytest.param("weight norm, parametrized", marks=pytest.mark.slow),
        pytest.param("spectral norm, old", marks=pytest.mark.slow),
    ],
)
def test_computed_weights_stay_dense_after_training_and_the_rest_is_searched(name):
    network, example = made(name)
    row = survey(network, example)
    check(row)
    assert COMPUTED[name] in row["left_dense"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolo", "double_unet"])
def test_detectors_and_u_nets_have_a_plan(name):
    check(survey(*made(name)))


def narrow_convnext():
    """ConvNeXt's blocks, few and narrow."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt  # noqa: PLC0415  heavy

    stages = [CNBlockConfig(32, 64, 1), CNBlockConfig(64, 128, 2), CNBlockConfig(128, None, 1)]
    return ConvNeXt(stages, num_classes=10), images(96)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "convnext, narrow"])
def test_networks_of_pointwise_and_linear_layers_have_a_plan(name, torchvision, monkeypatch):
    monkeypatch.setitem(NETWORKS, "convnext, narrow", narrow_convnext)
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


class Two(nn.Module):
    """One output is a thousand times as large as the other."""

    def __init__(self, small=1.0):
        super().__init__()
        self.small = small

    def forward(self, x):
        return {"large": 1e3 * x, 0: [self.small * x, 2, None]}


def test_a_wrong_output_does_not_hide_behind_a_large_one():
    x = torch.ones(1, 4)
    assert _difference(Two(1.25), Two(), x) == 0.25
    assert _difference(Two(), Two(), {"x": x}) == 0.0


def test_more_images_are_noise_beside_the_same_ids():
    ids = torch.arange(5)[None]
    found = more({"pixels": torch.zeros(1, 3, 4, 4), "ids": ids}, 6)
    assert found.named["pixels"].shape == (6, 3, 4, 4)
    assert found.named["pixels"].std() > 0.5
    assert torch.equal(found.named["ids"], ids.expand(6, 5))
