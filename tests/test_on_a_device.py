"""What is done to a network on a device is done there, and comes out as on the CPU."""

import copy

import pandas as pd
import pytest
import torch
from torch import nn

import search
import sekron
from search.per_layer.space import Space
from sekron import Structure, decompose
from sekron.decomposition.cp import fit_cp
from sekron.decomposition.metric import Metric
from sekron.rank_curves.curves import Spectra
from sekron.structures.families import FAMILIES, n_ranks
from sekron.structures.geometry import Geometry
from tests.pretended_device import DEVICE, PretendedDevice

PLAN = sekron.Plan(
    {
        "3": Structure.parse("chain:12x1x1x1,1x8x3x3@3"),
        "6": Structure.parse("cp:12x1x1x1,1x12x1x1,1x1x3x3@6"),
        "8": Structure.parse("sekron:20x1x1x1,1x12x1x1@4"),
    }
)


@pytest.fixture
def device():
    """A device to move tensors to.

    What is compared with it runs beside it, not before: torch takes other paths to eigenvalues
    where it is watched, to the same numbers but for the last digit.
    """
    with PretendedDevice() as made:
        yield made


@pytest.fixture(scope="module")
def batches():
    """Images for `small_network`."""
    torch.manual_seed(2)
    return [torch.randn(12, 3, 14, 11) for _ in range(3)]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda x: x + torch.ones(3), "on one device"),
        (lambda x: torch.cat([x, torch.ones(3)]), "on one device"),
        (lambda x: nn.functional.linear(torch.ones(1, 3), x[None]), "on one device"),
        (lambda x: x.numpy(), r"use `\.cpu\(\)`"),
        (lambda x: torch.randn(3, generator=torch.Generator(), device=x.device), "a generator of"),
    ],
)
def test_a_pretended_device_refuses_what_a_real_one_does(device, wrong, error):
    with pytest.raises((RuntimeError, TypeError), match=error):
        wrong(torch.zeros(3).to(DEVICE))


@pytest.mark.usefixtures("device")
def test_what_comes_of_a_pretended_device_is_there():
    x = torch.randn(3, 3).to(DEVICE).requires_grad_()
    x.square().sum().backward()
    layer = nn.Linear(3, 3).to(DEVICE)
    for there in (x.grad, x[0], x.T, nn.Parameter(x), torch.zeros_like(x), x.new_tensor([1.0])):
        assert there.device == DEVICE
    for there in (layer.weight, copy.deepcopy(layer).weight, layer(x), torch.zeros(2).to(x)):
        assert there.device == DEVICE
    assert x.cpu().device == layer.to("cpu").weight.device == torch.device("cpu")
    assert not torch.equal(torch.rand_like(x).cpu(), torch.rand_like(x.cpu()))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rank_curve_is_computed_on_the_device(device, small_weight, family):
    calls = (Geometry.of(tuple(small_weight.shape), (7, 5)),)
    here, there = (Spectra(w, calls) for w in (small_weight, small_weight.to(DEVICE)))
    space = Space(tuple(small_weight.shape), 3, (family,))
    for _, shapes in space.templates()[::24]:
        expected = here.curve(family, shapes)
        device.left_on_cpu.clear()
        device.n_fetched = 0
        found = there.curve(family, shapes)
        assert device.n_fetched <= 1
        assert not device.left_on_cpu
        assert found.ranks.tolist() == expected.ranks.tolist()
        assert found.errors.tolist() == expected.errors.tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_factors_in_a_metric_of_the_cpu_are_computed_on_the_device(device, small_weight, family):
    torch.manual_seed(3)
    roots = [torch.randn(n, n, dtype=torch.float64) for n in small_weight.shape[:2]]
    metric = Metric(*(r @ r.T + torch.eye(len(r)) for r in roots))
    shapes = ((8, 1, 1, 1), (1, 6, 1, 1), (1, 1, 3, 2))
    structure = Structure(family, shapes, (2,) * n_ranks(family, 3))
    expected = decompose(small_weight, structure, metric=metric)
    device.left_on_cpu.clear()
    found = decompose(small_weight.to(DEVICE), structure, metric=metric)
    assert not device.left_on_cpu
    assert all(map(torch.equal, (factor.cpu() for factor in found), expected))


def test_nothing_is_fetched_while_a_cp_is_fitted(device, small_weight):
    fit_cp(small_weight.to(DEVICE), 4, torch.Generator())
    assert device.n_fetched == 0


@pytest.mark.parametrize("is_calibrated", [False, True])
def test_a_search_on_a_device_is_that_on_the_cpu(
    device, small_network, small_input, batches, is_calibrated
):
    here = _searched(small_network, small_input, batches if is_calibrated else None)
    network, example, moved = _moved(small_network, small_input, batches)
    device.left_on_cpu.clear()
    there = _searched(network, example, moved if is_calibrated else None)
    assert not device.left_on_cpu
    assert there.best == here.best
    pd.testing.assert_frame_equal(there.candidates(), here.candidates(), check_exact=True)
    _check_equal(there.best.apply(network), here.best.apply(small_network))


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("mend", [sekron.repair, sekron.tune])
def test_a_network_on_a_device_is_repaired_as_on_the_cpu(
    device, small_network, small_input, batches, mend, monkeypatch
):
    # only on the CPU do images lie with their channels last, which rounds otherwise
    monkeypatch.setattr("sekron.training.channels_last._with_channels_last", lambda image: image)
    network, _, moved = _moved(small_network, small_input, batches)
    small, expected = PLAN.apply(network), PLAN.apply(small_network)
    options = {"steps": 8} if mend is sekron.tune else {}
    mend(expected, small_network, batches, output="values", progress=False, **options)
    device.left_on_cpu.clear()
    mend(small, network, moved, output="values", progress=False, **options)
    assert not device.left_on_cpu
    _check_equal(small, expected)
    with pytest.raises(AssertionError):
        _check_equal(small, PLAN.apply(small_network))


def test_a_network_on_a_device_is_kept_and_opened_there(device, small_network, tmp_path):
    network = copy.deepcopy(small_network).to(DEVICE)
    small = PLAN.apply(network)
    sekron.save(small, tmp_path / "small.safetensors")
    device.left_on_cpu.clear()
    _check_equal(sekron.load(network, tmp_path / "small.safetensors"), small)
    assert not device.left_on_cpu


def _searched(network, example, calibration):
    return search.run(
        network,
        example,
        budget=search.Budget(flops=0.8),
        n_trials=1,
        include=["6"],
        calibration=calibration,
        measure_seconds=0,
        n_threads=1,
        progress=False,
    )


def _moved(network, example, batches):
    return copy.deepcopy(network).to(DEVICE), example.to(DEVICE), [x.to(DEVICE) for x in batches]


def _check_equal(network, expected):
    """Check that a network is on the device, with the numbers of another."""
    found, wanted = network.state_dict(), expected.state_dict()
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        assert tensor.device == DEVICE
        assert torch.equal(tensor.cpu(), wanted[name].cpu()), name
