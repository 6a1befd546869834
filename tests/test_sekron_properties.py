"""Any layer, any structure, any order: what torch computes with the rebuilt weight, and gradients.

The examples are drawn, the same ones every time; `--hypothesis-seed` on a copy of `SETTINGS`
without `derandomize` draws others.
"""

from math import prod

import pytest
import torch
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st
from torch import nn

from sekron import SeKronLinear, Structure
from sekron.layers.conv import SeKronConv
from sekron.layers.operations import Form
from sekron.network.eligibility import reason_to_skip
from sekron.network.surgery import blank_layer
from sekron.profiling.count import count_flops
from sekron.profiling.profile import profile
from sekron.structures.families import FAMILIES, clipped_ranks, n_ranks
from tests.oracles import check_gradients

SETTINGS = {
    "derandomize": True,
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much],
}

CLASSES = {
    False: SeKronConv.dense,
    True: {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d},
}
PADDING_MODES = ("zeros", "zeros", "reflect", "replicate", "circular")


@st.composite
def structures(draw, n_modes, groups=1):
    """A family, one to four factors of sizes that multiply to little, ranks and an order."""
    length = draw(st.integers(1, 4))
    families = list(FAMILIES) if length > 1 else ["chain", "sekron"]
    family = draw(st.sampled_from(families))
    channels, kernel = st.sampled_from((1, 1, 2, 3)), st.sampled_from((1, 1, 1, 2, 3))
    modes = [channels] * 2 + [kernel] * (n_modes - 2)
    shapes = tuple(tuple(draw(size) for size in modes) for _ in range(length))
    wanted = [draw(st.integers(1, 3)) for _ in range(n_ranks(family, length))]
    ranks = clipped_ranks(family, shapes, wanted)
    form = Form(tuple(draw(st.permutations(range(length)))), draw(st.booleans()))
    return Structure(family, shapes, ranks, groups), form


@st.composite
def convolutions(draw):
    """A dense convolution, a structure of its weight with a form, and an input that it takes."""
    n_axes, transposed = draw(st.integers(1, 3)), draw(st.booleans())
    structure, form = draw(structures(2 + n_axes, draw(st.sampled_from((1, 1, 2, 3)))))
    groups, kernel = structure.groups, structure.weight_shape[2:]
    channels = structure.weight_shape[0], groups * structure.weight_shape[1]
    per_axis = st.tuples(*[st.integers(1, 3)] * n_axes)
    stride, dilation = draw(per_axis), draw(per_axis)
    options = {"groups": groups, "dilation": dilation, "bias": draw(st.booleans())}
    if transposed:
        options["padding"] = tuple(draw(st.integers(0, 2)) for _ in kernel)
        most = [max(s, d) - 1 for s, d in zip(stride, dilation, strict=True)]
        options["output_padding"] = tuple(draw(st.integers(0, n)) for n in most)
    else:
        options["padding_mode"] = draw(st.sampled_from(PADDING_MODES))
        words = ["valid", *(["same"] if set(stride) == {1} else [])]
        numbers = st.tuples(*[st.integers(0, 2)] * n_axes)
        options["padding"] = draw(st.one_of(numbers, st.sampled_from(words)))
    n_in, n_out = channels if transposed else channels[::-1]
    conv = CLASSES[transposed][n_axes](n_in, n_out, kernel, stride, **options).double()
    # Large enough for every padding mode, and for the output to have a place.
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    sizes = [extent + 2 + draw(st.integers(0, 3)) for extent in extents]
    seed = draw(st.integers(0, 2**16))
    x = torch.randn(draw(st.integers(1, 2)), n_in, *sizes, generator=torch.manual_seed(seed))
    x = x.double()
    try:
        conv(x)
    except RuntimeError:  # a transposed convolution that crops all of its output
        reject()
    return conv, structure, form, x


# torch itself warns that it will copy its input
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=450, **SETTINGS)
@given(convolutions())
def test_any_convolution_is_that_of_its_rebuilt_kernel(case):
    conv, structure, form, x = case
    layer = blank_layer(conv, structure, form).double()
    if layer.bias is None:  # the oracle adds one
        conv.bias = None
    else:
        layer.bias.data.copy_(conv.bias)
    dense = layer.to_conv()
    assert (type(dense), dense.groups) == (type(conv), conv.groups)
    torch.testing.assert_close(layer(x), dense(x))
    assert layer(x).shape == conv(x).shape
    if layer.bias is not None:
        check_gradients(layer, x)


@settings(max_examples=100, **SETTINGS)
@given(structures(2), st.booleans(), st.integers(0, 2**16))
def test_any_linear_layer_is_that_of_its_rebuilt_weight(case, bias, seed):
    structure, form = case
    torch.manual_seed(seed)
    layer = SeKronLinear(structure, bias=bias, form=form, dtype=torch.float64)
    x = torch.randn(2, 3, structure.weight_shape[1], dtype=torch.float64, requires_grad=True)
    expected = nn.functional.linear(x, layer.dense_weight(), layer.bias)
    torch.testing.assert_close(layer(x), expected)
    direction = torch.randn_like(expected)
    own = torch.autograd.grad((layer(x) * direction).sum(), [x, *layer.parameters()])
    rebuilt = torch.autograd.grad((expected * direction).sum(), [x, *layer.parameters()])
    torch.testing.assert_close(own, rebuilt)


# torch itself warns that it will copy its input
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=30, **SETTINGS)
@given(convolutions())
def test_any_convolution_costs_what_fvcore_counts(case):
    conv, structure, form, x = case
    assume(not reason_to_skip(conv))
    x = x[:1]
    (dense,) = profile(conv, x, include=["*"]).layers
    assert dense.flops == count_flops(conv, (x,))[0]
    layer = blank_layer(conv, structure, form)
    assert dense.flops_of(structure, form.order) == count_flops(layer.double(), (x,))[0]
    assert structure.n_params == sum(prod(w.shape) for w in layer.weights)
