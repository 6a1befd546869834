"""Whatever torch makes by default: networks, searches and repairs have types of their own."""

import pytest
import torch
from torch import nn

import search
import sekron
from sekron.network.surgery import structures_of


@pytest.fixture(params=[torch.float64, torch.bfloat16], ids=str)
def other_default(request):
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(torch.float32)


def network():
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3)
    torch.manual_seed(0)
    return nn.Sequential(*layers).float()


def images():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 3, 10, 10, generator=generator, dtype=torch.float32) for _ in range(2)]


def found(model, calibration):
    return search.run(
        model,
        images()[0][:1],
        budget=search.Budget(flops=0.5),
        n_trials=1,
        calibration=calibration,
        measure_seconds=0,
        progress=False,
    )


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("is_calibrated", [False, True], ids=["plain", "calibrated"])
def test_a_search_and_its_repair_do_not_depend_on_the_default(other_default, is_calibrated):
    model, calibration = network(), images() if is_calibrated else None
    small = found(model, calibration).plan(search.Budget(flops=0.4)).apply(model)
    outcome = sekron.repair(small, model, images(), output="values", progress=False)
    assert outcome.after <= outcome.before
    torch.set_default_dtype(torch.float32)
    expected = found(model, calibration).plan(search.Budget(flops=0.4)).apply(model)
    assert [p.dtype for p in small.parameters()] == [torch.float32 for _ in expected.parameters()]
    assert structures_of(small) == structures_of(expected)
