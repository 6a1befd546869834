"""A training that was stopped goes on as if it had not been, from its own folder only."""

import itertools
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import sekron
from sekron.training.random_state import random_state, set_random_state
from tests.trained import equal, images_and_labels, loader_of, networks, recipe, states

pytestmark = pytest.mark.usefixtures("fresh_process")


@pytest.fixture
def data():
    return images_and_labels()


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("own", [False, True], ids=["torch's order", "the loader's own order"])
def test_one_that_was_stopped_goes_on_as_if_it_had_not_been(data, tmp_path, own):
    def score(model):
        return -float(F.cross_entropy(model(data[0]), data[1]))

    calls = itertools.count(1)

    def stopping(model):
        if next(calls) == 4:
            raise Interrupted
        return score(model)

    def loader():
        order = torch.Generator().manual_seed(5) if own else None
        return DataLoader(TensorDataset(*data), 8, shuffle=True, generator=order)

    plan = recipe(epochs=5)
    dense, whole = networks()
    torch.manual_seed(3)
    epochs = sekron.finetune(whole, loader(), dense=dense, score=score, recipe=plan, progress=False)
    _, parted = networks()
    torch.manual_seed(3)
    with pytest.raises(Interrupted):
        sekron.finetune(
            parted,
            loader(),
            dense=dense,
            score=stopping,
            recipe=plan,
            folder=tmp_path,
            progress=False,
        )
    _, parted = networks()
    again = sekron.finetune(
        parted, loader(), dense=dense, score=score, recipe=plan, folder=tmp_path, progress=False
    )
    assert [e.epoch for e in again] == [0, 1, 2, 3, 4, 5]
    assert again[1:] == epochs[1:]
    assert equal(states(parted), states(whole))


def test_a_finished_training_is_not_done_again(data, tmp_path):
    _, small = networks()
    first = sekron.finetune(
        small, loader_of(*data), recipe=recipe(), folder=tmp_path, progress=False
    )
    after = states(small)
    _, small = networks()
    second = sekron.finetune(
        small, loader_of(*data), recipe=recipe(), folder=tmp_path, progress=False
    )
    assert equal(states(small), after)
    assert second[1].loss == first[1].loss


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": recipe(epochs=2)},
        {"dense": True},
        {"score": lambda _: 0.0},
        {"loader": True},
        {"model": nn.Sequential(nn.Conv2d(3, 4, 6), nn.Flatten())},
    ],
    ids=["recipe", "teacher", "score", "batches", "network"],
)
def test_a_folder_holds_one_training(data, tmp_path, change):
    dense, small = networks()
    arguments = {"model": small, "loader": loader_of(*data), "recipe": recipe()}
    sekron.finetune(**arguments, folder=tmp_path, progress=False)
    made = {"dense": dense, "loader": loader_of(*data, batch_size=4)}
    change = {name: made[name] if value is True else value for name, value in change.items()}
    with pytest.raises(ValueError, match="holds another; take another folder"):
        sekron.finetune(**{**arguments, **change}, folder=tmp_path, progress=False)


def test_a_folder_goes_on_from_its_own_weights_only(data, tmp_path):
    options = {"recipe": recipe(), "folder": tmp_path, "progress": False}
    _, small = networks()
    epochs = sekron.finetune(small, loader_of(*data), **options)
    left = states(small)
    again = sekron.finetune(small, loader_of(*data), **options)  # as the training left it
    assert again[1:] == epochs[1:]
    assert equal(states(small), left)
    _, small = networks()
    with torch.no_grad():
        small[5].bias[0] += 1e-3
    with pytest.warns(UserWarning, match="began with other weights than these, and goes on from"):
        again = sekron.finetune(small, loader_of(*data), **options)
    assert again[1:] == epochs[1:]
    assert equal(states(small), left)


def test_a_folder_of_an_earlier_release_does_not_tell_its_weights(data, tmp_path):
    options = {"recipe": recipe(), "folder": tmp_path, "progress": False}
    _, small = networks()
    epochs = sekron.finetune(small, loader_of(*data), **options)
    pointer = tmp_path / "training.json"
    document = json.loads(pointer.read_text())
    del document["start"], document["best"]
    pointer.write_text(json.dumps(document))
    _, other = networks()
    with torch.no_grad():
        other[5].bias[0] += 1e-3
    assert sekron.finetune(other, loader_of(*data), **options)[1:] == epochs[1:]
    assert equal(states(other), states(small))


