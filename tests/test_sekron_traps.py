"""What networks hold besides plain layers: replaced rightly, or left dense with the reason."""

import copy
import types

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing._internal.two_tensor import TwoTensor

import sekron
from search import Budget, profile, run
from sekron import Plan, Structure
from sekron.profiling.unsearched import leftovers
from sekron.training.gates import Gated


class StandardizedConv2d(nn.Conv2d):
    """Weight standardisation: its kernels have mean 0 and variance 1 when they are used."""

    def forward(self, x):
        mean, deviation = (
            self.weight.mean((1, 2, 3), True),
            self.weight.std((1, 2, 3), keepdim=True),
        )
        return F.conv2d(x, (self.weight - mean) / deviation, self.bias, padding=self.padding)


class SamePaddedConv2d(nn.Conv2d):
    """Dynamic padding: as much as the input's size asks for."""

    def forward(self, x):
        return super().forward(F.pad(x, (0, -x.shape[3] % 3, 0, -x.shape[2] % 3)))


class NamedConv2d(nn.Conv2d):
    """Does what its base does."""


class Listed(nn.Module):
    """Calls layers from a plain list and from an object, another by a method that it has kept."""

    def __init__(self):
        super().__init__()
        self.stem, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.known, self.listed, self.kept = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.held = nn.Linear(4, 4)
        self.steps, self.holder = [self.listed], types.SimpleNamespace(layer=self.held)
        self.call = self.kept.forward

    def forward(self, x):
        return self.last(self.holder.layer(self.call(self.steps[0](self.known(self.stem(x))))))


def reasons(network, x):
    return {layer.name: layer.reason for layer in profile(network, x).layers}


IMAGE = torch.zeros(1, 3, 9, 9)


def between(layer, n_channels=6):
    """A network in whose middle a layer stands."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, n_channels, 3), layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)
    ).eval()


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (
            StandardizedConv2d(6, 6, 3),
            "StandardizedConv2d may not compute what Conv2d does: see `sekron.register`",
        ),
        (
            SamePaddedConv2d(6, 6, 3),
            "SamePaddedConv2d may not compute what Conv2d does: see `sekron.register`",
        ),
        (nn.LazyConv2d(6, 3), "is lazy: run the network once, so that it knows its shape"),
        (
            nn.utils.parametrizations.spectral_norm(nn.Conv2d(6, 6, 3)),
            "its weight is computed",
        ),
    ],
    ids=["standardized", "dynamic-padding", "lazy", "parametrized"],
)
def test_layers_that_only_look_plain(layer, reason):
    found = reasons(between(layer), IMAGE)
    assert found["1"].startswith(reason)
    assert list(found) == ["0", "1", "4"]


def test_a_lazy_layer_that_has_run_is_a_layer_like_any_other():
    network = between(nn.LazyConv2d(6, 3))
    with pytest.raises(ValueError, match=r"nothing to replace: 0: first .*; 1: is lazy: run the"):
        run(network, IMAGE, budget=Budget(flops=0.9), measure_seconds=0, progress=False)
    network(IMAGE)
    assert reasons(network, IMAGE)["1"] == ""


def test_a_lazy_layer_that_never_runs_is_listed():
    network = between(nn.Conv2d(6, 6, 3))
    network[1].unused = nn.LazyLinear(3)
    (layer,) = [x for x in profile(network, IMAGE).layers if x.kind == "LazyLinear"]
    assert (layer.weight_shape, layer.flops, layer.params) == ((), 0, 0)
    assert layer.reason.startswith("is lazy")


def test_one_line_registers_a_class(monkeypatch):
    monkeypatch.setattr("sekron.network.eligibility._registered", set())
    network = between(NamedConv2d(6, 6, 3))
    assert (
        reasons(network, IMAGE)["1"]
        == "NamedConv2d may not compute what Conv2d does: see `sekron.register`"
    )
    assert sekron.register(NamedConv2d) is NamedConv2d
    assert reasons(network, IMAGE)["1"] == ""
    structure = Structure.parse("chain:6x1x3x1,1x6x1x3@18")
    small = Plan({"1": structure}).apply(network)
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(small(x), network(x), rtol=1e-4, atol=1e-5)
    for other in (nn.ReLU, network):
        with pytest.raises(
            ValueError, match=r"a subclass of a convolution or of nn.Linear is need"
        ):
            sekron.register(other)


def standardize(module, _):
    module.weight.data.sub_(module.weight.data.mean((1, 2, 3), keepdim=True))


def test_a_class_of_the_same_name_is_told_apart():
    kind = type("Conv2d", (nn.Conv2d,), {"__module__": "elsewhere.layers"})
    found = reasons(between(kind(6, 6, 3)), IMAGE)["1"]
    assert (
        found == "elsewhere.layers.Conv2d may not compute what Conv2d does: see `sekron.register`"
    )


def test_a_hook_that_works_on_the_weight_keeps_the_layer():
    network = between(nn.Conv2d(6, 6, 3))
    network[1].register_forward_pre_hook(standardize)
    assert reasons(network, IMAGE)["1"] == "the network reads its 'weight' besides calling it"


def test_a_function_put_in_place_of_the_forward_keeps_the_layer():
    network = between(nn.Conv2d(6, 6, 3))
    network[1].forward = types.MethodType(
        lambda self, x: F.relu(self._conv_forward(x, self.weight, None)), network[1]
    )
    assert reasons(network, IMAGE)["1"] == "its forward was replaced by another function"


def test_layers_that_are_called_past_their_place_in_the_network_stay():
    found = reasons(Listed(), torch.zeros(2, 4))
    assert found["known"] == ""
    assert found["listed"] == ""
    assert found["held"] == "the network calls it by another way than as its submodule"
    assert found["kept"] == "never ran on the example input"


def test_a_weight_of_another_kind_keeps_the_layer():
    network = between(nn.Conv2d(6, 6, 3))
    weight = network[1].weight.detach()
    network[1].weight = nn.Parameter(TwoTensor(weight, weight.clone()))
    assert reasons(network, IMAGE)["1"] == "its weight is a TwoTensor"


class Recurrent(nn.Module):
    """Weights that are no layers of ours: a table, a recurrence, a matrix of its own."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.recurrence = nn.LSTM(6, 5, batch_first=True)
        self.attention = nn.MultiheadAttention(5, 1, batch_first=True)
        self.body, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.mix = nn.Parameter(torch.eye(3))
        self.scale = nn.Parameter(torch.ones(1, 3))

    def forward(self, words):
        y, _ = self.recurrence(self.table(words))
        y, _ = self.attention(y, y, y, need_weights=False)
        return self.scale * (self.head(self.body(y)) @ self.mix)


