"""A network, its compressed copy and data, for the tests of fine-tuning."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sekron

N, CLASSES = 32, 4


def networks():
    """Return a dense network and a compressed one, alike every time."""
    generator = torch.Generator().manual_seed(0)
    dense = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.Flatten(),
        nn.Linear(8 * 16, CLASSES),
    )
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    plan = sekron.Plan({"3": sekron.Structure.parse("sekron:8x1x3x1,1x8x1x3@8")})
    return dense, plan.apply(dense)


def images_and_labels():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(N, 3, 6, 6, generator=generator)
    return images, torch.randint(CLASSES, (N,), generator=generator)


def loader_of(*tensors, batch_size=8, shuffle=False):
    return DataLoader(TensorDataset(*tensors), batch_size, shuffle=shuffle)


def states(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def recipe(**changes):
    """Return one short epoch, or what is changed about it."""
    return sekron.Recipe(**{"epochs": 1, "learning_rate": 0.05, **changes})
