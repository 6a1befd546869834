"""Moments of a network against sums written by hand, for its inputs and for its gradients."""

import copy

import pytest
import torch
from torch import nn

from sekron.calibration.moments import moments

N_DRAWS = 20000
ONES = torch.ones(2, 4)


class Twice(nn.Module):
    """One layer, called on two halves of unlike length; one number per image comes out."""

    def __init__(self):
        super().__init__()
        self.layer, self.spare = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        first, second = x[:, :1], x[:, 1:]
        return sum(self.layer(part).relu().sum(dim=(1, 2)) for part in (first, second))[:, None]


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.map, self.vector = nn.Conv2d(3, 4, 1), nn.Linear(3, 2)

    def forward(self, x):
        return {"map": [self.map(x)], "vector": self.vector(input=x.mean(dim=(2, 3))), "n": 3}


def seeded(make):
    torch.manual_seed(0)
    return make()


def hidden(relu):
    """One number per image, after a ReLU and a layer that is not looked at."""
    return seeded(lambda: nn.Sequential(nn.Linear(4, 3), relu, nn.Linear(3, 1)))


def outer_mean(rows):
    return torch.einsum("ni,nj->ij", rows.double(), rows.double()) / len(rows)


def same(first, second):
    pairs = zip(first.values(), second.values(), strict=True)
    return all(
        torch.equal(a.inputs, b.inputs) and torch.equal(a.gradients, b.gradients) for a, b in pairs
    )


def test_a_network_that_has_run_compiled_is_seen_as_it_was_written():
    network, batches = seeded(Twice).requires_grad_(False), [torch.randn(5, 3, 4)]
    compiled = torch.compile(network, backend="eager")
    compiled(batches[0])
    own, other = (
        moments(compiled, ["_orig_mod.layer"], batches),
        moments(network, ["layer"], batches),
    )
    assert same(own, other)


@pytest.mark.parametrize("sizes", [[5], [1, 1, 1, 1, 1], [3, 2]], ids=str)
def test_inputs_of_a_convolution_are_averaged_over_images_and_positions(sizes):
    network = seeded(lambda: nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1)))
    x = torch.randn(5, 3, 7, 6) + 1.0
    found = moments(network, ["0"], x.split(sizes))["0"]
    by_hand = torch.einsum("nchw,ndhw->cd", x.double(), x.double()) / (5 * 7 * 6)
    torch.testing.assert_close(found.inputs, by_hand, rtol=1e-5, atol=1e-6)


def test_of_very_many_channels_only_the_diagonal_is_collected(monkeypatch):
    network, x = seeded(lambda: nn.Linear(4, 3)), torch.randn(5, 4)
    whole = moments(network, [""], [x])[""]
    monkeypatch.setattr("sekron.calibration.moments.WIDEST", 3)
    found = moments(network, [""], [x])[""]
    torch.testing.assert_close(found.inputs, whole.inputs.diagonal())
    assert torch.equal(found.gradients, whole.gradients)


@pytest.mark.parametrize("sizes", [[5], [1, 1, 1, 1, 1], [3, 2]], ids=str)
@pytest.mark.parametrize("shape", [(5, 4), (5, 6, 4), (5, 2, 3, 4)], ids=str)
def test_inputs_of_a_linear_layer_are_averaged_over_all_but_the_last_axis(shape, sizes):
    network = seeded(lambda: nn.Linear(4, 3))
    x = torch.randn(shape) + 1.0
    found = moments(network, [""], x.split(sizes))[""]
    torch.testing.assert_close(found.inputs, outer_mean(x.reshape(-1, 4)), rtol=1e-5, atol=1e-6)
    assert found.n_positions == x.numel() / (5 * 4)


def test_gradients_at_logits_are_the_covariance_of_a_drawn_label():
    network = seeded(lambda: nn.Linear(4, 3))
    images = torch.randn(2, 4)
    found = moments(network, [""], [images] * 3 + [images.repeat(N_DRAWS // 2, 1)])[""]
    p = network(images).detach().double().softmax(dim=1)
    by_hand = (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]).mean(dim=0)
    # An entry is a mean of numbers of at most 1 in size and, drawn by chance, 1/2 in deviation.
    torch.testing.assert_close(found.gradients, by_hand, rtol=0, atol=2.5 / N_DRAWS**0.5)


def test_gradients_at_a_feature_map_are_those_of_random_signs():
    network = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3)))
    found = moments(network, ["0"], [torch.randn(20, 3, 12, 12)])["0"]
    assert found.n_positions == 100
    assert torch.equal(found.gradients.diagonal(), torch.ones(4).double())
    off = found.gradients - torch.eye(4).double()
    assert 0.0 < float(off.abs().max()) < 5 / (20 * 100) ** 0.5


def test_all_outputs_of_a_network_count():
    network, x = seeded(TwoOutputs), torch.randn(6, 3, 5, 4)
    found = moments(network, ["map", "vector"], [x])
    torch.testing.assert_close(
        found["vector"].inputs, outer_mean(x.mean(dim=(2, 3))), rtol=1e-5, atol=1e-6
    )
    for own, n in zip(found.values(), (20, 1), strict=True):
        assert own.n_positions == n
        assert torch.equal(own.gradients.diagonal(), torch.ones(len(own.gradients)).double())