def test_every_weight_is_listed_with_its_share():
    torch.manual_seed(0)
    network, words = Recurrent().eval(), torch.randint(0, 11, (2, 7))
    measured = profile(network, words)
    layers = {layer.name: layer for layer in measured.layers}
    others = ["", "table", "recurrence"]
    projections = [f"attention.{name}_proj" for name in ("q", "k", "v", "out")]
    assert list(layers) == [*projections, "body", "head", *others]
    for name in others:
        kind = layers[name].kind
        assert layers[name].reason == f"{kind} is neither a convolution nor a linear layer"
    assert layers["recurrence"].params == sum(p.numel() for p in network.recurrence.parameters())
    assert layers["recurrence"].flops == 7 * (4 * 5 * 6 + 4 * 5 * 5)
    assert layers[""].params == 9 + 3
    assert layers[""].flops == 7 * 3 * 3
    products = 7 * 7 * (5 + 5)  # of queries and keys, and with values: no weight takes part
    assert sum(layer.flops for layer in layers.values()) == measured.flops - products


# Its old quantization warns that it will go; until then users meet it.
@pytest.mark.filterwarnings(
    "ignore:torch.ao.quantization is deprecated", "ignore:torch.quantize_per"
)
def test_quantized_layers_are_no_layers_of_ours():
    network = between(nn.Conv2d(6, 6, 3))
    quantized = torch.ao.quantization.quantize_dynamic(network, {nn.Linear})
    assert leftovers(quantized) == {"4": "its weight is quantized"}
    with pytest.raises(ValueError, match=r"must run under torch.jit.trace, with which its FLOPs"):
        profile(quantized, IMAGE)


def test_compiled_networks_are_refused_with_what_to_do():
    network = torch.compile(between(nn.Conv2d(6, 6, 3)), backend="eager")
    with pytest.raises(ValueError, match=r"; compile, script and quantize after the compression"):
        profile(network, IMAGE)
    parallel = nn.DataParallel(between(nn.Conv2d(6, 6, 3)))
    assert reasons(parallel, IMAGE)["module.1"] == ""


