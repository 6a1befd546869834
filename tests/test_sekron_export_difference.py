"""What counts as the same output of two runs."""

import math

import pytest
import torch

from sekron.export.difference import largest_difference


def difference(output, expected, **options):
    return largest_difference([torch.as_tensor(output)], [torch.as_tensor(expected)], **options)


@pytest.mark.parametrize(
    ("output", "expected", "apart"),
    [
        ([50_005, 7], [50_000, 7], 5),
        ([50_000, 7], [50_000, 7], 0),
        ([2**60 + 1, 7], [2**60, 7], 1),
        ([True] * 7, [True] * 6 + [False], 1),
        (torch.tensor([3, 4], dtype=torch.uint8), torch.tensor([4, 4], dtype=torch.uint8), 1),
        (torch.tensor([3, 4], dtype=torch.int32), [3, 4], 0),
        (torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), 0),
    ],
)
def test_integers_and_truth_values_are_exact(output, expected, apart):
    assert difference(output, expected) == apart


def test_in_half_precision_integers_are_numbers_like_others():
    assert difference([50_005, 7], [50_000, 7], in_half=True) == 1e-4


def test_both_parts_of_complex_numbers_count():
    expected = torch.tensor([1 + 4j, 2 - 1j])
    assert difference(expected, expected) == 0
    assert difference(torch.tensor([1 + 3j, 2 - 1j]), expected) == 0.25
    assert difference(torch.tensor([2 + 4j, 2 - 1j]), expected) == 0.25
    assert difference(expected.conj(), expected) == 2
    assert difference(torch.tensor([complex(1, math.nan), 2 - 1j]), expected) == math.inf


def test_other_kinds_of_number_are_no_output_of_the_same_network():
    kinds = [torch.ones(2, dtype=dtype) for dtype in (torch.float32, torch.cfloat, torch.int64)]
    for output in kinds:
        for expected in kinds:
            apart = 0 if output is expected else math.inf
            assert difference(output, expected) == apart
    assert difference(torch.ones(2, dtype=torch.bfloat16), kinds[0]) == 0
