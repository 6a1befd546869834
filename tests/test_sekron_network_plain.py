"""A plain network against the compressed one, and the tools that it is made for, run for real."""

import copy
import io

import pytest
import torch
import torch_pruning
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval
from torch.nn.utils.fusion import fuse_conv_bn_weights

import sekron
from sekron import Plan, Structure, to_plain
from sekron.layers.factorized import Factorized
from sekron.network.surgery import structures_of
from sekron.structures.families import whole_channels
from tests.conftest import decayed

PLAIN = {
    "stem.conv": "chain:12x1x3x1,1x3x1x3@6",
    "body.0.conv": "chain:12x1x1x1,1x1x3x3,1x12x1x1@8,7",
    "body.1.conv": "sekron:12x1x1x1,1x12x3x3@9",
    "up": "chain:12x1x4x1,1x8x1x4@16",
    "head.2": "chain:40x1,1x8@6",
    "head.4": "sekron:32x1,1x40@20",
}
SPLIT = PLAIN | {"body.1.conv": "sekron:4x3x3x1,3x4x1x3@5", "head.4": "sekron:8x5,4x8@6"}
RESHAPED = "channels are reshaped between the steps"
# Of torch's and of torchao's own age.
pytestmark = [
    # torch retires what is tried here: users have it still.
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Please use quant_min and quant_max:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
]


class Block(nn.Module):
    """Convolution, batch norm, activation, by the names that detectors give them."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(n_out)
        self.act = nn.SiLU()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))

    def fused(self, x):
        return self.act(self.conv(x))


class Network(nn.Module):
    """Runs one of its blocks twice, and adds what goes around them."""

    def __init__(self):
        super().__init__()
        self.stem = Block(3, 12)
        self.body = nn.ModuleList([Block(12, 12), Block(12, 12)])
        self.up = nn.ConvTranspose2d(12, 8, 4, stride=2, padding=1)
        pool = nn.AdaptiveAvgPool2d(1)
        linear = nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 32), nn.Linear(32, 5)
        self.head = nn.Sequential(pool, nn.Flatten(), *linear)

    def forward(self, x):
        x = self.stem(x)
        for block in self.body:
            x = x + block(x)
        return self.head(self.up(self.body[0](x)))


class Decoder(nn.Module):
    """Reads of its layers what torch's have besides their weight."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, stride=(2, 1), padding=(1, 0), dilation=(1, 2))
        self.up = nn.ConvTranspose2d(8, 6, 4, stride=2, output_padding=(1, 0))

    def forward(self, x):
        y, down, up = self.up(self.down(x)), self.down, self.up
        (high, wide), (before, after) = down.stride, down.padding
        y = y * high + wide * before + after + down.dilation[1] + up.output_padding[0]
        return y.repeat(1, up.stride[0], 1, 1) if down.padding_mode == "zeros" else y


@pytest.mark.parametrize(
    "text", ["chain:8x1x3x1,1x3x1x3@6", "chain:8x3x3x3", "sekron:2x3x3x1,4x1x1x3@3"]
)
def test_a_network_reads_of_a_plain_layer_what_it_reads_of_a_factorized_one(text):
    torch.manual_seed(0)
    small = plan_of({"down": text, "up": "chain:8x1x4x1,1x6x1x4@9"}).apply(Decoder())
    network, _ = to_plain(small)
    x = torch.randn(2, 3, 9, 8)
    for reader in (network, torch.fx.symbolic_trace(network)):
        torch.testing.assert_close(reader(x), small(x))


def plan_of(texts):
    return Plan({name: Structure.parse(text) for name, text in texts.items()})


@pytest.fixture(scope="module")
def dense():
    torch.manual_seed(0)
    return decayed(Network()).eval()


@pytest.fixture(params=["plain", "split"])
def small(request, dense):
    return plan_of({"plain": PLAIN, "split": SPLIT}[request.param]).apply(dense)


@pytest.fixture
def whole(dense):
    """A compressed network whose channels nothing divides."""
    return plan_of(PLAIN).apply(dense)


@pytest.fixture(scope="module")
def x():
    torch.manual_seed(1)
    return torch.randn(3, 3, 10, 9)


def output(network, *arguments):
    with torch.no_grad():
        return network(*arguments)


def close(network, x, expected):
    torch.testing.assert_close(output(network, x), expected, rtol=1e-4, atol=1e-5)


def distance(found, expected):
    return float((found - expected).norm() / expected.norm())


