"""Copies of networks: bit for bit the same, nothing shared, whatever the modules keep."""

import copy
import queue
import re
import sys
import threading
import warnings
from collections import OrderedDict
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.data import DataLoader

import baselines
import search
import sekron
from sekron.network.copying import copy_of
from sekron.training.refit import refit

BUDGET = search.Budget(flops=0.7)

WEIGHT = "its weight is computed from other parameters"
BIAS = "its bias is computed from other parameters"


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randn(2, 3, 8, 7)


def convolutions():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 12, 3), nn.Conv2d(12, 12, 1), nn.Conv2d(12, 12, 3), nn.Conv2d(12, 5, 1)]
    return nn.Sequential(*layers).eval()


def hooked(normalize):
    """Return a network whose second layer computes a tensor from others before it runs."""
    network = convolutions()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch would rather have parametrizations
        normalize(network[1])
    return network


class Keeping(nn.Module):
    """Keeps what it computed, in every way, and things that cannot be copied."""

    def __init__(self):
        super().__init__()
        self.layers = convolutions()
        self.layers[2].output = None
        self.scale = self.layers[0].weight.mean()  # not a leaf
        self.history, self.by_name = [], {}
        self.lock, self.condition, self.local = threading.RLock(), threading.Condition(), None
        self.local = threading.local()
        self.queue, self.module = queue.Queue(), threading
        self.log = sys.__stderr__  # a file
        self.layers[2].register_forward_hook(self.keep)

    def keep(self, module, _, output):
        module.output = output

    def forward(self, x):
        with self.lock, self.condition:
            self.output = self.layers(x)
            self.history.append((self.output, [self.layers[2].output]))
            self.by_name["output"] = self.output
            self.queue.put(1)
            self.log.write("")
        return self.output * self.scale


class Hooked(nn.Module):
    """Puts out what hooks collect that were made around it."""

    def __init__(self):
        super().__init__()
        self.layers, self.outputs = convolutions(), {}
        outputs, layers = self.outputs, [self.layers]

        def into(name):
            def closure(*arguments):
                self.outputs[name] = arguments[-1]

            return closure

        def outer(*arguments):
            by_function(*arguments)

        by_function = into("function of a function")
        method = self.collect
        hooks = [
            into("closure"),
            outer,
            lambda *a: outputs.update(variable=a[-1]),
            lambda *a, network=self: network.outputs.update(default=a[-1]),
            lambda *a: method(a[-1]),
            lambda *a: layers[0].register_buffer("seen", a[-1]),
        ]
        for hook in hooks:
            self.layers[1].register_forward_hook(hook)
        self.callbacks = [lambda: self.outputs]

    def collect(self, output):
        self.outputs["method"] = output

    def forward(self, x):
        self.outputs.clear()
        x = self.layers(x).mean()
        assert len(self.callbacks[0]()) == 5
        return x + sum(output.mean() for output in self.outputs.values()) + self.layers.seen.mean()


NETWORKS = {
    "weight norm": lambda: hooked(nn.utils.weight_norm),
    "weight norm of a bias": lambda: hooked(lambda m: nn.utils.weight_norm(m, "bias")),
    "pruning": lambda: hooked(lambda m: prune.l1_unstructured(m, "weight", 0.5)),
    "pruning twice": lambda: hooked(
        lambda m: prune.l1_unstructured(prune.ln_structured(m, "weight", 2, 2, 0), "weight", 0.5)
    ),
    "pruning of a bias": lambda: hooked(lambda m: prune.l1_unstructured(m, "bias", 0.5)),
    "spectral norm": lambda: hooked(nn.utils.spectral_norm),
    "parametrization": lambda: hooked(parametrizations.weight_norm),
    "keeping": lambda: Keeping().eval(),
    "hooks": lambda: Hooked().eval(),
    "plain": convolutions,
}

COMPUTED = {
    "weight norm": WEIGHT,
    "weight norm of a bias": BIAS,
    "pruning": WEIGHT,
    "pruning twice": WEIGHT,
    "pruning of a bias": BIAS,
    "spectral norm": WEIGHT,
    "parametrization": WEIGHT,
}


@pytest.fixture(params=NETWORKS)
def network(request, images):
    network = NETWORKS[request.param]()
    network(images)
    return network


def state_of(network):
    """Return what a network is, tensors by name and the identity of everything else."""
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    objects = {
        (name, attribute): id(value)
        for name, module in network.named_modules()
        for attribute, value in vars(module).items()
    }
    return tensors, objects


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"plain", "parametrization"}))
def test_deepcopy_refuses_them(name, images):
    network = NETWORKS[name]()
    network(images)
    with pytest.raises((RuntimeError, TypeError)):
        copy.deepcopy(network)


