"""Gradients that were there before are there again, and none that came meanwhile."""

import pytest
import torch

from sekron.training.gradients_aside import gradients_aside


@pytest.mark.parametrize("fails", [False, True])
def test_gradients_of_the_caller_are_put_aside(fails):
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    first.grad = torch.full((2,), 3.0)
    try:
        with gradients_aside([first, second]):
            assert first.grad is None
            (first * second).sum().backward()
            assert torch.equal(first.grad, second.detach())
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert torch.equal(first.grad, torch.full((2,), 3.0))
    assert second.grad is None