def test_the_network_computes_the_same_and_the_callers_stays(small, x):
    state, expected = copy.deepcopy(small.state_dict()), output(small, x)
    plain, kept = to_plain(small)
    close(plain, x, expected)
    assert not any(isinstance(module, Factorized) for module in plain.modules())
    n_params = [sum(p.numel() for p in net.parameters()) for net in (small, plain)]
    assert n_params[0] == n_params[1]
    split = {name for name, s in structures_of(small).items() if not all(whole_channels(s.shapes))}
    assert set(kept) == split
    assert all(RESHAPED in reason for reason in kept.values())
    # Nothing is shared, nothing changed.
    for parameter in plain.parameters():
        parameter.data.zero_()
    assert all(torch.equal(value, state[name]) for name, value in small.state_dict().items())
    assert torch.equal(output(small, x), expected)
    assert plain.training is small.training is False


def test_a_layer_is_one_in_all_places_and_ties_remain(x):
    conv = nn.Conv2d(3, 3, 3, padding=1)
    network = nn.ModuleDict({"a": nn.Sequential(conv, conv), "b": conv})
    network = plan_of({"b": "chain:3x1x3x1,1x3x1x3@5"}).apply(network)
    twin = copy.deepcopy(network["b"])
    twin.weights, twin.bias = network["b"].weights, network["b"].bias
    network["twin"] = twin
    plain, kept = to_plain(network)
    assert not kept
    assert plain["a"][0] is plain["a"][1] is plain["b"]
    assert plain["twin"] is not plain["b"]
    assert plain["twin"].weight is plain["b"].weight
    close(plain["a"], x, output(network["a"], x))


def test_a_layer_alone_is_a_network(x):
    layer = sekron.SeKronConv2d(Structure.parse(PLAIN["stem.conv"]), padding=1)
    plain, kept = to_plain(layer)
    assert isinstance(plain, nn.Sequential)
    assert not kept
    close(plain, x, output(layer, x))


def test_a_network_that_is_not_compressed_is_copied(dense, x):
    plain, kept = to_plain(dense)
    assert not kept
    assert plain is not dense
    assert torch.equal(output(plain, x), output(dense, x))


def test_what_may_compute_something_else_stays_with_its_reason(whole, x):
    expected = output(whole, x)
    whole.up.forward = type(whole.up).forward.__get__(whole.up)
    plain, kept = to_plain(whole)
    assert kept == {"up": "stays SeKronConvTranspose: its forward was replaced by another function"}
    assert set(structures_of(plain)) == {"up"}
    close(plain, x, expected)


def test_a_plain_network_is_saved_without_a_plan(whole, dense, x, tmp_path):
    plain, _ = to_plain(whole)
    sekron.save(plain, tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match=r"must fit the network, "):
        sekron.load(dense, tmp_path / "plain.safetensors")
    assert torch.equal(
        output(sekron.load(plain, tmp_path / "plain.safetensors"), x), output(plain, x)
    )


def test_it_trains_as_the_compressed_network_does(small, x):
    plain, _ = to_plain(small)
    for network in (small, plain):
        network.train()
        network(x).square().sum().backward()
    found = sorted(float(p.grad.norm()) for p in plain.parameters())
    expected = sorted(float(p.grad.norm()) for p in small.parameters())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_tracing_scripting_and_exporting_give_equal_outputs(small, x):
    plain, _ = to_plain(small)
    expected = output(small, x)
    close(torch.fx.symbolic_trace(plain), x, expected)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(plain), file)
    file.seek(0)
    close(torch.jit.load(file), x, expected)
    other = torch.randn(5, 3, 13, 8)  # no size was burnt in
    close(torch.jit.trace(plain, x), other, output(small, other))
    close(torch.export.export(plain, (x,)).module(), x, expected)


def test_batch_norm_is_fused_by_torch_into_the_last_step(small, x):
    plain, kept = to_plain(small)
    for name, block in plain.named_modules():
        if isinstance(block, Block) and f"{name}.conv" not in kept:
            block.conv, block.bn = fuse_conv_bn_eval(block.conv, block.bn), nn.Identity()
    n_norms = sum(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    assert n_norms == sum("conv" in name for name in kept)
    close(plain, x, output(small, x))


def test_batch_norm_is_fused_in_a_traced_network(whole, x):
    from torch.fx.experimental.optimization import fuse  # noqa: PLC0415  slow

    # Of the whole network torch fuses the block that runs twice two times, of the dense one too.
    blocks = nn.Sequential(whole.stem, *whole.body)
    fused = fuse(to_plain(blocks)[0])
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    close(fused, x, output(blocks, x))


def in_the_attributes(conv, bn):
    """Fuse as ultralytics does now."""
    arguments = bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
    conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *arguments)
    return conv.requires_grad_(False)


