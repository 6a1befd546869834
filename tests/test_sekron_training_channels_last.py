"""Images come with their channels last where a network puts out the same for them."""

import pytest
import torch
from torch import nn

from sekron.forward.inputs import Arguments
from sekron.training.channels_last import channels_last


class Told(nn.Module):
    """Tells in which order its images came."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.orders = []

    def forward(self, images, scale=None):
        self.orders.append(images.is_contiguous(memory_format=torch.channels_last))
        images = self.conv(images)
        return images if scale is None else scale * images


class Viewing(Told):
    def forward(self, images, scale=None):
        return super().forward(images, scale).view(len(images), -1)


class Strided(Told):
    def forward(self, images, scale=None):
        return super().forward(images, scale) * images.stride(1)


IMAGES = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))


def orders(networks, example):
    before = [network(IMAGES) for network in networks]
    with channels_last(networks, example):
        for network in networks:
            network.orders.clear()
        within = [example.run(network) for network in networks]
        found = [network.orders[-1] for network in networks]
    for network, output in zip(networks, before, strict=True):
        assert torch.equal(network(IMAGES), output)
        assert network.orders[-1] is False
    return found, within


@pytest.mark.parametrize("named", [False, True])
def test_a_network_of_convolutions_gets_them_last(named):
    networks = [Told(), Told()]
    example = Arguments((), {"images": IMAGES}) if named else Arguments((IMAGES,))
    found, outputs = orders(networks, example)
    assert found == [True, True]
    for network, output in zip(networks, outputs, strict=True):
        torch.testing.assert_close(output, network(IMAGES))


@pytest.mark.parametrize("kind", [Viewing, Strided])
def test_where_one_depends_on_the_order_all_get_them_as_they_are(kind):
    found, _ = orders([Told(), kind()], Arguments((IMAGES,)))
    assert found == [False, False]


def test_an_error_within_takes_the_order_back():
    network = Told()
    with pytest.raises(KeyError), channels_last([network], Arguments((IMAGES,))):
        raise KeyError
    network(IMAGES)
    assert network.orders[-1] is False
