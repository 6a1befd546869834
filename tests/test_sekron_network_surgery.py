"""Replacing layers in a copy: what is taken, what is refused, what stays untouched."""

import copy
import re
from functools import partial
from itertools import permutations
from types import MethodType
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode

from sekron import Plan, SeKronConv2d, SeKronLinear, Structure, to_plain
from sekron.layers.operations import DEFAULT_FORM, Form
from sekron.network.eligibility import reason_to_skip, replaceable_modules, shared_parameters
from sekron.network.surgery import check_finite, compressed, forms_of, rebuild, structures_of
from sekron.profiling.count import count_flops
from sekron.profiling.profile import profile

CONV = Structure.parse("chain:7x1x3x1,1x3x1x3@6")
LINEAR = Structure.parse("sekron:5x1,1x7@4")
BOTTLENECK = Structure.parse("chain:7x1x1x1,1x1x3x3,1x3x1x1@5,2")  # two of three are pointwise


class Net(nn.Module):
    """A convolution, batch norm, a linear layer, and one linear layer that stands in two places."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 7, 3, padding=1)
        self.norm = nn.BatchNorm2d(7)
        self.inner = nn.ModuleDict({"twice": nn.Linear(7, 7)})
        self.again = self.inner["twice"]
        self.head = nn.Linear(7, 5)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu().mean(dim=(2, 3))
        return self.head(self.again(self.inner["twice"](x)))


class Subclass(nn.Conv2d):
    """Computes something else with its weight, for all we know."""


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def storages(model):
    return {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("make", [compressed, rebuild], ids=["compressed", "rebuild"])
def test_the_callers_model_is_unchanged_and_shares_nothing(make, training):
    model = Net().train(training)
    model.norm.eval()
    handle = model.head.register_forward_hook(lambda *_: None)
    before, flags = snapshot(model), [m.training for m in model.modules()]
    names, hooks = [n for n, _ in model.named_modules()], dict(model.head._forward_hooks)
    small = make(model, {"conv": CONV, "head": LINEAR})
    assert isinstance(small.conv, SeKronConv2d)
    assert isinstance(small.head, SeKronLinear)
    assert small.conv.training is training
    assert not small.norm.training
    assert small.inner["twice"] is small.again
    assert not storages(small) & storages(model)
    with torch.no_grad():
        for tensor in small.state_dict().values():
            tensor.zero_()
    assert [n for n, _ in model.named_modules()] == names
    assert [m.training for m in model.modules()] == flags
    assert dict(model.head._forward_hooks) == hooks
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    handle.remove()


class Pair(NamedTuple):
    number: int
    layer: nn.Module


def activated(self, x):
    """A function that is bound to a layer, or gets one."""
    return self(x).relu()


def closed_over(layer):
    return lambda x: 2 * layer(x)


def by_default(layer):
    def call(x, inner=layer, *, other=layer):
        return inner(x) + other(x)

    return call


HOLDERS = {
    "attribute": (lambda layer: layer, lambda kept, x: kept(x)),
    "list": (lambda layer: [[layer]], lambda kept, x: kept[0][0](x)),
    "dict": (lambda layer: {"a": [layer]}, lambda kept, x: kept["a"][0](x)),
    "tuple": (lambda layer: (1, (layer,)), lambda kept, x: kept[1][0](x)),
    "named tuple": (lambda layer: Pair(1, layer), lambda kept, x: kept.layer(x)),
    "method": (lambda layer: layer.forward, lambda kept, x: kept(x)),
    "call": (lambda layer: layer.__call__, lambda kept, x: kept(x)),
    "bound": (lambda layer: MethodType(activated, layer), lambda kept, x: kept(x)),
    "partial": (lambda layer: partial(layer.forward), lambda kept, x: kept(x)),
    "argument": (lambda layer: partial(activated, layer), lambda kept, x: kept(x)),
    "named argument": (lambda layer: partial(activated, self=layer), lambda kept, x: kept(x=x)),
    "closure": (closed_over, lambda kept, x: kept(x)),
    "default": (by_default, lambda kept, x: kept(x)),
    "list of closures": (lambda layer: [closed_over(layer)], lambda kept, x: kept[0](x)),
    "tuple of closures": (lambda layer: (1, (closed_over(layer),)), lambda kept, x: kept[1][0](x)),
    "named tuple of closures": (
        lambda layer: Pair(1, closed_over(layer)),
        lambda kept, x: kept.layer(x),
    ),
    "method that is a closure": (
        lambda layer: MethodType(lambda _, x: 2 * layer(x), nn.Identity()),
        lambda kept, x: kept(x),
    ),
    "method that is a partial": (
        lambda layer: MethodType(partial(lambda f, _, x: f(x), layer), nn.Identity()),
        lambda kept, x: kept(x),
    ),
    "partial of a closure": (lambda layer: partial(closed_over(layer)), lambda kept, x: kept(x)),
    "closure as an argument": (
        lambda layer: partial(lambda f, x: f(x), closed_over(layer)),
        lambda kept, x: kept(x),
    ),
    "closure over a partial": (
        lambda layer: closed_over(partial(layer.forward)),
        lambda kept, x: kept(x),
    ),
    "closure over a tuple": (
        lambda layer: closed_over(partial(lambda pair, x: pair[0](x), (closed_over(layer), [1]))),
        lambda kept, x: kept(x),
    ),
    "closure over a list of closures": (
        lambda layer: closed_over(
            partial(lambda fs, x: fs["a"][0](x), {"a": [closed_over(layer)]})
        ),
        lambda kept, x: kept(x),
    ),
}
"""How a network keeps a layer besides as its part: what it keeps, and how it calls that."""


class Holder(nn.Module):
    """Calls its layer by what it has kept."""

    def __init__(self, how):
        super().__init__()
        self.layer, self.how = nn.Linear(7, 5), how
        object.__setattr__(self, "kept", HOLDERS[how][0](self.layer))

    def forward(self, x):
        return HOLDERS[self.how][1](self.kept, x)


@pytest.mark.parametrize("make", [compressed, rebuild], ids=["compressed", "rebuild"])
@pytest.mark.parametrize("how", HOLDERS)
def test_a_layer_is_replaced_wherever_the_network_keeps_it(how, make):
    torch.manual_seed(0)
    model, x = Holder(how), torch.randn(3, 7)
    dense = model(x)
    small = make(model, {"layer": LINEAR})
    expected = HOLDERS[how][1](HOLDERS[how][0](small.layer), x)
    assert isinstance(small.layer, SeKronLinear)
    assert torch.equal(small(x), expected)
    assert not torch.allclose(expected, dense)
    assert torch.equal(model(x), dense)  # the original keeps its own
    plain, _ = to_plain(small)
    torch.testing.assert_close(plain(x), expected)
    with torch.no_grad():
        for parameter in plain.layer.parameters():
            parameter.zero_()
    assert not plain(x).any()


def test_a_kept_method_that_only_the_dense_layer_has_is_refused():
    model = Net()
    model.convolve = model.conv._conv_forward
    with pytest.raises(ValueError, match="keeps '_conv_forward' of a Conv2d; keep the layer"):
        compressed(model, {"conv": CONV})
    assert structures_of(compressed(model, {"head": LINEAR})) == {"head": LINEAR}


def test_a_hook_calls_the_layers_that_stand_in_the_network():
    """Also one of a layer that is replaced itself."""
    model = nn.ModuleDict({"first": nn.Linear(7, 5), "second": nn.Linear(7, 5)})
    second = model["second"]
    model["first"].register_forward_hook(lambda _, inputs, output: output + second(*inputs))
    small = compressed(model, {"first": LINEAR, "second": LINEAR})
    x = torch.randn(3, 7)
    expected = small["first"].forward(x) + small["second"](x)
    torch.testing.assert_close(small["first"](x), expected)
    with torch.no_grad():
        second.weight.zero_()
    torch.testing.assert_close(small["first"](x), expected)


def test_a_network_may_have_scripted_parts():
    model, x = nn.Sequential(nn.Linear(7, 5), torch.jit.script(nn.ReLU())), torch.randn(3, 7)
    small = compressed(model, {"0": LINEAR})
    assert torch.equal(small(x), small[0](x).relu())


def test_what_is_kept_many_times_over_is_gone_through_once():
    model = Net()
    kept = (model.conv, closed_over(model.conv))
    for _ in range(60):
        kept = kept, kept
    model.kept = kept
    model.conv.register_forward_hook(closed_over(kept))
    assert structures_of(compressed(model, {"conv": CONV})) == {"conv": CONV}


def test_what_a_network_keeps_may_hold_itself():
    model = Net()
    model.ring = [model.conv]
    model.ring.append(model.ring)
    small = compressed(model, {"conv": CONV})
    assert small.ring[1] is small.ring
    assert small.ring[0] is small.conv


def test_full_rank_plan_is_the_same_function():
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(4, 3, 9, 8)
    exact = {
        "conv": Structure.parse("chain:7x1x3x1,1x3x1x3@9"),
        "inner.twice": Structure.parse("chain:7x1,1x7@7"),
        "head": Structure.parse("chain:5x1,1x7@5"),
    }
    small = compressed(model, exact)
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x), rtol=1e-4, atol=1e-5)
    assert structures_of(small) == exact
    assert structures_of(model) == {}


@pytest.mark.parametrize("make", [compressed, rebuild], ids=["compressed", "rebuild"])
def test_layers_take_the_forms_that_are_named(make):
    forms = {"conv": Form((2, 0, 1)), "inner.twice": Form(matmul=True)}
    structures = {"conv": BOTTLENECK, "inner.twice": Structure.parse("chain:7x1,1x7@3")}
    small = make(Net(), structures | {"head": LINEAR}, forms)
    assert forms_of(small) == forms | {"head": DEFAULT_FORM}
    assert forms_of(Net()) == {}
    assert small.conv.order == (2, 0, 1)
    assert [operation.factor for operation in small.conv.operations] == [2, 0, 1]
    assert small.again.form.matmul
    assert small.head.order == LINEAR.cheapest_order(())


@pytest.mark.parametrize("matmul", [False, True], ids=["conv", "matmul"])
@pytest.mark.parametrize("order", [None, *permutations(range(3))], ids=str)
def test_every_form_is_the_same_function(order, matmul):
    torch.manual_seed(0)
    model, x = Net().double().eval(), torch.randn(2, 3, 9, 8, dtype=torch.float64)
    structures = {"conv": BOTTLENECK, "head": LINEAR}
    forms = {"conv": Form(order, matmul), "head": Form((1, 0), matmul)}
    expected, small = Plan(structures).apply(model), Plan(structures, forms).apply(model)
    with torch.no_grad():
        torch.testing.assert_close(small.conv(x), expected.conv(x))
        torch.testing.assert_close(small(x), expected(x))
    for name in structures:
        dense = getattr(expected, name).dense_weight()
        torch.testing.assert_close(getattr(small, name).dense_weight(), dense)


def test_pointwise_convolutions_run_as_products_where_the_form_says_so():
    x = torch.randn(2, 3, 9, 8)
    counts = {}
    for matmul in (False, True):
        small = compressed(Net(), {"conv": BOTTLENECK}, {"conv": Form((2, 1, 0), matmul)})
        with FlopCounterMode(display=False) as counter:
            small.conv(x)
        counts[matmul] = counter.get_flop_counts()["Global"]
    convolution, product = torch.ops.aten.convolution, torch.ops.aten.bmm
    assert set(counts[False]) == {convolution}
    assert counts[True] == {
        convolution: 2 * 2 * 9 * 8 * (5 * 2 * 3 * 3),
        product: 2 * 2 * 9 * 8 * (2 * 3 + 7 * 5),
    }
    assert sum(counts[True].values()) == sum(counts[False].values())


@pytest.mark.parametrize("order", [(0,), (0, 0), (1, 2), (0, 1, 2)], ids=str)
def test_an_order_that_does_not_fit_is_named(order):
    plan = Plan({"head": LINEAR, "conv": CONV}, {"conv": Form(order)})
    message = f"layer 'conv': `order` must name each of the 2 factors once, got {order}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        plan.apply(Net())


def test_a_module_in_two_places_becomes_one_layer_in_both():
    small = compressed(Net(), {"inner.twice": Structure.parse("chain:7x1,1x7@3")})
    assert isinstance(small.again, SeKronLinear)
    assert small.again is small.inner["twice"]
    assert list(structures_of(small)) == ["inner.twice"]


def test_a_single_layer_is_replaced_as_a_whole():
    small = compressed(nn.Linear(7, 5), {"": LINEAR})
    assert isinstance(small, SeKronLinear)


def test_an_empty_plan_gives_an_equal_copy():
    model = Net()
    copied = compressed(model, {})
    assert copied is not model
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in copied.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_dtype_stays(dtype):
    small = compressed(Net().to(dtype), {"conv": CONV, "head": LINEAR})
    assert {p.dtype for p in small.parameters()} == {dtype}


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.Conv2d(4, 6, 3), ""),
        (nn.Linear(4, 6), ""),
        (nn.Conv2d(4, 6, 3, groups=2), ""),
        (nn.Conv2d(4, 4, 3, groups=4), "depthwise convolution, not worth it"),
        (nn.Conv1d(4, 8, 3, groups=4), "depthwise convolution, not worth it"),
        (Subclass(4, 6, 3), "Subclass may not compute what Conv2d does"),
        (parametrizations.weight_norm(nn.Linear(4, 6)), "its weight is computed from"),
        (nn.Linear(4, 6, dtype=torch.complex64), "its weight is of type torch.complex64"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_is_replaced_and_what_is_not(module, reason):
    assert list(replaceable_modules(nn.Sequential(module, nn.ReLU()))) == ["0"]
    if not reason:
        assert reason_to_skip(module) == ""
        return
    with pytest.raises(ValueError, match=rf"layer '0' cannot be replaced: {reason}"):
        compressed(nn.Sequential(module), {"0": CONV})


def test_a_weight_that_is_computed_is_not_replaced():
    model = nn.Linear(7, 5)
    weight = model.weight
    del model.weight
    model.register_parameter("direction", weight)
    model.weight = weight.detach() * 2
    assert reason_to_skip(model) == "its weight is computed from other parameters"


def test_every_layer_is_listed_once():
    assert list(replaceable_modules(Net())) == ["conv", "inner.twice", "head"]


def test_shared_parameters_are_found():
    model = nn.ModuleDict({"embed": nn.Embedding(5, 7), "head": nn.Linear(7, 5, bias=False)})
    assert shared_parameters(model) == {}
    model["head"].weight = model["embed"].weight
    assert shared_parameters(model) == {"head": "weight with embed"}
    twins = nn.ModuleDict({"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(3, 4, 3)})
    twins["b"].bias = twins["a"].bias
    assert shared_parameters(twins) == {"a": "bias with b", "b": "bias with a"}
    assert shared_parameters(Net()) == {}


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"stem": CONV}, "layer 'stem' is no module there; it was made for another network"),
        ({"conv": CONV, "norm": CONV, "stem": CONV}, "layer 'norm' is BatchNorm2d there"),
        ({"conv": LINEAR}, r"layer 'conv' has a weight \(7, 3, 3, 3\) there and \(5, 7\) in the"),
        ({"head": Structure.parse("chain:7x1,1x5@2")}, r"layer 'head' has a weight \(5, 7\)"),
    ],
)
@pytest.mark.parametrize("make", [compressed, rebuild], ids=["compressed", "rebuild"])
def test_a_plan_for_another_network_names_the_first_layer(make, layers, message):
    with pytest.raises(ValueError, match=message):
        make(Net(), layers)


def test_a_weight_that_is_not_finite_is_named():
    model = Net()
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    with pytest.raises(
        ValueError, match="layer 'head': the weight must be finite, got NaN"
    ) as error:
        Plan({"conv": CONV, "head": LINEAR}).apply(model)
    assert isinstance(error.value.__cause__, ValueError)
    with pytest.raises(ValueError, match="the weight of layer 'head' must be finite"):
        check_finite(model, ["conv", "head"])
    check_finite(model, ["conv"])


def test_a_compressed_network_trains_and_copies():
    torch.manual_seed(0)
    small = compressed(Net(), {"conv": CONV, "head": LINEAR})
    twin = copy.deepcopy(small)
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    x, y = torch.randn(8, 3, 9, 8), torch.randint(0, 5, (8,))
    losses = []
    for _ in range(120):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(small(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert not torch.equal(twin.conv.weights[0], small.conv.weights[0])


def test_one_module_under_two_names_gets_one_structure():
    layer = nn.Linear(8, 8)
    network = nn.Sequential(layer, nn.ReLU(), layer)
    ranks = [Structure.parse(f"chain:8x1,1x8@{rank}") for rank in (2, 5)]
    assert structures_of(Plan({"0": ranks[0], "2": ranks[0]}).apply(network)) == {"0": ranks[0]}
    with pytest.raises(ValueError, match="one structure, but '0' and '2' are one and get two"):
        Plan({"0": ranks[0], "2": ranks[1]}).apply(network)


@pytest.mark.parametrize("options", [{"dilation": (2,)}, {"stride": (2,)}, {"padding": (1,)}])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_one_size_stands_for_all_axes(kind, options):
    torch.manual_seed(0)
    network = nn.Sequential(kind(8, 8, 3, **options))
    small = Plan({"0": Structure.parse("chain:8x1x3x1,1x8x1x3@24")}).apply(network)
    x = torch.randn(2, 8, 9, 10)
    torch.testing.assert_close(small(x), network(x), rtol=1e-4, atol=1e-5)
    (layer,) = profile(network, x, include=["*"]).searched
    assert layer.flops == count_flops(network, (x[:1],))[0]