def test_a_regressor_of_one_output_has_gradients():
    # Its gradient is a sign, which the product of two takes out.
    found = moments(seeded(lambda: nn.Linear(4, 1)), [""], [torch.randn(7, 4)])[""]
    assert torch.equal(found.gradients, torch.ones(1, 1).double())


@pytest.mark.parametrize("inplace", [False, True])
def test_gradients_are_those_before_a_relu_in_place_or_not(inplace):
    network, x = hidden(nn.ReLU(inplace)), torch.randn(9, 4)
    found = moments(network, ["0"], x.split(4))["0"]
    gradient = (network[0](x) > 0) * network[2].weight.detach()
    torch.testing.assert_close(found.gradients, outer_mean(gradient), rtol=1e-5, atol=1e-6)


def test_a_layer_called_twice_is_averaged_over_both_calls():
    network, x = seeded(Twice), torch.randn(6, 5, 4)
    found = moments(network, ["layer"], x.split(4))["layer"]
    assert found.n_positions == 5
    torch.testing.assert_close(found.inputs, outer_mean(x.reshape(-1, 4)), rtol=1e-5, atol=1e-6)
    gradient = (network.layer(x) > 0).reshape(-1, 3)
    torch.testing.assert_close(found.gradients, outer_mean(gradient), rtol=1e-5, atol=1e-6)


def test_only_the_draws_depend_on_the_seed(small_network, small_input):
    names = ["3", "8"]
    first, again, other = (
        moments(small_network, names, [small_input], seed=seed) for seed in (1, 1, 2)
    )
    assert same(first, again)
    for name in names:
        assert torch.equal(first[name].inputs, other[name].inputs)
        assert not torch.equal(first[name].gradients, other[name].gradients)


def test_batches_may_bring_labels(small_network, small_input):
    labels = torch.zeros(1, dtype=torch.long)
    plain = moments(small_network, ["3"], small_input.split(1))
    for pack in (tuple, list):
        labelled = (pack((x, labels)) for x in small_input.split(1))
        assert same(moments(small_network, ["3"], labelled), plain)


def test_the_model_is_untouched(small_network, small_input):
    model = copy.deepcopy(small_network).append(nn.Dropout(0.5)).train()
    model[1].eval()
    model[3].weight.requires_grad_(False)
    model[6].register_forward_hook(lambda *_: None)
    before, state = copy.deepcopy(model), torch.get_rng_state()
    with torch.no_grad():
        found = moments(model, ["0", "3", "6"], [small_input])
    assert same(found, moments(small_network, ["0", "3", "6"], [small_input]))
    assert torch.equal(torch.get_rng_state(), state)
    for was, now in zip(before.modules(), model.modules(), strict=True):
        assert was.training == now.training
        assert len(was._forward_hooks) == len(now._forward_hooks)
    for was, now in zip(before.parameters(), model.parameters(), strict=True):
        assert torch.equal(was, now)
        assert now.grad is None
        assert was.requires_grad == now.requires_grad
    for was, now in zip(before.buffers(), model.buffers(), strict=True):
        assert torch.equal(was, now)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "`calibration` must hold at least one batch, got none"),
        ([torch.zeros(0, 4)], r"`calibration` must hold images, got a batch of shape \(0, 4\)"),
        ([ONES, ONES * float("nan")], "`calibration` must be finite, .* in a batch"),
        ([ONES, ONES * float("inf")], "`calibration` must be finite, .* in a batch"),
        ([ONES * 1e25], "the moments must be finite, got NaN or Inf at layer '0'"),
        ([torch.zeros(2, 5)], r"must run .* on \(2, 5\) it raised RuntimeError: mat1"),
    ],
    ids=["none", "empty", "nan", "inf", "overflow", "shape"],
)
def test_batches_that_are_refused(batches, message):
    with pytest.raises(ValueError, match=message):
        moments(hidden(nn.ReLU()), ["0"], iter(batches))


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_an_output_that_is_not_finite_is_refused(n_outputs):
    network = nn.Linear(4, n_outputs)
    nn.init.constant_(network.bias, float("inf"))
    with pytest.raises(ValueError, match="output must be finite, got NaN or Inf on a batch"):
        moments(network, [""], [ONES])


def test_layers_that_do_not_take_part_are_refused():
    message = "'spare' must run on the batches and .*: leave it dense, by `exclude` in a search"
    with pytest.raises(ValueError, match=message):
        moments(seeded(Twice), ["layer", "spare"], [torch.randn(2, 5, 4)])
    with pytest.raises(ValueError, match="output must depend on the layers that are decomposed"):
        moments(hidden(nn.ReLU()), [], [ONES])


