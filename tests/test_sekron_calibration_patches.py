"""Rows of numbers that moments are taken of, of which some are drawn."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sekron
from sekron.calibration import patches
from sekron.calibration.moments import moments
from sekron.calibration.patches import Drawn, channels_of, inputs_at, patches_of, rows_needed


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 3, padding=1, groups=1)


@pytest.fixture
def enough(monkeypatch):
    """Set how many rows are enough."""

    def put(rows, per_number=1):
        monkeypatch.setattr(patches, "ENOUGH", rows)
        monkeypatch.setattr(patches, "FEWEST_PER_NUMBER", per_number)

    return put


def rows_of(positions, chosen=None):
    return torch.cat(list(positions.rows(chosen)), dim=-2)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"padding": 1}, (6, 4, 5, 4)),
        ({"padding": 2, "dilation": 2, "stride": (2, 1)}, (6, 4, 5, 4)),
        ({"groups": 2}, (6, 4, 5, 4)),
    ],
)
def test_patches_are_what_unfold_finds(options, shape):
    layer, x = nn.Conv2d(4, 6, 3, **options), torch.randn(shape)
    own = {name: getattr(layer, name) for name in ("padding", "dilation", "stride")}
    wanted = F.unfold(x, 3, **own).mT.flatten(0, 1)
    if layer.groups == 2:
        wanted = torch.stack(wanted.chunk(2, dim=1))
    found = patches_of(layer, x)
    assert torch.equal(rows_of(found), wanted)
    assert (found.count, found.width) == (wanted.shape[-2], wanted.shape[-1])
    chosen = torch.tensor([found.count - 1, 0, 3, 3])
    assert torch.equal(rows_of(found, chosen), wanted[..., chosen, :])


@pytest.mark.parametrize(
    ("layer", "x"), [(nn.Linear(3, 2), (4, 5, 3)), (nn.Conv1d(3, 2, 3), (4, 3, 5))]
)
def test_channels_are_the_last_axis_of_a_linear_layer_and_axis_1_of_others(layer, x):
    x = torch.randn(x)
    wanted = (x if isinstance(layer, nn.Linear) else x.movedim(1, -1)).reshape(-1, 3)
    found = channels_of(layer, x)
    assert torch.equal(rows_of(found), wanted)
    chosen = torch.tensor([19, 7])
    assert torch.equal(rows_of(found, chosen), wanted[chosen])


@pytest.mark.parametrize("chosen", [None, torch.tensor([5, 100, 5, 119, 0, 7])])
def test_rows_come_some_at_a_time(monkeypatch, layer, chosen):
    positions = patches_of(layer, torch.randn(6, 3, 5, 4))
    whole = rows_of(positions, chosen)
    monkeypatch.setattr(patches, "PIECE", 27 * 45)
    pieces = list(positions.rows(chosen))
    assert [len(rows) for rows in pieces] == ([40, 40, 40] if chosen is None else [6])
    monkeypatch.setattr(patches, "PIECE", 27 * 2)
    pieces = list(positions.rows(chosen))
    assert {len(rows) for rows in pieces} == ({20} if chosen is None else {2})
    assert torch.equal(torch.cat(pieces), whole)


def test_wide_layers_need_rows_for_every_number():
    assert rows_needed(27) == rows_needed(2000) == 100_000
    assert rows_needed(2304) == 50 * 2304


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(("wanted", "n_rows"), [(54, 54), (108, 108), (8100, 6 * 20)])
def test_so_many_patches_are_drawn_as_are_enough_or_all_of_them(enough, groups, wanted, n_rows):
    enough(wanted)
    layer, x = nn.Conv2d(3, 6, 3, padding=1, groups=groups), torch.randn(6, 3, 5, 4)
    batches = x.split(2)
    draws = Drawn(27, batches, seed=0)
    found = [torch.cat(list(draws.rows(layer, batch)), dim=-2) for batch in batches]
    assert sum(rows.shape[-2] for rows in found) == n_rows
    for rows, batch in zip(found, batches, strict=True):
        every = rows_of(patches_of(layer, batch))
        known = {tuple(row) for row in every.movedim(-2, 0).flatten(1).tolist()}
        assert known.issuperset(tuple(row) for row in rows.movedim(-2, 0).flatten(1).tolist())


def test_all_rows_are_taken_where_no_number_of_them_is_enough(enough, layer):
    enough(1)
    x = torch.randn(6, 3, 5, 4)
    for largest in (0, 27):
        (rows,) = Drawn(largest, None, seed=0).rows(layer, x)
        assert torch.equal(rows, rows_of(inputs_at(layer, x, largest)))


def test_what_is_drawn_has_about_the_moments_of_all(enough, layer):
    enough(400 * 27)
    x = torch.randn(400, 3, 12, 12)
    whole = moments(layer, [""], x.split(100), largest_patch=27)[""].inputs
    some = [
        moments(layer, [""], x.split(100), largest_patch=27, draws_rows=True, seed=1)[""]
        for _ in range(2)
    ]
    assert torch.equal(some[0].inputs, some[1].inputs)
    difference = (some[0].inputs - whole).abs().max()
    assert 0.0 < float(difference) < 6 * (2.0 / (400 * 27)) ** 0.5


def test_what_is_drawn_does_not_depend_on_the_default_device(enough, layer):
    enough(54)
    x = [torch.randn(4, 3, 5, 4)]
    options = {"largest_patch": 27, "draws_rows": True}
    for output in ("logits", "values"):
        wanted = moments(layer, [""], x, output=output, **options)[""]
        with torch.device("meta"):
            found = moments(layer, [""], x, output=output, **options)[""]
        assert torch.equal(found.inputs, wanted.inputs)
        assert torch.equal(found.gradients, wanted.gradients)


@pytest.mark.parametrize(
    ("one", "both"),
    [
        (nn.Conv2d(3, 4, 3, dilation=(2,)), nn.Conv2d(3, 4, 3, dilation=2)),
        (nn.Conv2d(3, 4, 3, stride=(2,), padding=(1,)), nn.Conv2d(3, 4, 3, stride=2, padding=1)),
    ],
)
def test_one_size_stands_for_all_axes(one, both):
    x = torch.randn(2, 3, 7, 8)
    assert torch.equal(rows_of(patches_of(one, x)), rows_of(patches_of(both, x)))


class EachAlone(nn.Module):
    """Calls its layers without an axis for images."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        return torch.stack([self.layers(image) for image in x])


