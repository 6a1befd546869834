"""Attention that calls its projections computes what `nn.MultiheadAttention` does."""

import copy
import re

import pytest
import torch
from torch import nn

from sekron.layers.attention import Attention
from sekron.network.opening import opened
from sekron.profiling.count import count_flops

LENGTH, SOURCE, BATCH, HEADS, WIDTH = 5, 7, 3, 2, 26  # of no two axes alike

MADE = {
    "plain": {},
    "batch first": {"batch_first": True},
    "no bias": {"bias": False},
    "other features": {"kdim": 11, "vdim": 13},
    "other keys, no bias": {"kdim": 11, "bias": False, "batch_first": True},
    "one more key": {"add_bias_kv": True},
    "zero attention": {"add_zero_attn": True},
    "all": {"add_bias_kv": True, "add_zero_attn": True, "kdim": 11, "batch_first": True},
}


def pair(**options):
    """Return torch's attention with random numbers everywhere, and ours in its place."""
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(WIDTH, HEADS, **options)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours = opened(theirs)
    assert type(ours) is Attention
    assert ours is not theirs
    return theirs, ours


def inputs(theirs, is_batched=True):
    sizes = ((LENGTH, WIDTH), (SOURCE, theirs.kdim), (SOURCE, theirs.vdim))
    tensors = [torch.randn(n, BATCH, width) for n, width in sizes]
    if not is_batched:
        tensors = [x[:, 0] for x in tensors]
    elif theirs.batch_first:
        tensors = [x.transpose(0, 1) for x in tensors]
    return [x.contiguous().requires_grad_() for x in tensors]


def outcome(attention, tensors, **asked):
    """Return output, weights, and all gradients: of the input projections one after another."""
    torch.manual_seed(1)
    output, weights = attention(*tensors, **asked)
    scalar = output.square().sum() + (0 if weights is None else weights.square().sum())
    names = [*dict(attention.named_parameters()), *"qkv"]
    parameters = [*attention.parameters(), *tensors]
    gradients = dict(zip(names, torch.autograd.grad(scalar, parameters), strict=True))
    for part in ("weight", "bias"):
        own = [name for name in gradients if re.fullmatch(rf"(in|q|k|v)_proj[_.]{part}", name)]
        if own:
            gradients["in_proj " + part] = torch.cat([gradients.pop(n).flatten() for n in own])
    return output, weights, gradients


def check(theirs, ours, tensors, **asked):
    wanted, found = outcome(theirs, tensors, **asked), outcome(ours, tensors, **asked)
    torch.testing.assert_close(found[:2], wanted[:2], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(found[2], wanted[2], atol=1e-4, rtol=1e-3)


def masks(kind):
    allowed = torch.ones(LENGTH, SOURCE).tril(3).bool()
    of_heads = torch.rand(BATCH * HEADS, LENGTH, SOURCE) < 0.7
    of_heads[..., 0] = True
    padding = torch.arange(SOURCE) >= torch.tensor([[7], [4], [6]])
    return {
        "none": {},
        "two axes": {"attn_mask": ~allowed},
        "of heads": {"attn_mask": ~of_heads},
        "added": {"attn_mask": torch.randn(LENGTH, SOURCE)},
        "padding": {"key_padding_mask": padding},
        "added padding": {"key_padding_mask": torch.randn(BATCH, SOURCE)},
        "both": {"attn_mask": ~of_heads, "key_padding_mask": padding},
        "both added": {
            "attn_mask": torch.randn(BATCH * HEADS, LENGTH, SOURCE),
            "key_padding_mask": torch.randn(BATCH, SOURCE),
        },
    }[kind]


MASKS = ("none", "two axes", "of heads", "added", "padding", "added padding", "both", "both added")


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("kind", MASKS)
def test_outputs_and_gradients_equal_torchs(made, kind):
    theirs, ours = pair(**MADE[made])
    asked = masks(kind)
    for weights in ({}, {"need_weights": False}, {"average_attn_weights": False}):
        check(theirs, ours, inputs(theirs), **asked, **weights)


@pytest.mark.parametrize("made", MADE)
def test_a_single_sequence_needs_no_batch(made):
    theirs, ours = pair(**MADE[made])
    mask = torch.randn(HEADS, LENGTH, SOURCE)
    asked = {"attn_mask": mask, "key_padding_mask": torch.randn(SOURCE)}
    for weights in ({}, {"need_weights": False}, {"average_attn_weights": False}):
        check(theirs, ours, inputs(theirs, is_batched=False), **weights)
        check(theirs, ours, inputs(theirs, is_batched=False), **asked, **weights)


@pytest.mark.parametrize("made", ["plain", "batch first", "zero attention"])
def test_causal_is_what_torch_takes_it_for(made):
    theirs, ours = pair(**MADE[made])
    causal = nn.Transformer.generate_square_subsequent_mask(LENGTH)
    padding = torch.zeros(BATCH, LENGTH)
    x = inputs(theirs)[0]
    for asked in ({}, {"need_weights": False}, {"key_padding_mask": padding}):
        same = [x, x.detach().clone().requires_grad_(), x.detach().clone().requires_grad_()]
        check(theirs, ours, same, attn_mask=causal, is_causal=True, **asked)
    with pytest.raises(ValueError, match="`is_causal` says that `attn_mask` is causal"):
        ours(x, x, x, is_causal=True)


@pytest.mark.parametrize("need_weights", [True, False])
def test_the_same_weights_are_dropped(need_weights):
    theirs, ours = pair(dropout=0.4)
    check(theirs, ours, inputs(theirs), need_weights=need_weights)
    check(theirs.eval(), ours.eval(), inputs(theirs), need_weights=need_weights)


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("need_weights", [True, False])
def test_multiply_adds_are_the_same(made, need_weights):
    class Asked(nn.Module):
        def __init__(self, attention):
            super().__init__()
            self.attention = attention

        def forward(self, *tensors):
            return self.attention(*tensors, need_weights=need_weights)[0]

    theirs, ours = pair(**MADE[made])
    tensors = tuple(x.detach() for x in inputs(theirs))
    assert count_flops(Asked(ours), tensors)[0] == count_flops(Asked(theirs), tensors)[0] > 0


def test_all_that_is_not_a_projection_passes_on():
    theirs, _ = pair(dropout=0.1, batch_first=True)
    theirs.eval()
    theirs.in_proj_weight.requires_grad_(False)
    seen = []
    theirs.register_forward_hook(lambda *_: seen.append("attention"))
    theirs.out_proj.register_forward_hook(lambda *_: seen.append("never before"))
    theirs.register_buffer("extra", torch.ones(2))
    ours = opened(theirs)
    for name in ("embed_dim", "kdim", "vdim", "num_heads", "head_dim", "dropout", "batch_first"):
        assert getattr(ours, name) == getattr(theirs, name)
    x = torch.randn(2, 3, WIDTH)
    ours(x, x, x)
    assert seen == ["attention"]
    assert not any(module.training for module in ours.modules())
    assert "extra" in dict(ours.named_buffers())
    wants = {name for name, p in ours.named_parameters() if p.requires_grad}
    assert wants == {*(f"{x}_proj.bias" for x in "qkv"), "out_proj.weight", "out_proj.bias"}
    kept = {id(p) for p in theirs.parameters()}
    assert not any(id(p) in kept for p in ours.parameters())
    copy.deepcopy(ours)(x, x, x)
