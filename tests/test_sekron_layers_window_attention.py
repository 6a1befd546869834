"""Attention within windows that calls its layers computes what torchvision's does."""

import pytest
import torch
from torch import nn

from sekron.layers.window_attention import ShiftedWindowAttention
from sekron.network.opening import opened
from sekron.profiling.count import count_flops

SITUATIONS = {
    "shifted": ((8, 12), [4, 3], [2, 1]),
    "padded": ((7, 9), [4, 4], [2, 2]),
    "a single window high": ((4, 9), [4, 4], [2, 2]),
    "not shifted": ((8, 6), [4, 3], [0, 0]),
    "shifted one way": ((8, 8), [4, 4], [0, 2]),
}
VERSIONS = ("ShiftedWindowAttention", "ShiftedWindowAttentionV2")


def pair(torchvision, version, window, shift, **options):
    torch.manual_seed(0)
    kind = getattr(torchvision.models.swin_transformer, version)
    theirs = kind(15, window, shift, 3, attention_dropout=0.3, dropout=0.2, **options)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    ours = opened(theirs)
    assert type(ours) is ShiftedWindowAttention
    return theirs, ours


def outcome(attention, x):
    torch.manual_seed(1)
    output = attention(x)
    named = dict(attention.named_parameters())
    gradients = torch.autograd.grad(output.square().sum(), [x, *named.values()])
    names = ["x", *(name.replace("qkv.bias", "qkv_bias") for name in named)]
    return output, dict(zip(names, gradients, strict=True))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("situation", SITUATIONS)
def test_outputs_gradients_and_multiply_adds_equal_torchvisions(torchvision, version, situation):
    size, window, shift = SITUATIONS[situation]
    theirs, ours = pair(torchvision, version, window, shift)
    for training in (True, False):
        x = torch.randn(2, *size, 15, requires_grad=True)
        wanted, found = outcome(theirs.train(training), x), outcome(ours.train(training), x)
        torch.testing.assert_close(found[0], wanted[0])
        for name, gradient in wanted[1].items():  # V2 normalizes zeros where it pads
            scale = max(float(gradient.abs().max()), 1e-30)
            torch.testing.assert_close(
                found[1][name.replace("qkv.bias", "qkv_bias")],
                gradient,
                atol=1e-5 * scale,
                rtol=1e-4,
            )
    x = x.detach()[:1]
    assert count_flops(ours, (x,))[0] == count_flops(theirs, (x,))[0]


@pytest.mark.parametrize("version", VERSIONS)
def test_layers_without_biases(torchvision, version):
    theirs, ours = pair(torchvision, version, [4, 4], [2, 2], qkv_bias=False, proj_bias=False)
    x = torch.randn(2, 8, 8, 15)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_a_layer_whose_weight_is_computed_stays(torchvision):
    theirs, _ = pair(torchvision, VERSIONS[0], [4, 4], [2, 2])
    nn.utils.parametrizations.weight_norm(theirs.proj)
    assert type(opened(theirs)) is type(theirs)