@pytest.mark.parametrize("largest_patch", [0, 1000])
@pytest.mark.parametrize("size", [8, 12])  # 8: as many rows as channels
def test_images_may_come_one_by_one(size, largest_patch):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 3, padding=1))
    batches = [torch.randn(4, 3, size, size) for _ in range(2)]
    options = {"output": "values", "largest_patch": largest_patch}
    found = moments(EachAlone(layers), ["layers.0", "layers.2"], batches, **options)
    wanted = moments(layers, ["0", "2"], batches, **options)
    for name, own in found.items():
        other = wanted[name.removeprefix("layers.")]
        torch.testing.assert_close(own.inputs, other.inputs, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(own.gradients, other.gradients, rtol=1e-5, atol=1e-6)
        assert own.n_positions == other.n_positions


def test_a_network_of_single_images_is_repaired_as_that_of_all():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 3, padding=1))
    batches = [torch.randn(4, 3, 8, 8) for _ in range(2)]
    structure = sekron.Structure.parse("chain:8x1x3x1,1x3x1x3@3")
    small = sekron.Plan({"0": structure}).apply(layers)
    alone = sekron.Plan({"layers.0": structure}).apply(EachAlone(layers))
    outcomes = [
        sekron.repair(network, dense, batches, output="values", progress=False)
        for network, dense in ((small, layers), (alone, EachAlone(layers)))
    ]
    assert outcomes[1].after == pytest.approx(outcomes[0].after, rel=1e-2)
    assert outcomes[1].after < outcomes[1].before


@pytest.mark.parametrize("groups", [1, 3])
def test_no_images_have_no_rows(groups):
    positions = inputs_at(nn.Conv2d(6, 9, 3, groups=groups), torch.empty(0, 6, 5, 5), 2304)
    rows = torch.cat(list(positions.rows(None)), dim=-2)
    assert rows.shape == (*([groups] * (groups > 1)), 0, 54 // groups)
