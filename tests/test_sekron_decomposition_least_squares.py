"""Block least squares against the dense solution of each factor."""

import pytest
import torch

from sekron.decomposition.least_squares import contract, refine_digits
from sekron.structures.families import FAMILIES

RANKS = {
    ("sekron", 3): (2, 3),
    ("chain", 3): (2, 3),
    ("chain", 4): (2, 3, 2),
    ("ring", 3): (2, 3, 2),
    ("ring", 4): (2, 1, 2, 2),
    ("cp", 3): (3,),
    ("tucker", 3): (3, 2),
    ("tucker", 4): (3, 2, 2),
}


def environment_of(factors, bonds, k):
    """Return the others' product as a matrix: what the k-th factor carries, by all other digits."""
    columns = []
    for index in range(factors[k][..., 0].numel()):
        unit = torch.zeros_like(factors[k][..., :1])
        unit.view(-1)[index] = 1.0
        columns.append(contract([*factors[:k], unit, *factors[k + 1 :]], bonds).flatten())
    return torch.stack(columns)


@pytest.mark.parametrize("case", RANKS, ids=str)
def test_a_sweep_solves_for_every_factor_in_turn(case):
    torch.manual_seed(0)
    family, length = case
    bonds, digits = FAMILIES[family](length), torch.randn(5, 4, 3, 6).double()
    if length == 3:
        digits = digits[..., 0]
    factors = [
        torch.randn(*(RANKS[case][b] for b in bonds[k]), n).double()
        for k, n in enumerate(digits.shape)
    ]
    expected = list(factors)
    for k, factor in enumerate(factors):
        columns = digits.movedim(k, 0).flatten(1)
        solved = torch.linalg.lstsq(environment_of(expected, bonds, k).mT, columns.mT).solution
        expected[k] = solved.reshape(factor.shape)
    found = refine_digits(digits, factors, bonds, sweeps=1)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