def test_a_copy_computes_the_same_and_shares_no_tensor(network, images):
    tensors, objects = state_of(network)
    twin = copy_of(network)
    now, same = state_of(network)
    assert objects == same
    assert all(torch.equal(tensors[name], tensor) for name, tensor in now.items())
    assert torch.equal(twin(images), network(images))
    storages = {t.data_ptr() for t in network.state_dict().values()}
    assert not storages & {t.data_ptr() for t in twin.state_dict().values()}
    assert all(a is not b for a, b in zip(twin.modules(), network.modules(), strict=True))
    wanted = [parameter.requires_grad for parameter in network.parameters()]
    assert [parameter.requires_grad for parameter in twin.parameters()] == wanted


def test_a_copy_of_a_copy_is_one_too(network, images):
    twin = copy_of(network)
    twin(images)
    assert torch.equal(copy_of(twin)(images), network(images))


@pytest.mark.parametrize("name", COMPUTED)
def test_tensors_are_computed_from_the_parameters_of_the_copy(name, images):
    network = NETWORKS[name]()
    network(images)
    twin, before = copy_of(network), network(images)
    with torch.no_grad():
        for parameter in twin[1].parameters():
            parameter.mul_(3.0).add_(0.1)
    assert not torch.equal(twin(images), before)
    torch.autograd.backward(twin(images).sum())
    assert all(parameter.grad is not None for parameter in twin.parameters())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(network(images), before)


def test_the_hooks_of_a_copy_can_be_taken_away(images):
    network = hooked(nn.utils.weight_norm)
    twin = copy_of(network)
    nn.utils.remove_weight_norm(twin[1])
    assert "weight" in twin[1]._parameters
    assert "weight" not in network[1]._parameters
    assert torch.equal(twin(images), network(images))
    handle = network[2].register_forward_hook(lambda *_: torch.zeros(()))
    network[2].handle = handle
    twin = copy_of(network)
    twin[2].handle.remove()
    assert (len(network[2]._forward_hooks), len(twin[2]._forward_hooks)) == (1, 0)


def test_a_copy_that_runs_writes_nothing_into_the_original(images):
    network = Hooked().eval()
    network(images)
    twin = copy_of(network)
    network.outputs.clear()
    network.layers.seen.zero_()
    twin(images)
    assert network.outputs == {}
    assert not network.layers.seen.any()
    assert set(twin.outputs) > {"closure", "variable", "default", "method"}


def test_a_hook_that_holds_nothing_of_the_network_is_the_same(images):
    network, outputs = convolutions(), []

    def hook(_, __, output):
        outputs.append(output)

    network[1].register_forward_hook(hook)
    assert list(copy_of(network)[1]._forward_hooks.values()) == [hook]


class Settings(dict):
    """A dictionary whose method takes other arguments than that of `dict`."""

    def update(self, *, name):
        self["name"] = name


@pytest.mark.parametrize("kind", [dict, OrderedDict, Settings])
def test_what_a_copy_notes_beside_a_layer_is_its_own(kind):
    network, x = convolutions(), torch.ones(1, 3, 9, 9)
    outputs = []
    state = kind(layer=network[0], outputs=outputs, again=outputs)
    network[0].register_forward_hook(lambda *of: state["outputs"].append(of[2]))
    twin = copy_of(network)
    twin(x)
    assert state == kind(layer=network[0], outputs=[], again=[])
    (hook,) = twin[0]._forward_hooks.values()
    other = hook.__closure__[0].cell_contents
    assert other["again"] is other["outputs"]
    assert len(other["outputs"]) == 1


def test_of_what_a_function_holds_only_that_with_parts_of_the_network_is_made_anew():
    network, lock, outputs = convolutions(), [threading.Lock()], []
    names, unnamed = {network[1]: "one"}, partial(nn.Module.forward, network[1], last=lock)

    def hook(*_, held=(names, lock, outputs), again=names, inner=unnamed):
        return None

    network[1].register_forward_hook(hook)
    twin = copy_of(network)
    (other,) = twin[1]._forward_hooks.values()
    held, again, inner = other.__kwdefaults__.values()
    assert held == ({twin[1]: "one"}, lock, outputs)
    assert again is held[0]
    assert held[1] is lock
    assert held[2] is outputs
    assert (inner.func, inner.args, inner.keywords) == (unnamed.func, (twin[1],), {"last": lock})
    assert hook.__kwdefaults__["held"][0] == {network[1]: "one"}


