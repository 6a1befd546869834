"""The reader of ncnn's files, on small files in that format and on the real ones of a package."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from studies.pretrained.ncnn import FLOAT16, FLOAT32, MAGIC, fill, read_ncnn
from studies.pretrained.photographs import CALIBRATION, TEST, crops, photograph
from studies.pretrained.srvggnet import SRVGGNetCompact, realesr_animevideov3

PARAM = """\
7767517
6 7
Input        data  0 1 data
Split        split 1 2 data a b
Convolution  first 1 1 a c 0=5 1=3 11=1 4=1 5=1 6=45
PReLU        slope 1 1 c d 0=5
InnerProduct last  1 1 d e 0=2 1=0 2=14
BinaryOp     Add   2 1 e b output 0=0
"""


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    shapes = {
        ("first", "weight"): (5, 3, 1, 3),  # 45 halves: padded by two bytes
        ("first", "bias"): (5,),
        ("slope", "weight"): (5,),
        ("last", "weight"): (2, 7),
    }
    halves = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    return {key: tensor.half().float() for key, tensor in halves.items()}


def flagged(tensor, flag):
    numbers = tensor.numpy().astype("<f2" if flag == FLOAT16 else "<f4").tobytes()
    return np.uint32(flag).tobytes() + numbers + bytes(-len(numbers) % 4)


def write_ncnn(folder, tensors, flag=FLOAT16, param=PARAM):
    """Write the two files as ncnn does: a flag before the weights of a product alone."""
    parts = [
        flagged(tensors["first", "weight"], flag),
        tensors["first", "bias"].numpy().tobytes(),
        tensors["slope", "weight"].numpy().tobytes(),
        flagged(tensors["last", "weight"], FLOAT32),
    ]
    paths = folder / "net.param", folder / "net.bin"
    paths[0].write_text(param)
    paths[1].write_bytes(b"".join(parts))
    return paths


@pytest.mark.parametrize("flag", [FLOAT16, FLOAT32])
def test_what_was_written_is_read(tmp_path, tensors, flag):
    layers = read_ncnn(*write_ncnn(tmp_path, tensors, flag))
    assert list(layers) == ["first", "slope", "last"]
    found = {(name, key): t for name, own in layers.items() for key, t in own.items()}
    assert found.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert torch.equal(found[key], tensor)


@pytest.mark.parametrize("n_bytes", [0, 3, 60, 95, 96, -1])
def test_a_file_that_is_cut_short_is_refused(tmp_path, tensors, n_bytes):
    param, binary = write_ncnn(tmp_path, tensors)
    binary.write_bytes(binary.read_bytes()[:n_bytes])
    with pytest.raises(ValueError, match=r"^net.bin must hold \d+ bytes .* is cut short at \d+.$"):
        read_ncnn(param, binary)


def test_a_file_with_more_than_its_layers_is_refused(tmp_path, tensors):
    param, binary = write_ncnn(tmp_path, tensors)
    binary.write_bytes(binary.read_bytes() + bytes(4))
    with pytest.raises(ValueError, match=r"must end with its last layer, but has 4 bytes more"):
        read_ncnn(param, binary)


def test_quantized_weights_are_refused(tmp_path, tensors):
    with pytest.raises(ValueError, match=r"fp16 or fp32, got the flag 0x000d4b38 at layer 'first'"):
        read_ncnn(*write_ncnn(tmp_path, tensors, 0x000D4B38))


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (MAGIC, "PK", r"must begin with 7767517, got 'PK'"),
        ("6 7", "7 7", r"must have the 7 layers that it speaks of, but has 6"),
        ("6 7", "", r"must have a layer on each line"),
        ("Split ", "Split\nSplit ", r"must have a layer on each line"),
        ("PReLU ", "GRU ", r"got 'GRU' for layer 'slope'"),
        ("6=45", "6=46", r"46 weights of layer 'first' must be a multiple of its 5 outputs"),
        ("0=5 1=3", "0=0 1=3", r"layer 'first' must|weights of layer 'first' must"),
        ("6=45", "6=4500000000", r"layer 'first' must have a size within reach"),
    ],
)
def test_a_param_file_of_another_layout_is_refused(tmp_path, tensors, old, new, text):
    paths = write_ncnn(tmp_path, tensors, param=PARAM.replace(old, new))
    with pytest.raises(ValueError, match=text) as caught:
        read_ncnn(*paths)
    assert "\n" not in str(caught.value)


def test_a_deconvolution_and_scales_are_read_as_torch_has_them(tmp_path):
    torch.manual_seed(0)
    up, factors = nn.ConvTranspose2d(3, 5, (2, 3)), torch.randn(5)
    param, binary = tmp_path / "up.param", tmp_path / "up.bin"
    param.write_text(
        "7767517\n5 5\nInput data 0 1 data\nCrop crop 1 1 data a\n"
        "Deconvolution up 1 1 a b 0=5 1=3 11=2 5=1 6=90\n"
        "Scale of 2 1 b a c 0=-233\nScale own 1 1 c d 0=5 1=0\n"
    )
    weight = up.weight.detach().transpose(0, 1).contiguous()
    parts = [
        flagged(weight, FLOAT32),
        up.bias.detach().numpy().tobytes(),
        factors.numpy().tobytes(),
    ]
    binary.write_bytes(b"".join(parts))
    layers = read_ncnn(param, binary)
    assert list(layers) == ["up", "own"]
    assert torch.equal(layers["own"]["weight"], factors)
    other = nn.ConvTranspose2d(3, 5, (2, 3))
    fill([other], {"up": layers["up"]})
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(other(x), up(x))


def test_layers_fill_a_row_in_order():
    row = nn.Sequential(nn.Conv2d(3, 5, (1, 3)), nn.PReLU(5))
    layers = {
        "a": {"weight": torch.randn(5, 3, 1, 3), "bias": torch.randn(5)},
        "b": {"weight": torch.randn(5)},
    }
    fill(row, layers)
    assert torch.equal(row[0].weight, layers["a"]["weight"])
    assert torch.equal(row[1].weight, layers["b"]["weight"])
    with pytest.raises(ValueError, match="must have 2 layers, got 1"):
        fill(row, {"a": layers["a"]})
    with pytest.raises(ValueError, match=r"layer 'b' must have the shapes .*\(5,\).*\(7,\)"):
        fill(row, layers | {"b": {"weight": torch.randn(7)}})


def test_a_network_without_weights_repeats_pixels():
    model = SRVGGNetCompact(n_features=5, n_convolutions=2, scale=3)
    nn.init.zeros_(model.body[-1].weight)
    nn.init.zeros_(model.body[-1].bias)
    x = torch.rand(1, 3, 5, 7)
    assert torch.equal(model(x), x.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3))


def test_the_real_network_magnifies_photographs():
    model = realesr_animevideov3()
    assert sum(p.numel() for p in model.parameters()) == 621_424
    images = crops(TEST, 3, 48)
    with torch.no_grad():
        output = model(images)
    smooth = F.interpolate(images, scale_factor=4.0, mode="bicubic")
    lost, rough = ((t - smooth).square().mean() for t in (output, output.roll(4, dims=-1)))
    assert -10 * lost.log10() > 26
    assert lost < rough


def test_photographs_are_rgb_and_test_ones_are_others():
    assert not set(CALIBRATION) & set(TEST)
    for name in (*CALIBRATION, *TEST):
        image = photograph(name)
        assert image.shape[0] == 3
        assert image.min() >= 0.0
        assert 0.5 < image.max() <= 1.0


def test_crops_come_evenly_from_all_photographs_and_from_the_seed():
    first, again, other = (crops(TEST, 6, 17, seed) for seed in (0, 0, 1))
    assert first.shape == (6, 3, 17, 17)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with pytest.raises(ValueError, match="multiple of 3, got 4"):
        crops(TEST, 4, 17)
