"""Fine-tuning against steps by hand, its best weights, and two processes."""

import json
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import sekron
from sekron.calibration.output_kind import KINDS
from sekron.training.finetune import _n_batches
from tests.trained import N, equal, images_and_labels, loader_of, networks, recipe, states

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures("fresh_process")


@pytest.fixture
def data():
    return images_and_labels()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_step_is_that_of_momentum_on_the_loss_and_the_decay_of_products(data, share):
    images, labels = data
    dense, small = networks()
    _, by_hand = networks()
    sekron.finetune(
        small,
        loader_of(images, labels, batch_size=N),
        dense=dense,
        recipe=recipe(decay=0.1, distillation=share, temperature=3.0, clip=0.7),
        progress=False,
    )
    by_hand.train()
    with torch.no_grad():
        wanted = dense.eval()(images)
    output = by_hand(images)
    product = by_hand[3].dense_weight()
    decayed = [by_hand[0].weight, by_hand[5].weight]
    divergence = KINDS["logits"].divergence(output, wanted, 3.0)
    loss = (1 - share) * F.cross_entropy(output, labels) + share * divergence
    torch.autograd.backward(loss + 0.05 * product.square().sum())
    nn.utils.clip_grad_norm_(by_hand.parameters(), 0.7)
    for parameter in by_hand.parameters():
        step = parameter.grad
        if any(parameter is p for p in decayed):
            step = step + 0.1 * parameter.detach()
        # The first step of Nesterov's momentum is 1.9 gradients long.
        torch.testing.assert_close(
            dict(small.named_parameters())[name_of(by_hand, parameter)],
            parameter.detach() - 0.05 * 1.9 * step,
        )


class Moving:
    """Part of a batch that notes where it is brought."""

    def __init__(self):
        self.places = []

    def to(self, device, **_):
        self.places.append(device)
        return self


def test_a_list_of_batches_is_brought_to_the_device_and_teaches_as_a_loader_does(data):
    (_, small), (_, other) = networks(), networks()
    parts = [Moving() for _ in range(N // 8)]
    batches = [(x, y, part) for (x, y), part in zip(loader_of(*data), parts, strict=True)]

    def loss(output, batch):
        return F.cross_entropy(output, batch[1])

    sekron.finetune(small, batches, loss=loss, recipe=recipe(), progress=False)
    sekron.finetune(other, loader_of(*data), loss=loss, recipe=recipe(), progress=False)
    assert equal(states(small), states(other))
    assert [part.places for part in parts] == [[Accelerator().device]] * len(parts)


def test_where_several_processes_train_each_must_get_its_share(data):
    batches = list(zip(*data, strict=True))
    assert _n_batches(batches, 1) == len(batches)
    assert _n_batches(loader_of(*data), 2) == N // 8
    with pytest.raises(ValueError, match=r"^`loader` must be a DataLoader where 2 .*, got list"):
        _n_batches(batches, 2)


def name_of(model, parameter):
    return next(name for name, p in model.named_parameters() if p is parameter)


def test_frozen_parameters_stay(data):
    _, small = networks()
    small[0].requires_grad_(False)
    before = states(small)
    sekron.finetune(small, loader_of(*data), recipe=recipe(), progress=False)
    assert torch.equal(small[0].weight, before["0.weight"])
    assert not torch.equal(small[5].weight, before["5.weight"])


@pytest.mark.parametrize(("scores", "best"), [([3, 2, 1], 0), ([1, 3, 2], 1), ([1, 2, 3], 2)])
def test_the_best_weights_are_kept(data, scores, best):
    _, small = networks()
    seen, left = [], iter(scores)

    def score(model):
        assert not model.training
        seen.append(states(model))
        return next(left)

    epochs = sekron.finetune(
        small, loader_of(*data), score=score, recipe=recipe(epochs=2), progress=False
    )
    assert [epoch.score for epoch in epochs] == scores
    assert equal(states(small), seen[best])


def test_without_a_score_the_last_weights_are_kept(data):
    _, small = networks()
    before = states(small)
    epochs = sekron.finetune(small, loader_of(*data), recipe=recipe(), progress=False)
    assert math.isnan(epochs[1].score)
    assert not equal(states(small), before)


def test_images_alone_teach_with_a_teacher(data):
    dense, small = networks()
    before = states(dense)
    for loader in (loader_of(data[0]), DataLoader(data[0], 8)):
        sekron.finetune(small, loader, dense=dense, recipe=recipe(distillation=1.0), progress=False)
    assert equal(states(dense), before)


def test_train_flags_come_back_and_no_gradients_are_left(data):
    _, small = networks()
    small.eval()
    small[1].train()
    flags = [module.training for module in small.modules()]
    sekron.finetune(small, loader_of(*data), recipe=recipe(), progress=False)
    assert [module.training for module in small.modules()] == flags
    assert all(parameter.grad is None for parameter in small.parameters())


def test_half_precision_runs(data):
    _, small = networks()
    epochs = sekron.finetune(
        small, loader_of(*data), recipe=recipe(mixed_precision="bf16"), progress=False
    )
    assert math.isfinite(epochs[1].loss)
    assert {p.dtype for p in small.parameters()} == {torch.float32}
    assert small(data[0]).dtype == torch.float32  # the network itself is called as before


def test_the_precision_of_a_process_is_that_of_its_first_training(data):
    _, small = networks()
    sekron.finetune(small, loader_of(*data), recipe=recipe(), progress=False)
    with pytest.raises(ValueError, match=r"must stay what it was .* got 'bf16'; start another"):
        sekron.finetune(
            small, loader_of(*data), recipe=recipe(mixed_precision="bf16"), progress=False
        )


def test_a_loss_that_is_not_finite_stops_it_with_the_best_weights(data):
    _, small = networks()
    images = data[0].clone()
    images[-1] = math.nan
    seen = []

    def score(model):
        seen.append(states(model))
        return 0.0

    with pytest.raises(ValueError, match=r"finite, got nan at step 4 of epoch 1; take a smaller"):
        sekron.finetune(
            small, loader_of(images, data[1]), score=score, recipe=recipe(), progress=False
        )
    assert equal(states(small), seen[0])


class Root(nn.Module):
    """Has an infinite gradient at zero, though its value is finite."""

    def forward(self, x):
        return (x * 0.0).abs().sqrt()


def test_a_gradient_that_is_not_finite_stops_it_before_the_step(data):
    _, small = networks()
    small[2] = Root()
    before = states(small)
    with pytest.raises(ValueError, match=r"gradient must be finite, got nan at step 1 of epoch 1"):
        sekron.finetune(small, loader_of(*data), recipe=recipe(), progress=False)
    assert equal(states(small), before)


def test_something_must_want_gradients(data):
    _, small = networks()
    small.requires_grad_(False)
    with pytest.raises(ValueError, match="must have parameters that want gradients"):
        sekron.finetune(small, loader_of(*data), progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "`epochs` must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive, got 0.0"),
        ({"temperature": -1.0}, "`temperature` must be positive"),
        ({"clip": math.nan}, "`clip` must be positive"),
        ({"decay": -1.0}, "`decay` must be at least 0"),
        ({"distillation": 1.5}, "`distillation` between 0 and 1"),
        ({"mixed_precision": "int8"}, "no, fp16 or bf16, got 'int8'"),
    ],
)
def test_a_recipe_is_checked(change, message):
    with pytest.raises(ValueError, match=message):
        sekron.Recipe(**change)


