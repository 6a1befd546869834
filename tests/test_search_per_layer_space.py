"""The structures of a layer: closed-form counts, names that mean one thing, neighbours."""

from itertools import pairwise, product
from math import comb, prod

import numpy as np
import pytest
import torch

from search.per_layer.cost import proposal_seconds
from search.per_layer.space import (
    ALL_QUICK,
    MOST_SECONDS,
    Space,
    canonical,
    factorizations,
    n_factorizations,
    nth_factorization,
)
from search.per_layer.work import work_of
from sekron.rank_curves.curves import Spectra
from sekron.structures.families import n_ranks
from sekron.structures.geometry import Geometry
from sekron.structures.structure import Structure


def raw_points(space):
    """All structures without a factor of size 1, before equal ones are identified."""
    for length in range(2, space.max_length + 1):
        columns = [factorizations(size, length) for size in space.weight_shape]
        for choice in product(*columns):
            shapes = tuple(zip(*choice, strict=True))
            if all(max(shape) > 1 for shape in shapes):
                # two factors have one family
                for family in space.families if length > 2 else ("sekron",):
                    yield family, shapes


def points_of(space):
    return {canonical(*point) for point in raw_points(space)}


TREES = ("sekron", "chain")
SMALL = Space((4, 6, 3, 1), 3, TREES)
TABLE = Space((4, 6, 3, 2), 3, TREES)
PRIME = Space((7, 5, 3, 2), 4, TREES)
LINEAR = Space((12, 8), 3, TREES)
every_space = pytest.mark.parametrize(
    "space", [SMALL, TABLE, PRIME, LINEAR], ids=lambda s: "x".join(map(str, s.weight_shape))
)


@pytest.mark.parametrize(
    ("size", "length", "count"), [(6, 1, 1), (32, 2, 6), (32, 3, 21), (12, 3, 18)]
)
def test_factorizations_are_all_ordered_products(size, length, count):
    found = factorizations(size, length)
    assert len(found) == len(set(found)) == count
    assert all(np.prod(factors) == size for factors in found)
    assert n_factorizations(size, length) == count
    assert found == tuple(nth_factorization(size, length, index) for index in range(count))
    for index in (-1, count, 0.5):
        with pytest.raises(IndexError, match=f"{size} has no such product of {length} factors"):
            nth_factorization(size, length, index)


def test_a_factorization_is_found_among_more_than_memory_holds():
    size = 2**15 * 3**9
    count = comb(15 + 7, 7) * comb(9 + 7, 7)  # each prime's powers are shared out among 8
    assert n_factorizations(size, 8) == count == 1_951_023_360
    assert nth_factorization(size, 8, 0) == (1,) * 7 + (size,)
    assert nth_factorization(size, 8, count - 1) == (size,) + (1,) * 7


def test_factorizations_of_a_large_prime_are_found_at_once():
    assert factorizations(2**31 - 1, 2) == ((1, 2**31 - 1), (2**31 - 1, 1))


@pytest.mark.parametrize(("length", "count"), [(2, 14), (3, 36), (4, 24)])
def test_prime_modes_are_split_like_ordered_partitions_of_a_set(length, count):
    # surjections from the four modes on the factors
    space = Space(PRIME.weight_shape, length, ("sekron",))
    assert sum(len(shapes) == length for _, shapes in raw_points(space)) == count


@pytest.mark.parametrize("family", ["sekron", "chain"])
@pytest.mark.parametrize(("length", "count"), [(2, 7), (3, 7 + 18), (4, 7 + 18 + 12)])
def test_half_of_the_templates_are_another_name(family, length, count):
    templates = Space((8, 6, 3, 5), length, (family,)).templates()
    assert len(templates) == len(set(templates)) == count


def test_two_families_share_the_templates_of_two_factors():
    assert len(Space((8, 6, 3, 5), 4, TREES).templates()) == 7 + 2 * 18 + 2 * 12


def test_a_cp_keeps_each_channel_mode_alone_and_is_proposed_as_a_template_only():
    both = [("cp", ((8, 1, 1, 1), (1, 6, 1, 1), (1, 1, 3, 5)))]
    both.append(("cp", ((8, 1, 1, 1), (1, 6, 1, 1), (1, 1, 3, 1), (1, 1, 1, 5))))
    space = Space((8, 6, 3, 5), 4)
    templates = space.templates()
    assert Space((8, 6, 3, 5), 4).templates() is templates  # asked for several times, and made once
    assert [point for point in templates if point[0] == "cp"] == both
    for point in both:
        assert space.point(space.params(point)) == point
        assert space.neighbours(point) == ()
    assert all(family != "cp" for point in templates for family, _ in space.neighbours(point))
    assert {family for family, _ in Space((8, 6), 3).templates()} == {"sekron"}
    assert Space((8, 6), 2, ("cp",)).params(("sekron", ((8, 1), (1, 6))))["family"] == 0


