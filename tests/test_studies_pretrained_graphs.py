"""Networks of the literature with a package's weights compute what the package's graph says."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from studies.pretrained.ncnn import read_ncnn
from studies.pretrained.packages import file_of
from studies.pretrained.photographs import TEST, crops
from studies.pretrained.rrdbnet import N_BLOCKS, RRDBNet, realesrgan
from studies.pretrained.srvggnet import realesr_animevideov3, realesrgan_files


def run_graph(name, image):
    """Run the layers of a `.param` file one by one: the oracle, which knows no network."""
    param, binary = realesrgan_files(name)
    weights = read_ncnn(param, binary)
    values, found = {}, None
    for line in param.read_text().splitlines()[2:]:
        kind, layer, n_inputs, n_outputs, *words = line.split()
        n_inputs, n_outputs = int(n_inputs), int(n_outputs)
        inputs = [values[word] for word in words[:n_inputs]]
        options = dict(word.split("=") for word in words[n_inputs + n_outputs :])
        found = image if kind == "Input" else OPERATIONS[kind](inputs, options, weights.get(layer))
        values |= dict.fromkeys(words[n_inputs : n_inputs + n_outputs], found)
    return found


def listed(options, key):
    """Return an array of numbers, which begins with its length."""
    return [float(word) for word in options[key].split(",")[1:]]


def convolve(inputs, options, tensors):
    assert {options["1"], options["4"]} == {"3", "1"}  # 3x3, padded by 1, of stride 1
    x = F.conv2d(inputs[0], tensors["weight"], tensors["bias"], padding=1)
    if "9" not in options:
        return x
    assert options["9"] == "2"
    return F.leaky_relu(x, *listed(options, "-23310"))


def weighted_sum(inputs, options, _):
    assert options["0"] == "1"
    return sum(c * x for c, x in zip(listed(options, "-23301"), inputs, strict=True))


def add(inputs, options, _):
    assert options.get("0", "0") == "0"
    return inputs[0] + inputs[1]


def magnify(inputs, options, _):
    assert options["0"] == "1"  # nearest
    scale = int(float(options["1"]))
    return inputs[0].repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)


OPERATIONS = {
    "BinaryOp": add,
    "Concat": lambda inputs, *_: torch.cat(inputs, dim=1),
    "Convolution": convolve,
    "Eltwise": weighted_sum,
    "Interp": magnify,
    "PReLU": lambda inputs, _, tensors: F.prelu(inputs[0], tensors["weight"]),
    "PixelShuffle": lambda inputs, options, _: F.pixel_shuffle(inputs[0], int(options["0"])),
    "Split": lambda inputs, *_: inputs[0],
}


@pytest.mark.parametrize("name", ["realesr-animevideov3-x4", *N_BLOCKS])
def test_a_network_puts_out_what_the_graph_of_its_file_does(name):
    model = realesrgan(name) if name in N_BLOCKS else realesr_animevideov3()
    assert not model.training
    image = torch.rand(1, 3, 7, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(image), run_graph(name, image), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("n_blocks", "n_params", "n_convolutions"), [(6, 4_467_779, 96), (23, 16_697_987, 351)]
)
def test_an_rrdbnet_has_the_published_parameters(n_blocks, n_params, n_convolutions):
    with torch.device("meta"):
        model = RRDBNet(n_blocks)
    assert sum(p.numel() for p in model.parameters()) == n_params
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) == n_convolutions


def test_a_magnified_photograph_looks_like_it():
    """What was made smaller comes back sharper than the bicubic magnification, in its place."""
    image = crops(TEST, 3, 128)
    small = F.interpolate(image, scale_factor=0.25, mode="bicubic", antialias=True).clamp(0, 1)
    smooth = F.interpolate(small, scale_factor=4.0, mode="bicubic")
    with torch.no_grad():
        output = realesrgan("realesrgan-x4plus")(small)
    off, rough, none = ((t - image).square().mean() for t in (output, output.roll(4, -1), smooth))
    assert off < rough
    assert -10 * off.log10() > -10 * none.log10() - 4  # a network trained by an adversary
    steepness = [(t[..., 1:] - t[..., :-1]).square().mean() for t in (output, smooth)]
    assert steepness[0] > steepness[1]


def test_a_package_that_is_not_there_is_named():
    with pytest.raises(ModuleNotFoundError, match="in the package no-such; pip install it"):
        file_of("no-such", "a.bin", "pip install it")
    with pytest.raises(ModuleNotFoundError, match=r"torch must carry torch/no\.bin, but does not"):
        file_of("torch", "torch/no.bin", "")
