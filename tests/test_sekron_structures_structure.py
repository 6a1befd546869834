"""A structure: its text, its rules, and the numbers that the method states about it."""

from dataclasses import FrozenInstanceError
from math import prod

import pytest

from sekron import SeKronConv2d, SeKronLinear, Structure
from sekron.structures.families import FAMILIES, n_ranks, whole_channels

TEXTS = [
    "chain:7x5x3x2",
    "sekron:7x3x1x2,2x5x3x1@4",
    "sekron:2x3x1x1,5x2x3x1,1x1x1x3@2,3",
    "chain:2x3x1x1,5x1x3x1,1x2x1x3@4,3",
    "ring:3x1x1x1,2x5x1x1,1x2x3x1,1x1x1x2@2,3,2,3",
    "cp:7x1x1x1,1x5x1x1,1x1x3x2@4",
    "tucker:7x1x1x1,1x5x1x1,1x1x3x2,1x1x1x1@3,2,4",
    "sekron:3x2,2x5@3",
    "chain:11x1x1,1x7x1,1x1x3@5,2",
    "cp:5x1x1x1x1,1x3x3x1x1,1x1x1x3x2@2",
]
BONDS = {
    "sekron": ((0,), (0, 1), (0, 1, 2), (0, 1, 2)),
    "chain": ((0,), (0, 1), (1, 2), (2,)),
    "ring": ((0, 3), (0, 1), (1, 2), (2, 3)),
    "cp": ((0,), (0,), (0,), (0,)),
    "tucker": ((0,), (1,), (2,), (0, 1, 2)),
}
SIZES = ((7, 1, 1, 1), (1, 5, 1, 1), (1, 1, 3, 2))
MAX_RANKS = {"sekron": (7, 5), "chain": (7, 6), "ring": (210,) * 3, "cp": (30,), "tucker": (7, 5)}


@pytest.mark.parametrize("text", TEXTS)
def test_text_to_structure_to_text(text):
    structure = Structure.parse(text)
    assert str(structure) == text
    assert Structure.parse(str(structure)) == structure
    assert hash(Structure.parse(text)) == hash(structure)


@pytest.mark.parametrize("text", TEXTS)
def test_n_params_is_the_sum_of_numel(text):
    structure = Structure.parse(text)
    assert structure.n_params == sum(prod(shape) for shape in structure.factor_shapes)
    layers = {4: SeKronConv2d, 2: SeKronLinear}
    if len(structure.weight_shape) in layers:
        layer = layers[len(structure.weight_shape)](structure, bias=False)
        assert structure.n_params == sum(p.numel() for p in layer.parameters())
        assert tuple(tuple(a.shape) for a in layer.factors()) == structure.factor_shapes


@pytest.mark.parametrize("family", FAMILIES)
def test_bonds_follow_the_table_of_families(family):
    assert FAMILIES[family](4) == BONDS[family]
    structure = Structure(family, ((2, 1),) * 4, (1,) * n_ranks(family, 4))
    assert structure.bonds == BONDS[family]


def test_sekron_and_chain_coincide_for_two_factors():
    assert FAMILIES["sekron"](2) == FAMILIES["chain"](2)


def test_weight_shape_is_the_product_in_every_mode():
    structure = Structure.parse("sekron:2x3x1x1,5x2x3x1,1x1x1x7@2,3")
    assert structure.weight_shape == (10, 6, 3, 7)
    assert structure.factor_shapes == ((2, 2, 3, 1, 1), (2, 3, 5, 2, 3, 1), (2, 3, 1, 1, 1, 7))
    assert structure.length == 3


def test_dense_is_one_factor():
    structure = Structure.dense((7, 5, 3, 2))
    assert structure.length == 1
    assert structure.n_params == 210
    assert structure.flops((13, 11)) == 210 * 13 * 11