def test_templates_keep_every_mode_whole():
    space = Space((8, 6, 3, 5), 4)
    for _, shapes in space.templates():
        assert all(
            sorted(column)[:-1] == [1] * (len(shapes) - 1) for column in zip(*shapes, strict=True)
        )


def test_a_long_kernel_is_divided_between_two_factors_with_whole_channels():
    whole = set(Space((5, 3, 7, 1), 3).templates())
    templates = Space((5, 3, 12, 1), 3).templates()
    divided = [point for point in templates if sum(shape[2] > 1 for shape in point[1]) > 1]
    assert len(templates) == len(set(templates)) == len(whole) + len(divided)
    # 12 = 2·6 = 3·4 = 4·3 = 6·2, and each channel mode stands in the one factor or in the other
    assert len(set(divided)) == 4 * 2 * 2
    for family, (first, second) in divided:
        assert family == "sekron"
        assert tuple(a * b for a, b in zip(first, second, strict=True)) == (5, 3, 12, 1)
        assert 1 in (first[0], second[0])
        assert 1 in (first[1], second[1])


def test_both_axes_of_a_kernel_are_divided_where_they_can_be():
    shapes = [
        (first[2:], second[2:])
        for _, (first, second) in Space((5, 3, 4, 3), 2, ("chain",)).templates()
        if min(first[2], second[2]) > 1
    ]
    assert sorted(set(shapes)) == [((2, 1), (2, 3)), ((2, 3), (2, 1))]
    assert len(shapes) == 2 * 2 * 2
    slow = Space((5, 3, 4, 3), 2, ("ring",)).templates()  # fitted rank by rank
    assert all(min(first[2], second[2]) == 1 for _, (first, second) in slow)


def test_exhaustive_count_of_a_common_convolution():
    space = Space((32, 32, 3, 3), 3, TREES)
    assert sum(1 for _ in raw_points(space)) == 7_222
    # by inclusion and exclusion over factors of size 1
    pairs = 6 * 6 * 2 * 2 - 2
    triples = 21 * 21 * 3 * 3 - 3 * (6 * 6 * 2 * 2) + 3
    assert pairs + 2 * triples == 7_222


@every_space
def test_parameters_give_the_point_back(space):
    bounds = space.distributions()
    for point in points_of(space):
        params = space.params(point)
        assert space.point(params) == point
        assert list(params) == space.names(len(point[1]))
        assert all(bounds[name].low <= value <= bounds[name].high for name, value in params.items())


@every_space
def test_every_point_is_a_structure_of_the_weight(space):
    for family, shapes in points_of(space):
        structure = Structure(family, shapes, (1,) * n_ranks(family, len(shapes)))
        assert structure.weight_shape == space.weight_shape
        assert len(shapes) <= space.max_length


@pytest.mark.parametrize("family", ["sekron", "chain"])
def test_canonical_names_itself_and_drops_factors_of_size_one(family):
    assert canonical(family, ((2, 1), (1, 1), (3, 4))) == ("sekron", ((2, 1), (3, 4)))
    assert canonical(family, ((1, 1), (6, 4))) is None
    for point in raw_points(TABLE):
        assert canonical(*canonical(*point)) == canonical(*point)


def curve_of(spectra, point):
    curve = spectra.curve(*point)
    return sorted(zip(curve.flops, curve.params, np.round(curve.errors, 9), strict=True))


@pytest.mark.parametrize("family", ["sekron"])  # a reversed chain has only nearly the same errors
def test_points_of_one_name_have_equal_errors_flops_and_params(family):
    torch.manual_seed(0)
    weight = torch.randn(TABLE.weight_shape)
    spectra = Spectra(weight, (Geometry.of(TABLE.weight_shape, (7, 5)),))
    renamed = [p for p in raw_points(TABLE) if p[0] == family and canonical(*p) != p]
    assert len(renamed) >= 18
    for point in renamed:
        assert curve_of(spectra, point) == curve_of(spectra, canonical(*point)), point


def test_a_reversed_chain_costs_the_same():
    for family, shapes in raw_points(TABLE):
        renamed = canonical(family, shapes)
        if family == "chain" and renamed == (family, shapes[::-1]):
            here = Structure(family, shapes, (2, 1))
            there = Structure(*renamed, (1, 2))
            assert here.n_params == there.n_params
            assert here.flops((7, 5), stride=(1, 2)) == there.flops((7, 5), stride=(1, 2))