def test_what_was_shared_is_shared_in_the_copy(images):
    network = nn.Sequential(nn.Linear(7, 7), nn.Linear(7, 7))
    network[1].weight = network[0].weight
    network.kept = [network[0], {"weight": network[1].weight}]
    network.outputs = [network(images)] * 2
    twin = copy_of(network)
    assert twin[0].weight is twin[1].weight is twin.kept[1]["weight"]
    assert twin.kept[0] is twin[0]
    assert twin.outputs[0] is twin.outputs[1]
    assert torch.equal(twin.outputs[0], network.outputs[0])
    assert twin.outputs[0].is_leaf


def test_weight_norm_of_a_recurrent_layer():
    torch.manual_seed(0)
    layer, x = nn.LSTM(5, 7), torch.randn(3, 2, 5)
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(layer, "weight_hh_l0")
    layer(x)
    twin = copy_of(layer)
    assert torch.equal(twin(x)[0], layer(x)[0])
    assert twin._flat_weights[1] is twin.weight_hh_l0


def test_a_gradient_with_a_past(images):
    network = convolutions()
    with pytest.warns(UserWarning, match="create_graph"):
        network(images).square().sum().backward(create_graph=True)
    twin = copy_of(network)
    for other, parameter in zip(twin.parameters(), network.parameters(), strict=True):
        assert type(other) is nn.Parameter
        assert torch.equal(other.grad, parameter.grad)
        assert other.grad.is_leaf


class Refusing(nn.Conv2d):
    """Does not want to be copied."""

    def __deepcopy__(self, memo):
        raise RuntimeError("not me")


def with_attribute(value):
    network = convolutions()
    network[1].own = value
    return network


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: with_attribute(i for i in range(3)),
            "'own' of module '1' (Conv2d) is a generator, which a copy would use up; make it a "
            "list, or delete it.",
        ),
        (
            lambda: with_attribute({"a": [iter(DataLoader([1]))]}),
            "'own' of module '1' (Conv2d) is a _SingleProcessDataLoaderIter, which a copy",
        ),
        (
            lambda: with_attribute(Refusing(1, 1, 1)),
            "module '1.own' (Refusing) raised RuntimeError: not me; delete it, or give its class",
        ),
        (
            lambda: with_attribute((Refusing(1, 1, 1),)),
            "'own' of module '1' (Conv2d) raised RuntimeError: not me; delete it, or give its",
        ),
    ],
    ids=["generator", "loader", "module", "hidden module"],
)
def test_what_refuses_is_named(make, message):
    network = make()
    message = f"^the network must be one that can be copied, but {re.escape(message)}"
    with pytest.raises(ValueError, match=message) as caught:
        copy_of(network)
    assert "\n" not in str(caught.value)


def test_a_plan_is_applied_to_what_a_search_found(network, images, tmp_path, request):
    """Search, repair, save and load; the network of the caller stays what it was."""
    wanted, (tensors, _) = network(images), state_of(network)
    result = search.run(
        network,
        images,
        budget=BUDGET,
        n_trials=0,
        max_sequence_length=2,
        measure_seconds=0,
        calibration=[images],
        score=lambda _: 0.0,
        n_network_trials=0,
        progress=False,
    )
    name = request.node.callspec.params["network"]
    assert [r for r in result.layers()["reason"] if "computed" in r] == (
        [COMPUTED[name]] if name in COMPUTED else []
    )
    small = result.best.apply(network)
    assert len(result.best) > 0
    refit(small, network, [images], steps=2, progress=False)
    sekron.save(small, tmp_path / "small.safetensors")
    again = sekron.load(network, tmp_path / "small.safetensors")
    assert torch.equal(again(images), small(images))
    assert torch.equal(network(images), wanted)
    now, _ = state_of(network)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in now.items())


def test_pruning_takes_no_part_where_a_weight_is_computed(images):
    network = hooked(nn.utils.weight_norm)
    with pytest.raises(ValueError, match="'pruning' needs weights that are no function of others"):
        baselines.compare(network, images, BUDGET, methods=["pruning"], progress=False)
    arguments = {"methods": ["channel_svd"], "allocations": ["exact"], "progress": False}
    assert len(baselines.compare(network, images, BUDGET, **arguments)) == 1


# Tiny networks may be slower with factors: the clock says so.
@pytest.mark.filterwarnings("ignore:.* is out of reach for networks that are not slower")
@pytest.mark.filterwarnings("ignore:.*`measure_seconds`")  # a busy machine needs longer
@pytest.mark.parametrize("name", ["weight norm", "pruning", "keeping"])
def test_the_clock_runs_on_a_copy(name, images):
    network = NETWORKS[name]()
    network(images)
    result = search.run(
        network, images, budget=BUDGET, n_trials=0, measure_seconds=0.1, progress=False
    )
    assert result.timetable is not None
