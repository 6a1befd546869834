"""Within the caller's autocast only networks run in half precision, by the weights they have."""

import torch

from sekron.decomposition.metric import Metric
from sekron.training.factor_fit import fit_factors
from tests.trained import equal, networks


def test_factors_are_fitted_in_single_precision():
    metric = Metric(*(torch.eye(8, dtype=torch.float64) for _ in range(2)))
    (dense, small), (_, other) = networks(), networks()
    whole = fit_factors(small[3], dense[3].weight, metric, 5)
    with torch.autocast("cpu", torch.bfloat16):
        found = fit_factors(other[3], dense[3].weight, metric, 5)
    assert found == whole
    assert equal(small.state_dict(), other.state_dict())
