"""Rows of numbers that moments are taken of, of which some are drawn."""

import pytest
import torch
from torch import nn

from sekron.calibration.moments import moments
from sekron.calibration.patches import Drawn, patches_of, rows_of, rows_of_images


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 3, padding=1, groups=1)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(("wanted", "n_rows"), [(2, 2 * 27), (4, 4 * 27), (300, 6 * 20)])
def test_so_many_patches_are_drawn_for_every_number_or_all_of_them(groups, wanted, n_rows):
    layer, x = nn.Conv2d(3, 6, 3, padding=1, groups=groups), torch.randn(6, 3, 5, 4)
    batches = x.split(2)
    drawn = Drawn(27, wanted * groups, batches, seed=0)
    found = [rows for batch in batches for rows in drawn.rows(layer, batch)]
    assert sum(rows.shape[-2] for rows in found) == n_rows
    for rows, batch in zip(found, batches, strict=True):
        every = rows_of(layer, patches_of(layer, batch))
        known = {tuple(row) for row in every.movedim(-2, 0).flatten(1).tolist()}
        assert known.issuperset(tuple(row) for row in rows.movedim(-2, 0).flatten(1).tolist())


def test_all_rows_are_taken_where_no_number_of_them_is_enough(layer):
    x = torch.randn(6, 3, 5, 4)
    (rows,) = Drawn(0, None, iter(()), seed=0).rows(layer, x)
    assert torch.equal(rows, rows_of(layer, x))


def test_images_are_unfolded_a_few_at_a_time(monkeypatch, layer):
    monkeypatch.setattr("sekron.calibration.patches.CHUNK", 4)
    x = torch.randn(6, 3, 5, 4)
    rows, counts = zip(*rows_of_images(layer, x, 27), strict=True)
    assert counts == (4, 2)
    assert torch.equal(torch.cat(rows), rows_of(layer, patches_of(layer, x)))


def test_what_is_drawn_has_about_the_moments_of_all(layer):
    x = torch.randn(400, 3, 12, 12)
    whole = moments(layer, [""], x.split(100), largest_patch=27)[""].inputs
    some = [
        moments(layer, [""], x.split(100), largest_patch=27, rows_per_number=400, seed=1)[""]
        for _ in range(2)
    ]
    assert torch.equal(some[0].inputs, some[1].inputs)
    difference = (some[0].inputs - whole).abs().max()
    assert 0.0 < float(difference) < 6 * (2.0 / (400 * 27)) ** 0.5
