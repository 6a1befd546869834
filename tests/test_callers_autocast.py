"""Within the caller's autocast only networks run in half precision, by the weights they have."""

import pytest
import torch

import sekron
from sekron.decomposition.metric import Metric
from sekron.training.factor_fit import fit_factors
from tests.test_callers_random_numbers import LAYERS
from tests.trained import equal, networks


def test_factors_are_fitted_in_single_precision():
    metric = Metric(*(torch.eye(8, dtype=torch.float64) for _ in range(2)))
    (dense, small), (_, other) = networks(), networks()
    whole = fit_factors(small[3], dense[3].weight, metric, 5)
    with torch.autocast("cpu", torch.bfloat16):
        found = fit_factors(other[3], dense[3].weight, metric, 5)
    assert found == whole
    assert equal(small.state_dict(), other.state_dict())


@pytest.mark.parametrize("name", LAYERS)
def test_factors_are_multiplied_out_in_their_own_precision(name):
    kind, dense, text = LAYERS[name]
    is_linear = kind is sekron.SeKronLinear
    make = kind.from_linear if is_linear else kind.from_conv
    layer = make(dense, sekron.Structure.parse(text))
    weight = layer.dense_weight()
    with torch.autocast("cpu", torch.bfloat16):
        plain = layer.to_linear() if is_linear else layer.to_conv()
    assert torch.equal(plain.weight, weight)
    meta = layer.to("meta").dense_weight()
    assert (meta.shape, meta.dtype) == (weight.shape, weight.dtype)
