"""What fine-tuning takes as batches, labels and teachers, and how it refuses the rest."""

import pytest
import torch
from torch import nn

import sekron
from sekron.forward.tensors import map_tensors, tensors_in
from sekron.training.loss import Loss
from sekron.training.recipe import Recipe
from tests.trained import CLASSES, N, equal, images_and_labels, loader_of, networks, recipe, states

pytestmark = pytest.mark.usefixtures("fresh_process")


@pytest.fixture
def data():
    return images_and_labels()


class Given(nn.Module):
    """Puts out what it was given."""

    def __init__(self, output):
        super().__init__()
        self.output, self.none = output, nn.Parameter(torch.zeros(()))

    def forward(self, _):
        return map_tensors(lambda tensor: tensor + self.none, self.output)


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
        (lambda x, _: [{"image": x}], r"but on \{'image': \(32, 3, 6, 6\)\} it raised"),
        (lambda x, _: [{"input": x}], "must hold labels beside the images"),
        (lambda x, _: [x.numpy()], "must hold tensors, tuples .*, got ndarray"),
        (
            lambda x, y: [(x[:, :2], y)],
            r"must run on the batches of `loader`, but on \(32, 2,",
        ),
        (lambda x, y: [(x.byte(), y)], r"must run on the batches of `loader`, .* RuntimeError"),
        (lambda x, y: [(x, y[:-1])], r"one class for each of the 32 images, got \(31,\)"),
        (lambda x, _: [(x, "a")], "one class for each of the 32 images, got str"),
    ],
    ids=["length", "iterator", "name", "named", "array", "channels", "type", "number", "text"],
)
def test_batches_must_fit(data, loader, message):
    _, small = networks()
    before = states(small)
    with pytest.raises(ValueError, match=message):
        sekron.finetune(small, loader(*data), recipe=recipe(), progress=False)
    assert equal(states(small), before)


def test_a_teacher_must_put_out_what_the_network_does(data):
    dense, small = networks()
    dense.append(nn.Linear(4, 5))
    with pytest.raises(ValueError, match=r"must have the shape .* \(8, 4\), got \(8, 5\)"):
        sekron.finetune(small, loader_of(*data), dense=dense, recipe=recipe(), progress=False)


def test_labels_alone_say_nothing_of_several_outputs(data):
    _, small = networks()
    small.append(Named())
    with pytest.raises(ValueError, match="one tensor to be trained on labels, or `loss` must be g"):
        sekron.finetune(small, loader_of(*data), recipe=recipe(), progress=False)


def squared(output, batch):
    """A regression of two outputs."""
    images, labels = batch
    wanted = labels / CLASSES + 0 * images.mean()
    return (output["logits"].mean(1) - wanted).square().mean() + output["logits"].square().mean()


@pytest.mark.parametrize("distillation", [0.0, 0.4, 1.0])
def test_a_loss_of_the_user_is_what_is_learnt_beside_every_output_of_the_teacher(distillation):
    outputs = [{"logits": torch.randn(5, 4), "more": [torch.randn(5, 2)]} for _ in range(2)]
    network, teacher = (Given(output) for output in outputs)
    batch = (torch.randn(5, 3), torch.arange(5))
    settings = Recipe(distillation=distillation, temperature=1.0)
    loss = Loss(teacher, settings, "values", squared)(network, batch)
    divergence = sum(
        (a - b).square().sum() / b.square().sum()
        for a, b in zip(*map(tensors_in, outputs), strict=True)
    )
    wanted = (1 - distillation) * squared(outputs[0], batch) + distillation * divergence
    assert float(loss.detach()) == pytest.approx(float(wanted))


@pytest.mark.parametrize(("value", "got"), [(1.0, "float"), (torch.ones(2), r"\(2,\)")])
def test_a_loss_is_a_scalar_tensor(data, value, got):
    _, small = networks()
    with pytest.raises(ValueError, match=f"`loss` must return a scalar tensor, got {got}"):
        sekron.finetune(
            small, loader_of(*data), recipe=recipe(), loss=lambda *_: value, progress=False
        )


def test_a_loss_is_a_function(data):
    _, small = networks()
    with pytest.raises(
        ValueError, match="`loss` must be a function of output and batch, got 'mse'"
    ):
        sekron.finetune(small, loader_of(*data), recipe=recipe(), loss="mse", progress=False)


def test_a_loss_without_a_gradient_is_refused(data):
    _, small = networks()
    with pytest.raises(ValueError, match=r"or it or the loss may detach; take that out"):
        sekron.finetune(
            small,
            loader_of(*data),
            recipe=recipe(),
            loss=lambda output, _: output.detach().mean(),
            progress=False,
        )


def test_a_training_with_a_loss_of_the_user_lowers_it(data):
    _, small = networks()
    small.append(Named())
    loader = loader_of(*data)
    epochs = sekron.finetune(
        small, loader, recipe=recipe(epochs=3, learning_rate=0.05), loss=squared, progress=False
    )
    assert epochs[-1].loss < epochs[1].loss


def test_labels_need_classes(data):
    model = nn.Sequential(nn.Flatten(0, 1), nn.Flatten(), nn.Linear(36, 1), nn.Flatten(0))
    with pytest.raises(ValueError, match=r"need an output \(N, classes, …\), got one of \(24,\)"):
        sekron.finetune(model, loader_of(*data), recipe=recipe(), progress=False)