def test_structures_are_frozen():
    structure = Structure.parse(TEXTS[1])
    with pytest.raises(FrozenInstanceError):
        structure.ranks = (1,)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("chain:7x1x3x1,1x5x1x2@2", (True, True)),
        ("chain:7x5x3x1,1x1x1x2@2", (True, True)),
        ("chain:1x5x3x3,7x1x3x3@2", (True, True)),
        ("chain:7x5x3x3,2x1x1x1@2", (False, True)),
        ("chain:7x5x3x3,1x2x1x1@2", (True, False)),
    ],
)
def test_channels_are_whole_where_one_factor_holds_them(text, whole):
    assert whole_channels(Structure.parse(text).shapes) == whole


@pytest.mark.parametrize("family", FAMILIES)
def test_largest_rank_is_allowed_and_one_more_is_not(family):
    ranks = MAX_RANKS[family]
    assert Structure(family, SIZES, ranks).ranks == ranks
    for bond in range(len(ranks)):
        above = tuple(r + (b == bond) for b, r in enumerate(ranks))
        with pytest.raises(
            ValueError, match=rf"rank {bond + 1} of .* must be at most {ranks[bond]}"
        ):
            Structure(family, SIZES, above)


def test_chain_rank_is_bounded_by_the_rank_before_it():
    assert Structure("chain", SIZES, (1, 5)).ranks == (1, 5)
    with pytest.raises(ValueError, match=r"rank 2 .* must be at most 5"):
        Structure("chain", SIZES, (1, 6))


@pytest.mark.parametrize(
    ("family", "shapes", "ranks", "message"),
    [
        ("kron", SIZES, (1, 1), "family must be one of sekron, chain.* got 'kron'"),
        ("sekron", SIZES, (1,), "'sekron' with 3 factors has 2 ranks, got 1"),
        ("cp", SIZES, (1, 1), "'cp' with 3 factors has 1 ranks, got 2"),
        ("ring", SIZES, (1, 1), "'ring' with 3 factors has 3 ranks, got 2"),
        ("chain", (), (), "same number of modes"),
        ("chain", ((7,),), (), "at least .out, in."),
        ("chain", ((7, 1), (1, 5, 1)), (1,), "same number of modes"),
        ("chain", ((7, 0), (1, 5)), (1,), "at least 1, got 'chain:7x0,1x5@1'"),
        ("chain", ((7, 1), (1, 5)), (0,), "at least 1, got 'chain:7x1,1x5@0'"),
        ("cp", ((7, 5),), (1,), "'cp' needs at least 2 factors, got 1"),
    ],
)
def test_rules_of_a_structure(family, shapes, ranks, message):
    with pytest.raises(ValueError, match=message):
        Structure(family, shapes, ranks)


@pytest.mark.parametrize(
    "text", ["", "chain", "chain:", "chain:7xx1@2", "chain:7x1,ax5@2", "chain:7x1,1x5@2,", "7x1@2"]
)
def test_unparsable_text_shows_the_form(text):
    with pytest.raises(ValueError, match="a structure reads 'family:shape,shape,…@rank,…', for ex"):
        Structure.parse(text)


@pytest.mark.parametrize(
    ("text", "ratio"),
    [
        ("chain:64x1x3x1,1x64x1x3@17", 5.65),
        ("sekron:16x16x3x1,4x4x1x3@8", 1.2),
        ("sekron:8x8x3x1,8x8x1x3@17", 1 / 1.4),
    ],
)
def test_equal_parameters_are_not_equal_flops(text, ratio):
    structure, dense = Structure.parse(text), Structure.dense((64, 64, 3, 3))
    assert dense.n_params / structure.n_params == pytest.approx(5.65, abs=0.005)
    saving = dense.flops((32, 32)) / structure.flops((32, 32))
    assert saving == pytest.approx(ratio, rel=0.04)


def test_tensor_train_stores_less_than_untied_sekron():
    shapes = ((2, 1, 1, 1), (1, 3, 1, 1), (1, 1, 5, 1), (1, 1, 1, 7))
    chain = Structure("chain", shapes, (2, 3, 2))
    assert chain.n_params == 2 * 2 + 2 * 3 * 3 + 3 * 5 * 2 + 2 * 7
    assert chain.n_params < Structure("sekron", shapes, (2, 3, 2)).n_params