@pytest.mark.parametrize(
    "output", ["values", lambda y, t: (y - t).square().mean()], ids=["values", "given"]
)
def test_a_training_to_another_divergence_is_another_one(data, tmp_path, output):
    options = {"recipe": recipe(), "folder": tmp_path, "progress": False}
    dense, small = networks()
    first = sekron.finetune(small, loader_of(*data), dense=dense, output=output, **options)
    for other in (None, "logits"):
        with pytest.raises(ValueError, match="holds another; take another folder"):
            sekron.finetune(networks()[1], loader_of(*data), dense=dense, output=other, **options)
    _, small = networks()
    again = sekron.finetune(small, loader_of(*data), dense=dense, output=output, **options)
    assert again[1:] == first[1:]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"identity": 1}'])
def test_a_damaged_folder_is_named(data, tmp_path, text):
    _, small = networks()
    (tmp_path / "training.json").write_text(text)
    with pytest.raises(ValueError, match=r"training\.json is damaged"):
        sekron.finetune(small, loader_of(*data), folder=tmp_path, progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": []}, r"damaged: Expected `array` of length >= 1 - at `\$\.epochs`"),
        ({"epochs": [{"epoch": -1, "loss": 1, "score": 1}]}, r"damaged: .* at `\$\.epochs\[0\]"),
        ({"epochs": [{"epoch": 1, "loss": "x", "score": 1}]}, r"damaged: .* at `\$\.epochs\[0\]"),
        ({"schedule": {}}, "damaged: its schedule is none"),
        ({"state": "../elsewhere"}, r"damaged: .* at `\$\.state`"),
        ({"state": "epoch-7-00000000"}, "damaged: its epochs are none"),
        ({"state": "epoch-1-00000000"}, "epoch-1-00000000 is damaged: FileNotFoundError"),
        ({"version": 9}, "must have version 1, got 9"),
    ],
    ids=str,
)
def test_a_record_that_cannot_be_is_refused(data, tmp_path, change, message):
    _, small = networks()
    arguments = {"loader": loader_of(*data), "recipe": recipe(), "folder": tmp_path}
    sekron.finetune(small, **arguments, progress=False)
    pointer = tmp_path / "training.json"
    pointer.write_text(json.dumps(json.loads(pointer.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        sekron.finetune(small, **arguments, progress=False)


def test_only_the_state_that_the_record_names_is_deleted(data, tmp_path):
    theirs = [tmp_path / name / "precious.txt" for name in ("epoch-mine", "epoch-0", "epoch-1")]
    for file in theirs:
        file.parent.mkdir()
        file.write_text("precious")
    _, small = networks()
    arguments = {"recipe": recipe(epochs=2), "folder": tmp_path, "progress": False}
    sekron.finetune(small, loader_of(*data), **arguments)
    assert [file.read_text() for file in theirs] == ["precious"] * 3
    assert all(list(file.parent.iterdir()) == [file] for file in theirs)
    (state,) = [
        path
        for path in tmp_path.iterdir()
        if path not in {f.parent for f in theirs} and path.is_dir()
    ]
    assert state.name.startswith("epoch-2-")


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def changed(file, change):
    """Write the tensors of a file again, each changed."""
    tensors = {name: change(tensor) for name, tensor in load_file(file).items()}
    save_file(tensors, file)


def piped(file, _):
    """Put a pipe, which nobody writes to, in the place of a file."""
    file.unlink()
    os.mkfifo(file)


DAMAGES = {
    "pipe": piped,
    "cut": lambda file, _: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "pickle": lambda file, trace: torch.save(Payload(trace), file),
    "empty": lambda file, _: file.write_bytes(b""),
    "missing": lambda file, _: file.unlink(),
    "stranger": lambda file, _: changed(file, lambda t: t.repeat(*[2] * t.dim(), 2)),
    "other dtypes": lambda file, _: changed(
        file, lambda t: t.int() if t.is_floating_point() else t.double() / 3
    ),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_files_of_a_folder_are_refused_when_damaged_and_never_unpickled(data, tmp_path, how):
    _, small = networks()
    folder, trace = tmp_path / "run", tmp_path / "trace"
    arguments = {"loader": loader_of(*data), "recipe": recipe(), "folder": folder}
    sekron.finetune(small, **arguments, progress=False)
    (state,) = (path for path in folder.iterdir() if path.is_dir())
    files = sorted(state.iterdir())
    assert len(files) == 4
    for file in files:
        whole = file.read_bytes()
        if how in ("stranger", "other dtypes") and file.suffix != ".safetensors":
            continue
        DAMAGES[how](file, trace)
        _, small = networks()
        before = states(small)
        with pytest.raises(ValueError, match=rf"{state.name} is damaged: .*; delete the folder"):
            sekron.finetune(small, **arguments, progress=False)
        assert equal(states(small), before)
        file.unlink(missing_ok=True)
        file.write_bytes(whole)
    assert not trace.exists()


def test_random_generators_go_on_as_they_would_have():
    def draws():
        return [
            [random.random(), random.gauss(0.0, 1.0)],
            np.random.normal(size=3).tolist(),
            torch.randn(3).tolist(),
        ]

    random.gauss(0.0, 1.0)  # leaves a second number for the next call
    np.random.normal()
    with torch.device("meta"):
        state = random_state()
    first = draws()
    assert draws() != first
    set_random_state(state)
    assert draws() == first


@pytest.mark.parametrize(
    "change",
    [
        {"schedule": {"last_epoch": "x"}},
        {"schedule": {"T_max": 0}},
        {"schedule": {"base_lrs": [1.0]}},
        {"schedule": {"last_epoch": 10**6}},
        {"epochs": [{"epoch": 0, "loss": None, "score": None}]},
        {"epochs": [{"epoch": 2**62, "loss": None, "score": None}] * 2},
    ],
    ids=str,
)
def test_a_schedule_or_epochs_that_cannot_be_are_refused(data, tmp_path, change):
    _, small = networks()
    arguments = {"loader": loader_of(*data), "recipe": recipe(), "folder": tmp_path}
    sekron.finetune(small, **arguments, progress=False)
    pointer = tmp_path / "training.json"
    document = json.loads(pointer.read_text())
    schedule = document["schedule"] | change.pop("schedule", {})
    pointer.write_text(json.dumps(document | change | {"schedule": schedule}))
    with pytest.raises(ValueError, match=r"training\.json is damaged: its (schedule|epochs)"):
        sekron.finetune(small, **arguments, progress=False)


def test_a_training_by_another_network_is_another_one(data, tmp_path):
    dense, small = networks()
    plan = recipe(epochs=1)
    options = {"recipe": plan, "folder": tmp_path, "progress": False}
    sekron.finetune(small, loader_of(*data), dense=dense, **options)
    with torch.no_grad():
        next(dense.parameters()).mul_(1.5)
    with pytest.raises(ValueError, match="but holds another"):
        sekron.finetune(networks()[1], loader_of(*data), dense=dense, **options)


class Extra(nn.Linear):
    """Keeps more than tensors."""

    def get_extra_state(self):
        return {"scale": 2}

    def set_extra_state(self, state):
        assert state == {"scale": 2}


def test_what_a_module_keeps_besides_tensors_is_its_own(data, tmp_path):
    dense, small = networks()
    small.extra = Extra(4, 4)
    before = [parameter.detach().clone() for parameter in small.parameters()]
    options = {"dense": dense, "recipe": recipe(), "progress": False}
    sekron.finetune(small, loader_of(*data), **options)
    assert not all(map(torch.equal, before, small.parameters()))
    with pytest.raises(ValueError, match=r"tensors alone to be saved, but 'extra._extra_state' is"):
        sekron.save(small, tmp_path / "small")
    with pytest.raises(
        ValueError, match=r"'extra._extra_state' is of dict; train without `folder`"
    ):
        sekron.finetune(small, loader_of(*data), folder=tmp_path / "ft", **options)


def test_a_loss_that_is_none_is_refused_before_anything_is_read(data, tmp_path):
    _, small = networks()
    loss = nn.CrossEntropyLoss()
    options = {"recipe": recipe(), "folder": tmp_path, "progress": False}
    sekron.finetune(small, loader_of(*data), loss=lambda y, batch: loss(y, batch[1]), **options)
    _, small = networks()
    before = states(small)
    with pytest.raises(ValueError, match="`loss` must be a function of output and batch, got 3"):
        sekron.finetune(small, loader_of(*data), loss=3, **options)
    assert equal(states(small), before)