@every_space
def test_neighbours_are_points_of_the_space(space):
    points = points_of(space)
    for point in points:
        neighbours = space.neighbours(point)
        assert len(neighbours) == len(set(neighbours))
        assert point not in neighbours
        assert points.issuperset(neighbours)
        assert neighbours == space.neighbours(point)


@every_space
def test_every_point_is_reached_from_every_other(space):
    points = points_of(space)
    seen, fresh = set(), {min(points)}
    while fresh:
        seen |= fresh
        fresh = {n for point in fresh for n in space.neighbours(point)} - seen
    assert seen == points


def test_neighbourhood_is_symmetric_where_nothing_commutes():
    def fixed(point):  # no factors are disjoint, so the point has one name only
        return all(
            any(min(pair) > 1 for pair in zip(a, b, strict=True)) for a, b in pairwise(point[1])
        )

    points = [point for point in points_of(SMALL) if fixed(point)]
    assert len(points) > 20
    for point in points:
        for neighbour in SMALL.neighbours(point):
            assert not fixed(neighbour) or point in SMALL.neighbours(neighbour)


@every_space
def test_pairs_are_all_points_of_two_factors(space):
    assert set(space.pairs()) == {p for p in points_of(space) if len(p[1]) == 2}


@pytest.mark.parametrize(
    ("families", "wanted"),
    [
        (("ring", "cp"), {"ring"}),
        (("tucker", "ring", "cp"), {"ring", "tucker"}),
        (("chain", "ring", "cp"), {"sekron", "ring"}),
        (("sekron", "cp"), {"sekron"}),
        (("cp",), {"sekron"}),
    ],
    ids=lambda named: "-".join(sorted(named)),
)
def test_two_factors_are_proposed_in_a_family_that_is(families, wanted):
    """A `cp` is proposed only where it is alone, and by two factors it is a `sekron`."""
    space = Space(TABLE.weight_shape, 2, families)
    assert {family for family, _ in space.templates()} >= wanted
    assert {family for family, _ in space.pairs()} == wanted
    near = {n for point in space.templates() for n in space.neighbours(point)}
    assert {family for family, _ in near} == wanted
    assert all(space.params(n)["family"] <= space.last_proposed for n in near)


def test_a_weight_that_cannot_be_divided_has_no_points():
    space = Space((7, 1), 3)
    assert [*space.templates(), *space.pairs()] == []


@pytest.mark.parametrize("shape", [(16384, 4096), (8192, 8192)])
def test_only_templates_may_take_very_long(shape):
    def seconds(points):
        return max(work_of(point).seconds for point in points)

    space = Space(shape)
    (template,) = space.templates()
    near = space.neighbours(template)
    assert 0.5 * MOST_SECONDS < seconds(space.pairs()) <= MOST_SECONDS
    assert seconds(near) <= MOST_SECONDS < seconds(space.templates())
    left_out = ("sekron", ((128, 64), (128, 64))), ("chain", ((16, 1), (1024, 1), (1, 4096)))
    assert work_of(left_out[0]).seconds > MOST_SECONDS
    assert not set(left_out).intersection(space.pairs(), near)


def test_of_other_layers_nothing_takes_too_long():
    for shape in [(4096, 2048), (2880, 2880), (960, 960, 3, 3)]:
        space = Space(shape)
        assert 0.98 * ALL_QUICK < prod(shape) <= ALL_QUICK  # so that nothing is left out
        near = {n for point in space.templates() for n in space.neighbours(point)}
        assert all(work_of(point).seconds <= MOST_SECONDS for point in near)


WIDE = (128, 1024, 64, 1)


def test_in_a_metric_divided_channels_take_as_long_as_their_errors_are_rebuilt():
    def slower(point):
        return work_of(point, in_metric=True).seconds / work_of(point).seconds

    divided, whole = ((8, 1024, 1, 1), (16, 1, 64, 1)), ((128, 1, 1, 1), (1, 1024, 64, 1))
    assert slower(("sekron", divided)) > 5
    assert slower(("sekron", whole)) == 1
    longer = ((8, 1024, 1, 1), (16, 1, 8, 1), (1, 1, 8, 1))
    assert slower(("chain", longer)) > slower(("sekron", longer))
    space = Space(WIDE, 2)
    assert proposal_seconds(space, 1, in_metric=True) > 5 * proposal_seconds(space, 1)
