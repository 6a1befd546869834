"""What fine-tuning takes as batches, labels and teachers, and how it refuses the rest."""

import pytest
import torch
from torch import nn

import sekron
from tests.trained import CLASSES, N, equal, images_and_labels, loader_of, networks, recipe, states

pytestmark = pytest.mark.usefixtures("fresh_process")


@pytest.fixture
def data():
    return images_and_labels()


class Named(nn.Module):
    """Puts out a dictionary."""

    def forward(self, x):
        return {"logits": x}


@pytest.mark.parametrize(("change", "got"), [(CLASSES, "0 to 7"), (-1, "-1 to 2")])
def test_labels_must_be_classes(data, change, got):
    _, small = networks()
    labels = torch.arange(N) % CLASSES + change if change < 0 else torch.arange(N) % (2 * CLASSES)
    with pytest.raises(ValueError, match=f"classes of the network, 0 to 3, got {got}"):
        sekron.finetune(small, loader_of(data[0], labels), recipe=recipe(), progress=False)


def test_labels_must_be_whole_numbers(data):
    _, small = networks()
    with pytest.raises(ValueError, match="must be classes"):
        sekron.finetune(small, loader_of(data[0], data[1] + 0.5), recipe=recipe(), progress=False)


def test_images_alone_teach_nothing_without_a_teacher(data):
    _, small = networks()
    with pytest.raises(ValueError, match="must hold labels beside the images"):
        sekron.finetune(small, loader_of(data[0]), recipe=recipe(), progress=False)


def test_there_must_be_a_batch():
    _, small = networks()
    empty = loader_of(torch.zeros(0, 3, 6, 6), torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match="`loader` must hold at least one batch, got none"):
        sekron.finetune(small, empty, progress=False)


def test_whole_numbers_of_any_size_are_labels(data):
    trained = []
    for dtype in (torch.int64, torch.int32, torch.uint8):
        _, small = networks()
        sekron.finetune(
            small, loader_of(data[0], data[1].to(dtype)), recipe=recipe(), progress=False
        )
        trained.append(states(small))
    assert equal(trained[0], trained[1])
    assert equal(trained[0], trained[2])


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (lambda x, y: iter([(x, y)]), "`loader` must have a length and be .* got list_iterator"),
        (lambda x, y: iter(loader_of(x, y)), "be there for every epoch, .* got _SingleProcess"),
        (lambda x, _: [{"image": x}], r"must hold tensors, or tuples \(images, labels\), got dict"),
        (
            lambda x, y: [(x[:, :2], y)],
            r"must run on the batches of `loader`, but on \(32, 2,",
        ),
        (lambda x, y: [(x.byte(), y)], r"must run on the batches of `loader`, .* RuntimeError"),
        (lambda x, y: [(x, y[:-1])], r"one class for each of the 32 images, got \(31,\)"),
        (lambda x, _: [(x, "a")], "one class for each of the 32 images, got str"),
    ],
    ids=["length", "iterator", "dictionary", "channels", "type", "number", "text"],
)
def test_batches_must_fit(data, loader, message):
    _, small = networks()
    before = states(small)
    with pytest.raises(ValueError, match=message):
        sekron.finetune(small, loader(*data), recipe=recipe(), progress=False)
    assert equal(states(small), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: n.append(nn.Linear(4, 5)), r"must have the shape .* \(8, 4\), got \(8, 5\)"),
        (lambda n: n.append(Named()), "must put out one tensor to be trained, got dict"),
    ],
    ids=["classes", "dictionary"],
)
def test_a_teacher_must_put_out_what_the_network_does(data, change, message):
    dense, small = networks()
    change(dense)
    with pytest.raises(ValueError, match=message):
        sekron.finetune(small, loader_of(*data), dense=dense, recipe=recipe(), progress=False)


def test_labels_need_classes(data):
    model = nn.Sequential(nn.Flatten(0, 1), nn.Flatten(), nn.Linear(36, 1), nn.Flatten(0))
    with pytest.raises(ValueError, match=r"need an output \(N, classes, …\), got one of \(24,\)"):
        sekron.finetune(model, loader_of(*data), recipe=recipe(), progress=False)
