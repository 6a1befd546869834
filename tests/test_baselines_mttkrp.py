"""The product of alternating least squares, against its definition."""

import pytest
import tensorly as tl
import torch
from tensorly.tenalg import unfolding_dot_khatri_rao

from baselines.mttkrp import frugal, mttkrp


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("shape", [(3, 4), (5, 4, 3, 2), (2, 3, 7, 4, 2)], ids=str)
def test_it_equals_the_sum_over_all_other_modes(shape, weighted):
    torch.manual_seed(0)
    tensor = torch.randn(shape, dtype=torch.complex128)
    factors = [torch.randn(size, 6, dtype=torch.complex128) for size in shape]
    weights = torch.rand(6, dtype=torch.float64).to(tensor) if weighted else None
    letters = "abcde"[: len(shape)]
    for mode, own in enumerate(letters):
        others = [m for m in range(len(shape)) if m != mode]
        terms = ",".join([letters, *(f"{letters[m]}r" for m in others)])
        expected = torch.einsum(f"{terms}->{own}r", tensor, *(factors[m].conj() for m in others))
        found = mttkrp(tensor, (weights, factors), mode)
        torch.testing.assert_close(found, expected if weights is None else expected * weights)


def test_tensorly_uses_it_inside_only(monkeypatch):
    calls = []
    monkeypatch.setattr("baselines.mttkrp.torch.tensordot", lambda *_: calls.append(1))
    before = tl.tenalg.get_backend()
    operands = torch.ones(2, 3), (None, [torch.ones(2, 1), torch.ones(3, 1)]), 0
    with tl.backend_context("pytorch", local_threadsafe=True):
        with frugal():
            unfolding_dot_khatri_rao(*operands)
        assert calls == [1]
        assert unfolding_dot_khatri_rao(*operands).tolist() == [[3.0], [3.0]]
    assert calls == [1]
    assert tl.tenalg.get_backend() == before