class Hiding(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.layer, self.wrap = nn.Linear(4, 3), wrap

    def forward(self, x):
        return self.wrap(self.layer(x))


class Box:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (Box, "must put out tensors of real numbers, got Box; only within tuples"),
        (lambda y: y.argmax(1), "must put out tensors of real numbers, got Tensor"),
        (lambda y: y.detach().numpy(), "must put out tensors of real numbers, got ndarray"),
        (lambda _: None, "must put out tensors of real numbers, got NoneType"),
        (torch.Tensor.to_sparse, r"must put out dense tensors, got one that is torch\.sparse_coo"),
        (torch.Tensor.detach, r"must depend on the layers .*: forward may run within"),
    ],
    ids=["object", "classes", "array", "nothing", "sparse", "detached"],
)
def test_outputs_that_nothing_can_be_learnt_from(wrap, message):
    with pytest.raises(ValueError, match=message):
        moments(Hiding(wrap), ["layer"], [ONES])


FOLLOWED = {
    "convolution": (lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)), "inputs"),
    "linear": (lambda: nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6)), "inputs"),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 6, 1), nn.BatchNorm2d(6)),
        "gradients",
    ),
    "something between": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.BatchNorm2d(6)),
        None,
    ),
    "another norm": (lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.GroupNorm(2, 6)), None),
}


@pytest.mark.parametrize("kind", FOLLOWED)
def test_inputs_are_about_their_mean_where_batch_norm_follows(kind):
    make, side = FOLLOWED[kind]
    network = seeded(make).eval()
    x = torch.randn(7, 3) + 1.0 if kind == "linear" else torch.randn(7, 3, 5, 4) + 1.0
    rows = x if kind == "linear" else x.movedim(1, -1).reshape(-1, 3)
    found = moments(network, ["0"], x.split(4))["0"]
    if side is None:
        wanted, side = outer_mean(rows), "inputs"
    else:
        wanted = torch.cov(rows.double().T, correction=0)
    torch.testing.assert_close(getattr(found, side), wanted, rtol=1e-4, atol=1e-6)
    plain = moments(network, ["0"], x.split(4), centred=False)["0"]
    side = "gradients" if kind == "transposed" else "inputs"
    torch.testing.assert_close(getattr(plain, side), outer_mean(rows), rtol=1e-4, atol=1e-6)


def test_patches_diagonals_and_groups_are_centred_too(monkeypatch):
    network = seeded(
        lambda: nn.Sequential(nn.Conv2d(4, 6, (3, 2), groups=2), nn.BatchNorm2d(6))
    ).eval()
    x = torch.randn(7, 4, 6, 5) + 1.0
    by_channel = moments(network, ["0"], [x])["0"].inputs
    rows = x.movedim(1, -1).reshape(-1, 2, 2).movedim(1, 0)
    wanted = torch.stack([torch.cov(group.double().T, correction=0) for group in rows])
    torch.testing.assert_close(by_channel, wanted, rtol=1e-4, atol=1e-6)
    ungrouped = seeded(lambda: nn.Sequential(nn.Conv2d(4, 6, (3, 2)), nn.BatchNorm2d(6))).eval()
    patches = nn.functional.unfold(x, (3, 2)).movedim(1, -1).reshape(-1, 24)
    found = moments(ungrouped, ["0"], [x], largest_patch=24)["0"].inputs
    wanted = torch.cov(patches.double().T, correction=0)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    monkeypatch.setattr("sekron.calibration.moments.WIDEST", 3)
    diagonal = moments(ungrouped, ["0"], [x])["0"].inputs
    wanted = torch.cov(x.movedim(1, -1).reshape(-1, 4).double().T, correction=0).diagonal()
    torch.testing.assert_close(diagonal, wanted, rtol=1e-4, atol=1e-6)


def test_large_batches_are_passed_through_in_parts(monkeypatch):
    network, seen = hidden(nn.ReLU()), []
    monkeypatch.setattr("sekron.calibration.moments.AT_ONCE", 4)
    network[0].register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    x = torch.randn(9, 4)
    found = moments(network, ["0"], [x])["0"]
    torch.testing.assert_close(found.inputs, outer_mean(x), rtol=1e-5, atol=1e-6)
    assert found.n_positions == 1


class Casting(nn.Module):
    """Runs its layer in half precision by itself."""

    def __init__(self, dtype):
        super().__init__()
        self.layer, self.dtype = nn.Linear(4, 3), dtype

    def forward(self, x):
        with torch.autocast("cpu", self.dtype):
            return self.layer(x).float()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_products_are_not_in_half_precision_where_forward_casts_by_itself(dtype):
    """Those of the second column are more than half precision holds."""
    network, x = seeded(lambda: Casting(dtype)), torch.randn(7, 4) * torch.tensor([1, 300, 1, 1])
    found = moments(network, ["layer"], [x])["layer"].inputs
    torch.testing.assert_close(found, outer_mean(x), rtol=1e-5, atol=1e-3)


def test_a_layer_that_gets_nothing_has_no_moments():
    network = nn.Sequential(nn.Linear(4, 3))
    network.forward = lambda x: (x.requires_grad_(), network[0](x[:0]))
    with pytest.raises(ValueError, match="layer '0' must run on the batches"):
        moments(network, ["0"], [torch.randn(5, 4)])