def test_a_compressed_network_is_compressed_again():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.Conv2d(12, 16, 3), nn.Conv2d(16, 12, 3), nn.Conv2d(12, 8, 1)
    ).eval()
    x = torch.randn(1, 3, 12, 12)
    settings = {"n_trials": 2, "measure_seconds": 0, "progress": False}
    once = run(network, x, budget=Budget(flops=0.7), include=["1"], **settings).best.apply(network)
    again = run(once, x, budget=Budget(flops=0.8), **settings)
    layers = again.layers().set_index("layer")
    assert layers.loc["1", "reason"] == f"is factorized already: {once[1].structure}"
    assert layers.loc["1", "params"] == sum(p.numel() for p in once[1].parameters())
    assert layers["flops"].sum() == again.profile.flops
    small = again.best.apply(once)
    assert "1" not in again.best
    assert torch.equal(small[1](torch.ones(1, 12, 5, 5)), once[1](torch.ones(1, 12, 5, 5)))
    assert set(sekron.network.surgery.structures_of(small)) == {"1", *again.best}


def test_a_plan_fits_a_fine_tuned_copy(tmp_path):
    network = between(nn.Conv2d(6, 6, 3))
    plan = Plan({"1": Structure.parse("chain:6x1x3x1,1x6x1x3@18")})
    tuned = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(torch.randn_like(parameter))
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(plan.apply(tuned)(x), tuned(x), rtol=1e-4, atol=1e-4)
    sekron.save(plan.apply(tuned), tmp_path / "small.safetensors")
    again = sekron.load(network, tmp_path / "small.safetensors")
    torch.testing.assert_close(again(x), tuned(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", ["apply", "load"])
def test_surgery_leaves_no_trace(way, tmp_path):
    network = between(nn.Conv2d(6, 6, 3))
    seen = []
    layer = network[1]
    layer.register_forward_hook(lambda *_: seen.append("after"))
    layer.register_forward_pre_hook(lambda *_: seen.append("before"), with_kwargs=True)
    layer.register_full_backward_hook(lambda *_: seen.append("back"))
    layer.register_buffer("note", torch.arange(3))
    layer.register_buffer("scratch", torch.ones(2), persistent=False)
    layer.weight.requires_grad_(False)
    network[0].requires_grad_(False)
    layer.train()
    plan = Plan({"1": Structure.parse("chain:6x1x3x1,1x6x1x3@4")})
    small = plan.apply(network)
    if way == "load":
        sekron.save(small, tmp_path / "small.safetensors")
        small = sekron.load(network, tmp_path / "small.safetensors")
    replaced = small[1]
    assert [p.requires_grad for p in replaced.weights] == [False, False]
    assert replaced.bias.requires_grad
    assert replaced.training
    assert not small[0].weight.requires_grad
    assert torch.equal(replaced.note, layer.note)
    assert torch.equal(replaced.scratch, layer.scratch)
    assert "1.note" in small.state_dict()
    assert "1.scratch" not in small.state_dict()
    torch.autograd.backward(small(torch.randn(1, 3, 9, 9, requires_grad=True)).sum())
    assert seen == ["before", "after", "back"]
    assert replaced.bias.grad is not None


def test_containers_keep_working():
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
            self.table = nn.ModuleDict({"a": nn.Linear(6, 6), "b": self.rows[1]})
            self.sequence = nn.Sequential(nn.Linear(6, 6), nn.ReLU())

        def forward(self, x):
            for layer in self.rows:
                x = layer(x)
            for name in self.table:
                x = self.table[name](x)
            return self.sequence[1](self.sequence(x))

    network, x = Net().eval(), torch.randn(3, 6)
    structure = Structure.parse("chain:6x1,1x6@6")
    names = ["rows.1", "table.a", "sequence.0"]
    small = Plan(dict.fromkeys(names, structure)).apply(network)
    torch.testing.assert_close(small(x), network(x), rtol=1e-4, atol=1e-5)
    assert small.table["b"] is small.rows[1]
    assert isinstance(small.sequence[0], sekron.SeKronLinear)
    assert type(network.rows[1]) is nn.Linear


@pytest.mark.parametrize(
    ("layer", "text", "shape"),
    [
        (nn.Conv2d(6, 6, 3), "chain:6x1x3x1,1x6x1x3@18", (1, 6, 5, 5)),
        (nn.ConvTranspose2d(6, 6, 3), "chain:6x1x3x1,1x6x1x3@18", (1, 6, 5, 5)),
        (nn.Linear(6, 4), "chain:4x1,1x6@4", (2, 6)),
    ],
    ids=["conv", "transposed", "linear"],
)
def test_the_input_has_torchs_name(layer, text, shape):
    x = torch.randn(shape)
    small = Plan({"": Structure.parse(text)}).apply(layer)
    torch.testing.assert_close(small(input=x), layer(input=x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(Gated(small)(input=x), small(x), rtol=1e-4, atol=1e-5)
