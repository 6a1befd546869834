"""What a network costs, against fvcore, and why a layer stays dense."""

import copy

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn
from torch.nn.utils import spectral_norm
from torch.nn.utils.parametrizations import weight_norm

from search import profile
from sekron import Plan, Structure
from sekron.profiling.count import count_flops


class OwnConv2d(nn.Conv2d):
    """Computes what its parent does, but might not."""


class Zoo(nn.Module):
    """One layer of every kind that is met in networks."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.plain = nn.Conv2d(6, 6, (3, 1), stride=(2, 1), dilation=(1, 2))
        self.grouped = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.own = OwnConv2d(6, 6, 1)
        self.normed = weight_norm(nn.Conv2d(6, 6, 1))
        self.spectral = spectral_norm(nn.Conv2d(6, 6, 1))
        self.tied = nn.Conv2d(6, 6, 1)
        self.knot = nn.Conv2d(6, 6, 1)
        self.knot.weight = self.tied.weight
        self.twice = nn.Conv2d(6, 6, 3, padding=1)
        self.alias = self.twice
        self.never = nn.Conv2d(6, 6, 5)
        self.sequence = nn.Conv1d(6, 10, 3)
        self.body = nn.Linear(10, 12)
        self.head = nn.Linear(12, 7)

    def first(self, x):
        return self.grouped(self.plain(self.stem(x)))

    def forward(self, x):
        x = self.spectral(self.normed(self.own(self.depthwise(self.first(x)))))
        x = self.twice(self.knot(self.tied(x)))
        x = self.alias(x[..., 1:, 2:])
        return self.head(self.body(self.sequence(x.flatten(2)).mT)).mean(1)


REASONS = {
    "stem": "first convolution, left dense unless `include` names it",
    "plain": "",
    "grouped": "",
    "depthwise": "depthwise convolution, not worth it: 3.2% of the FLOPs",
    "own": "OwnConv2d may not compute what Conv2d does: see `sekron.register`",
    "normed": "its weight is computed from other parameters",
    "spectral": "its weight is computed from other parameters",
    "tied": "shares its weight with knot",
    "knot": "shares its weight with tied",
    "twice": "",
    "never": "never ran on the example input",
    "sequence": "",
    "body": "",
    "head": "last linear layer, left dense unless `include` names it",
}


@pytest.fixture(scope="module")
def zoo():
    torch.manual_seed(0)
    return Zoo().eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 17, 13)


@pytest.fixture(scope="module")
def measured(zoo, images):
    return profile(zoo, images)


def fvcore(network, *arguments):
    analysis = FlopCountAnalysis(copy.deepcopy(network).eval(), arguments)
    return analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)


def reasons(*arguments, **settings):
    return {layer.name: layer.reason for layer in profile(*arguments, **settings).layers}


@pytest.mark.parametrize("name", REASONS)
def test_every_layer_is_listed_with_its_reason(measured, name):
    (layer,) = [layer for layer in measured.layers if layer.name == name]
    assert layer.reason == REASONS[name]
    assert (layer in measured.searched) == (not layer.reason)


def test_layers_stand_in_the_order_of_execution(measured):
    ran = [name for name in REASONS if name != "never"]
    assert [layer.name for layer in measured.layers] == [*ran, "never"]


def test_flops_and_parameters_are_fvcores_and_torchs(zoo, images, measured):
    analysis = fvcore(zoo, images[:1])
    spectral = 6 * 6 + 6  # a product of the weight with a vector, and one of two vectors
    assert measured.flops == analysis.total() + spectral
    counted_here = {"aten::mv": 1, "aten::dot": 1}
    assert {**measured.unsupported, **counted_here} == dict(analysis.unsupported_ops())
    assert measured.params == sum(p.numel() for p in zoo.parameters())
    counted = analysis.by_module()
    for layer in measured.layers:
        assert layer.flops == counted[layer.name], layer.name
        assert layer.params == zoo.get_submodule(layer.name).weight.numel()


def test_every_call_is_counted(measured):
    (twice,) = [layer for layer in measured.layers if layer.name == "twice"]
    assert [call.output_size for call in twice.calls] == [(7, 11), (6, 9)]
    assert twice.flops == 6 * 6 * 9 * (7 * 11 + 6 * 9)


@pytest.mark.parametrize("resource", ["flops", "params"])
def test_fixed_and_searched_add_up(measured, resource):
    searched = sum(getattr(layer, resource) for layer in measured.searched)
    assert measured.fixed(resource) + searched == measured.dense(resource)


def test_same_padding_is_counted_though_fvcore_does_not():
    arguments = {"stride": 1, "dilation": (1, 2)}
    same = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 7, 3, padding="same", **arguments))
    explicit = nn.Sequential(same[0], nn.Conv2d(5, 7, 3, padding=(1, 2), **arguments))
    x = torch.zeros(1, 3, 9, 8)
    assert fvcore(same, x).total() < fvcore(explicit, x).total()
    assert count_flops(same, (x,))[0] == profile(same, x).flops == fvcore(explicit, x).total()
    assert profile(same, x).layers[1].flops == fvcore(explicit, x).by_module()["1"]


def test_the_model_is_untouched(zoo, images):
    model = copy.deepcopy(zoo).train()
    model.add_module("norm", nn.BatchNorm2d(3))
    model.twice.eval()
    model.stem.register_forward_hook(lambda *_: None)
    state = copy.deepcopy(model.state_dict())
    flags = {name: module.training for name, module in model.named_modules()}
    hooks = {name: len(module._forward_hooks) for name, module in model.named_modules()}
    before = torch.random.get_rng_state()
    profile(model, images)
    assert {name: module.training for name, module in model.named_modules()} == flags
    assert {name: len(module._forward_hooks) for name, module in model.named_modules()} == hooks
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("settings", "searched"),
    [
        ({}, "plain grouped twice sequence body"),
        ({"include": ["*"]}, "stem plain grouped twice sequence body head"),
        ({"include": ["t*", "stem"]}, "stem twice"),
        ({"exclude": ["t*"]}, "plain grouped sequence body"),
        ({"include": ["*"], "exclude": ["head", "b?dy"]}, "stem plain grouped twice sequence"),
        ({"include": ["depthwise", "body"]}, "body"),
        ({"exclude": ["*"]}, ""),
    ],
    ids=str,
)
def test_include_and_exclude_by_pattern(zoo, images, settings, searched):
    found = reasons(zoo, images, **settings)
    assert [name for name, reason in found.items() if not reason] == searched.split()
    allowed = {"not in `include`", "in `exclude`", ""}
    assert all(found[name] in allowed | {REASONS[name]} for name in found)


@pytest.mark.parametrize("settings", [{"include": ["t*", "nope"]}, {"exclude": ["nope"]}], ids=str)
def test_a_pattern_that_matches_nothing(zoo, images, settings):
    message = "the pattern 'nope' must match a layer, but matches none of stem, plain,"
    with pytest.raises(ValueError, match=message):
        profile(zoo, images, **settings)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (torch.zeros(1, 4, 9, 9), r"on \(1, 4, 9, 9\) it raised RuntimeError: .*4 channels"),
        (torch.zeros(1, 3), r"on \(1, 3\) it raised"),
        ((torch.zeros(1, 3, 9, 9), 2), r"on \(1, 3, 9, 9\), int it raised TypeError"),
        (
            torch.zeros(3, 9, 9),
            r"on \(1, 9, 9\), the first image of \(3, 9, 9\), it raised Runtime",
        ),
        (
            {"y": torch.zeros(1, 3, 9, 9)},
            r"on {'y': \(1, 3, 9, 9\)} it raised TypeError: .* the mapping is its one argument$",
        ),
    ],
    ids=["channels", "vector", "arguments", "image", "name"],
)
def test_an_example_that_does_not_run(zoo, example, message):
    with pytest.raises(
        ValueError, match=f"the network must run on the example input, but {message}"
    ):
        profile(zoo, example)


def test_a_network_without_values_is_refused(zoo, images):
    empty = copy.deepcopy(zoo).to("meta")
    for example in (images, images.to("meta")):
        with pytest.raises(ValueError, match=r"must have values, but '.*' is on the `meta` device"):
            profile(empty, example)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 7), nn.Linear(3, 7)
        self.last = nn.Linear(7, 2)

    def forward(self, a, b):
        return self.last(self.first(a) + self.second(input=b))


@pytest.mark.parametrize("kind", [tuple, list, lambda pair: dict(zip("ab", pair, strict=True))])
def test_one_image_counts_where_all_inputs_go_through_all_images(kind):
    measured = profile(TwoInputs(), kind((torch.zeros(4, 5), torch.zeros(4, 3))))
    assert measured.flops == 5 * 7 + 3 * 7 + 7 * 2
    assert [layer.flops for layer in measured.layers] == [35, 21, 14]


def test_everything_counts_where_an_input_is_shared_by_all_images():
    measured = profile(TwoInputs(), (torch.zeros(4, 5), torch.zeros(1, 3)))
    assert [layer.flops for layer in measured.layers] == [4 * 35, 21, 4 * 14]
    assert measured.flops == 4 * 35 + 21 + 4 * 14


class Named(nn.Linear):
    def forward(self, hidden):
        return super().forward(hidden)


class Paired(nn.Linear):
    def forward(self, x):
        return super().forward(x), None


class Second(nn.Linear):
    def forward(self, _, x):
        return super().forward(x)


CALLS = {
    Named: lambda layer, x: layer(hidden=x),
    Paired: lambda layer, x: layer(x)[0],
    Second: lambda layer, x: layer("flag", x),
}


class Around(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.first, self.own, self.last = nn.Linear(5, 7), kind(7, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.last(CALLS[type(self.own)](self.own, self.first(x)))


@pytest.mark.parametrize("kind", CALLS)
def test_a_subclass_takes_and_returns_what_it_likes(kind, monkeypatch):
    measured = profile(Around(kind), torch.zeros(4, 5))
    assert [layer.flops for layer in measured.layers] == [35, 21, 6]
    assert "may not compute what Linear does" in measured.layers[1].reason
    monkeypatch.setattr("sekron.network.eligibility._registered", {kind})
    reason = profile(Around(kind), torch.zeros(4, 5)).layers[1].reason
    assert reason == "takes or returns something else than its base class does"


class Frames(nn.Module):
    """Works on the frames of a film one by one, all of them in one batch."""

    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        y = self.body(self.stem(x.flatten(0, 1)))
        return self.head(y.mean((2, 3))).unflatten(0, x.shape[:2])


def test_a_batch_within_the_network_counts_for_each_of_its_images():
    network, x = Frames(), torch.randn(2, 5, 3, 9, 9)
    measured = profile(network, x, include=["body"])
    by_name = {layer.name: layer.flops for layer in measured.layers}
    assert by_name == {"stem": 5 * 49 * 216, "body": 5 * 25 * 576, "head": 5 * 32}
    assert count_flops(network, x[:1])[0] == measured.flops
    structure = Structure.parse("sekron:8x1x3x1,1x8x1x3@4")
    small = Plan({"body": structure}).apply(network)
    saved = measured.flops - count_flops(small, x[:1])[0]
    assert saved == by_name["body"] - measured.searched[0].flops_of(structure)


def test_a_linear_layer_on_positions_counts_them():
    network = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
    assert profile(network, torch.zeros(2, 11, 5)).flops == 11 * (35 + 21)


def test_a_network_that_is_one_layer():
    measured = profile(nn.Linear(6, 4), torch.zeros(3, 6), include=["*"])
    assert [(layer.name, layer.flops) for layer in measured.searched] == [("", 24)]


# torch says so of a layer like those that are tried here.
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op")
@pytest.mark.parametrize("shape", [(6, 0), (0, 4)], ids=str)
def test_a_layer_without_numbers_stays_dense_and_costs_nothing(shape):
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(*shape[::-1]))
    network.forward = lambda x: (network[0](x), network[1](x[:, : shape[1]]))
    empty = next(layer for layer in profile(network, torch.ones(2, 4)).layers if layer.name == "1")
    assert (empty.weight_shape, empty.flops, empty.params) == (shape, 0, 0)
    assert empty.reason == "its weight holds no numbers"


def test_a_plan_of_layers_that_are_not_searched_has_no_totals(small_network, small_input):
    measured = profile(small_network, small_input)
    plan = Plan({"0": Structure.parse("chain:8x1x3x1,1x3x1x3@2")})
    with pytest.raises(ValueError, match="must replace searched layers only, got '0'"):
        measured.totals(plan)


@pytest.mark.parametrize(
    ("settings", "searched"),
    [
        ({"include": [nn.Conv1d, "b*"]}, "sequence body"),
        ({"exclude": [nn.Conv2d, "head"]}, "sequence body"),
        ({"include": lambda _, module: module.weight.shape[0] == 10}, "sequence"),
        ({"include": ["*"], "exclude": lambda name, _: "e" in name}, "plain body"),
    ],
    ids=["classes", "excluded-classes", "function", "excluding-function"],
)
def test_include_and_exclude_by_class_and_by_function(zoo, images, settings, searched):
    found = reasons(zoo, images, **settings)
    assert [name for name, reason in found.items() if not reason] == searched.split()


def test_names_are_no_patterns_where_a_function_chose_them():
    network = nn.Sequential(nn.Linear(4, 4))
    network.add_module("a[1]", nn.Linear(4, 4))
    network.add_module("a1", nn.Linear(4, 4))
    found = reasons(network, torch.zeros(2, 4), include=lambda name, _: name == "a[1]")
    assert found == {"0": "not in `include`", "a[1]": "", "a1": "not in `include`"}


def test_a_layer_must_have_a_share_of_flops_or_of_parameters(zoo, images, measured):
    share = {
        layer.name: max(layer.flops / measured.flops, layer.params / measured.params)
        for layer in measured.searched
    }
    limit = sorted(share.values())[1]
    found = reasons(zoo, images, min_share=limit)
    for name, of_layer in share.items():
        reason = "" if of_layer >= limit else f"below `min_share`, {of_layer:.4f} at most"
        assert found[name] == reason
    assert {name: found[name] for name in found if name not in share} == {
        name: REASONS[name] for name in found if name not in share
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"include": "plain"},
            "`include` must be a list of patterns and classes, got 'plain'",
        ),
        ({"exclude": nn.Conv2d}, r"`exclude` must be a list of .*, got <class '.*Conv2d'> alone"),
        (
            {"exclude": [nn.Conv3d]},
            "the class Conv3d must match a layer, but matches none of stem,",
        ),
        ({"include": lambda *_: False}, "`include` must choose a layer, but chooses none of stem,"),
        ({"min_share": 1.5}, "`min_share` must be between 0 and 1, got 1.5"),
    ],
)
def test_choices_of_nothing_are_refused(zoo, images, settings, message):
    with pytest.raises(ValueError, match=message):
        profile(zoo, images, **settings)


class Experts(nn.Module):
    """Sends every image to one of two experts, all of them to the first."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(9, 8), nn.Linear(9, 8)

    def forward(self, x):
        return self.first(x), self.second(x[len(x) :])


def test_an_expert_that_no_image_is_sent_to_has_not_run():
    layers = profile(Experts(), torch.randn(16, 9), ["*"]).layers
    assert [layer.reason for layer in layers] == ["", "never ran on the example input"]
