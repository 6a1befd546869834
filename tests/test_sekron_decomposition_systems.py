"""Systems of several matrices against NumPy; with two threads torch's own solver never ends."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sekron.decomposition.systems import invert_each, solve_each

ROOT = Path(__file__).parents[1]
REFIT = """
import torch, sekron
from sekron import Plan, Structure

torch.set_num_threads(2)
torch.manual_seed(0)
layers = [torch.nn.Conv2d(n, 320, 1, groups=2) for n in (8, 320)]
network = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1])
structure = Structure("cp", ((160, 1, 1, 1), (1, 160, 1, 1)), (40,), groups=2)
images = [torch.randn(256, 8, 2, 2)]
small = Plan({"2": structure}).apply(network)
print(sekron.refit(small, network, images, steps=3, progress=False))
"""


@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 2)])
def test_every_matrix_has_its_own_solution(batch):
    torch.manual_seed(0)
    matrices = torch.randn(*batch, 5, 5, dtype=torch.float64)
    right = torch.randn(*batch, 5, 3, dtype=torch.float64)
    solved, inverses = solve_each(matrices, right), invert_each(matrices)
    np.testing.assert_allclose(solved, np.linalg.solve(matrices, right))
    np.testing.assert_allclose(inverses, np.linalg.inv(matrices))


def test_a_refit_of_wide_groups_ends_with_two_threads():
    done = subprocess.run(
        [sys.executable, "-c", REFIT],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,  # seconds, where it takes a few
    )
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout) < 1  # of the divergence before
