"""Where the caller or forward turns gradients off, work goes on or the cause is named."""

import pytest
import torch
from torch import nn

import search
import sekron
from tests.trained import equal, images_and_labels, loader_of, networks, recipe, states

QUIET = {"progress": False}


def calibrated(dense, _, batches):
    budget = search.Budget(flops=0.99)
    options = {"n_trials": 0, "measure_seconds": 0, "include": ["3"], **QUIET}
    return search.run(dense, batches[0], budget=budget, calibration=batches, **options)


WORK = {
    "calibration": calibrated,
    "repair": lambda dense, small, batches: sekron.repair(small, dense, batches, **QUIET),
    "refit": lambda dense, small, batches: sekron.refit(small, dense, batches, steps=2, **QUIET),
    "tune": lambda dense, small, batches: sekron.tune(small, dense, batches, steps=2, **QUIET),
    "finetune": lambda _, small, batches: sekron.finetune(
        small,
        loader_of(torch.cat(batches), torch.zeros(32, dtype=torch.long)),
        recipe=recipe(),
        **QUIET,
    ),
}


@pytest.fixture
def batches():
    return list(images_and_labels()[0].split(8))


@pytest.mark.usefixtures("fresh_process")
@pytest.mark.parametrize("work", WORK)
def test_within_no_grad_all_goes_on_as_without(work, batches):
    found = []
    for context in (torch.enable_grad, torch.no_grad):
        dense, small = networks()
        with context():
            WORK[work](dense, small, batches)
        found.append(states(small))
    assert equal(*found)


@pytest.mark.parametrize("work", WORK)
def test_within_inference_mode_the_cause_is_named(work, batches):
    dense, small = networks()
    before = states(small)
    with (
        torch.inference_mode(),
        pytest.raises(ValueError, match=r"stands within `torch.inference_mode\(\)`; take it out"),
    ):
        WORK[work](dense, small, batches)
    assert equal(states(small), before)


@pytest.mark.parametrize("work", [name for name in WORK if name != "finetune"])
def test_batches_that_were_made_in_inference_mode_are_as_others(work, batches):
    with torch.inference_mode():
        made_within = [batch.clone() for batch in batches]
    found = []
    for given in (batches, made_within):
        dense, small = networks()
        WORK[work](dense, small, given)
        found.append(states(small))
    assert equal(*found)


def test_a_network_that_was_made_in_inference_mode_is_searched_but_not_changed(batches):
    with torch.inference_mode():
        made_within = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8))
    result = search.run(
        made_within,
        batches[0],
        budget=search.Budget(flops=0.7),
        n_trials=0,
        max_sequence_length=2,
        measure_seconds=0,
        **QUIET,
    )
    assert len(result.best) == 1
    sekron.recalibrate(result.best.apply(made_within), batches)
    with pytest.raises(ValueError, match=r"open to changes, but the network was made within `torc"):
        sekron.recalibrate(made_within, batches)
    assert all(tensor.is_inference() for tensor in made_within.state_dict().values())


class Within(nn.Sequential):
    """Turns gradients off itself."""

    off = torch.no_grad

    def forward(self, x):
        with self.off():
            return super().forward(x)


class WithinInference(Within):
    off = torch.inference_mode


@pytest.mark.parametrize("kind", [Within, WithinInference])
@pytest.mark.parametrize("work", [name for name in WORK if name != "finetune"])
def test_where_forward_turns_them_off_the_cause_is_named(work, kind, batches):
    dense, small = (kind(*network) for network in networks())
    before = states(small)
    with pytest.raises(ValueError, match=r"forward may run within `torch.no_grad\(\)` or `infere"):
        WORK[work](dense, small, batches)
    assert equal(states(small), before)


@pytest.mark.usefixtures("fresh_process")
@pytest.mark.parametrize("kind", [Within, WithinInference])
def test_where_forward_turns_them_off_fine_tuning_names_the_cause(kind, batches):
    _, small = networks()
    with pytest.raises(ValueError, match=r"forward may run within `torch.no_grad\(\)` or `infere"):
        WORK["finetune"](None, kind(*small), batches)
