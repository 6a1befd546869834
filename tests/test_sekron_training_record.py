"""A training that was stopped goes on as if it had not been, from its own folder only."""

import itertools
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import sekron
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


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"identity": 1}'])
def test_a_damaged_folder_is_named(data, tmp_path, text):
    _, small = networks()
    (tmp_path / "training.json").write_text(text)
    with pytest.raises(ValueError, match=r"training\.json is damaged"):
        sekron.finetune(small, loader_of(*data), folder=tmp_path, progress=False)


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("how", ["cut", "pickle"])
def test_files_of_a_folder_are_refused_when_damaged_and_never_unpickled(data, tmp_path, how):
    _, small = networks()
    folder, trace = tmp_path / "run", tmp_path / "trace"
    arguments = {"loader": loader_of(*data), "recipe": recipe(), "folder": folder}
    sekron.finetune(small, **arguments, progress=False)
    files = sorted((folder / "epoch-1").iterdir())
    assert len(files) == 4
    for file in files:
        whole = file.read_bytes()
        if how == "cut":
            file.write_bytes(whole[: len(whole) // 2])
        else:
            torch.save(Payload(trace), file)
        _, small = networks()
        # Accelerate goes on without the states of Python's and NumPy's generators.
        matters = file.suffix != ".pkl"
        message = r"epoch-1 is damaged: .*; delete the folder"
        with pytest.raises(ValueError, match=message) if matters else nullcontext():
            sekron.finetune(small, **arguments, progress=False)
        file.write_bytes(whole)
    assert not trace.exists()