@pytest.mark.slow
def test_two_processes_learn_what_one_does_with_batches_twice_as_large(data, tmp_path):
    torch.save(data, tmp_path / "data.pt")
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import sys, torch, sekron
            from torch import nn
            from tests.trained import loader_of, networks, recipe

            torch.set_num_threads(1)
            dense, small = networks()
            small[1] = nn.Identity()  # batch norm sees the own share of a batch only
            data = torch.load("data.pt")
            epochs = sekron.finetune(
                small, loader_of(*data, batch_size=int(sys.argv[1])), dense=dense,
                score=lambda model: float(model(data[0]).sum()),
                recipe=recipe(epochs=2, decay=0.1), folder=sys.argv[2], progress=False,
            )
            from accelerate import PartialState
            index = PartialState().process_index
            torch.save((small.state_dict(), [e.loss for e in epochs]), f"{sys.argv[2]}-{index}.pt")
            """
        )
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["ACCELERATE_USE_CPU"] = "true"
    together = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    for command in (
        [sys.executable, str(program), "16", "one"],
        [*together, "--standalone", str(program), "8", "two"],
    ):
        subprocess.run(
            command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=120
        )
    one, first, second = (
        torch.load(tmp_path / f"{name}.pt") for name in ("one-0", "two-0", "two-1")
    )
    assert equal(first[0], second[0])
    for name, tensor in one[0].items():
        torch.testing.assert_close(first[0][name], tensor)
    assert first[1][1:] == pytest.approx(one[1][1:])
    assert json.loads((tmp_path / "two/training.json").read_text())["state"].startswith("epoch-2-")


def test_what_is_frozen_in_a_network_that_trains_stays_so(data):
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 5),
    ).train()  # fmt: skip
    network[1].eval()
    images = torch.randn(8, 3, 6, 6)
    loader = [(images, torch.arange(8) % 5)]
    before = network[1].running_mean.clone()
    sekron.finetune(network, loader, recipe=sekron.Recipe(epochs=1, distillation=0), progress=False)
    assert torch.equal(network[1].running_mean, before)
    network.eval()
    sekron.finetune(network, loader, recipe=sekron.Recipe(epochs=1, distillation=0), progress=False)
    assert not torch.equal(network[1].running_mean, before)