def in_the_data(conv, bn):
    """Fuse as ultralytics did before."""
    gain = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    conv.weight.data = (gain.diag() @ conv.weight.view(conv.out_channels, -1)).view(
        conv.weight.shape
    )
    bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
    fused = gain * (bias - bn.running_mean) + bn.bias
    if conv.bias is None:
        conv.register_parameter("bias", nn.Parameter(fused))
    else:
        conv.bias.data = fused
    return conv.requires_grad_(False)


@pytest.mark.parametrize("fuse", [in_the_attributes, in_the_data])
@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
def test_batch_norm_is_fused_in_the_blocks_of_a_detector(dense, x, fuse, bias):
    network = copy.deepcopy(dense)
    if bias:
        network.body[1].conv.bias = nn.Parameter(torch.randn(12))
    small = plan_of(PLAIN).apply(network)
    plain, _ = to_plain(small)
    for module in plain.modules():
        if hasattr(module, "conv") and hasattr(module, "bn"):
            module.conv = fuse(module.conv, module.bn)
            del module.bn
            module.forward = module.fused
    close(plain, x, output(small, x))


def test_a_fusion_that_makes_a_new_convolution_is_no_silent_fault(whole):
    plain, _ = to_plain(whole)
    with pytest.raises(AttributeError, match="in_channels"):
        nn.Conv2d(plain.stem.conv.in_channels, plain.stem.conv.out_channels, 3)


def test_torch_pruning_prunes_a_plain_network(whole, x):
    plain, _ = to_plain(whole)
    pruner = torch_pruning.pruner.MagnitudePruner(
        plain,
        x,
        torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[plain.head[-1]],
    )
    pruner.step()
    assert plain.stem.conv[0].out_channels == 3  # of the rank 6
    assert plain.stem.conv[-1].out_channels == plain.body[0].bn.num_features == 6
    assert plain.head[2][0].out_features == 3
    assert output(plain, x).shape == (3, 5)


@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected:UserWarning")  # our bias
def test_torch_pruning_leaves_reshaped_layers_alone(dense, x):
    plain, kept = to_plain(plan_of(SPLIT).apply(dense))
    reshaped = [plain.get_submodule(name) for name in kept]
    before = [plain.stem.conv[-1], plain.body[0].conv[-1], plain.head[2][-1]]
    pruner = torch_pruning.pruner.MagnitudePruner(
        plain,
        x,
        torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[plain.head[-1], *reshaped, *before],
    )
    pruner.step()
    assert plain.stem.conv[0].out_channels == 3  # of the rank 6
    assert plain.head[2][0].out_features == 3
    assert output(plain, x).shape == (3, 5)


def test_dynamic_quantization_replaces_the_linear_layers(small, x):
    plain, _ = to_plain(small)
    quantized = torch.ao.quantization.quantize_dynamic(plain, {nn.Linear}, dtype=torch.qint8)
    kinds = [type(module) for module in quantized.modules()]
    assert nn.Linear not in kinds
    assert kinds.count(torch.ao.nn.quantized.dynamic.Linear) == 5
    assert distance(output(quantized, x), output(small, x)) < 0.05


def test_static_quantization_of_a_traced_network(small, x):
    from torch.ao.quantization import get_default_qconfig_mapping  # noqa: PLC0415  slow
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx  # noqa: PLC0415  slow

    plain, _ = to_plain(small)
    prepared = prepare_fx(plain, get_default_qconfig_mapping("x86"), (x,))
    prepared(x)
    quantized = convert_fx(prepared)
    kinds = {type(module).__name__ for module in quantized.modules()}
    assert "Conv2d" in kinds
    assert not any(type(m) in (nn.Conv2d, nn.Linear) for m in quantized.modules())
    assert distance(output(quantized, x), output(small, x)) < 0.2


def test_torchao_quantizes_the_linear_layers(small, x):
    from torchao import quantization  # noqa: PLC0415  slow

    plain, _ = to_plain(small)
    quantization.quantize_(plain, quantization.Int8WeightOnlyConfig())
    linear = [module for module in plain.modules() if type(module) is nn.Linear]
    assert len(linear) == 5
    assert all(type(module.weight) is not nn.Parameter for module in linear)
    assert distance(output(plain, x), output(small, x)) < 0.02
