"""The study of classifiers from end to end, on small files in the real sets' own formats."""

import ast
import runpy
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from studies.cifar import cifar10
from studies.classification.tasks import build_network
from studies.imagenet import imagenet
from tests.test_studies_data import write_cifar

RUNGS = ["decomposed", "recalibrated", "refitted", "tuned", "finetuned"]
QUICK = ["--trials", "0", "--max-length", "2", "--steps", "2", "--epochs", "1"]


@pytest.fixture
def study(tmp_path, monkeypatch, few_steps):
    """Run the study with its run folders in a temporary place; returns its table."""
    # No processes for six images.
    monkeypatch.setattr("studies.classification.tasks.imagenet", partial(imagenet, workers=0))

    def run(*options):
        path = tmp_path / "table.csv"
        argv = ["study", *QUICK, "--output", path, "--runs", tmp_path / "runs", *options]
        monkeypatch.setattr(sys, "argv", list(map(str, argv)))
        runpy.run_module("studies.classification.__main__", run_name="__main__")
        return pd.read_csv(path)

    return run


@pytest.fixture
def cifar(tmp_path):
    write_cifar(tmp_path, cifar10, n=16)
    return tmp_path


def test_every_method_climbs_the_ladder_on_cifar(study, cifar, capsys):
    options = ["--data", "cifar10", "--path", cifar, "--networks", "resnet8", "--dense-epochs", 1]
    frame = study(*options, "--budgets", "params=0.4", "--methods", "sekron", "tucker2", "pruning")
    assert list(frame["method"]) == ["sekron", "tucker2", "pruning"]
    assert (frame["params"] <= 0.4).all()
    assert frame[["dense", "decomposed", "recalibrated", "finetuned"]].notna().all(axis=None)
    assert list(frame["tuned"].isna()) == [False, False, True]
    (claim,) = (x for x in capsys.readouterr().out.splitlines() if "claimed by GKPD" in x)
    assert claim.split()[:7] == ["resnet32", "params", "/", "5", "gkpd", "0.9255", "NaN"]
    assert "0.9152" in claim
    again = study(*options, "--budgets", "params=0.4", "flops=0.5", "--methods", "sekron", "funnel")
    assert list(again["method"]) == ["sekron", "tucker2", "pruning", "funnel", "sekron", "funnel"]
    assert again.iloc[:3].equals(frame)


def test_rivals_enter_in_their_better_norm(study, cifar, capsys):
    options = ["--data", "cifar10", "--path", cifar, "--networks", "resnet8", "--dense-epochs", 1]
    options += ["--both-norms", "--budgets", "params=0.4", "--methods", "tucker2", "pruning"]
    frame = study(*options)
    judged = next(x for x in capsys.readouterr().out.splitlines() if "re-estimated: " in x)
    accuracies = ast.literal_eval(judged.partition(": ")[2])
    assert list(accuracies) == ["tucker2", "tucker2 in metric"]
    best = max(accuracies, key=accuracies.__getitem__)
    assert list(frame["method"]) == [best, "pruning"]
    assert frame["recalibrated"][0] == pytest.approx(accuracies[best])
    assert study(*options).equals(frame)


@pytest.mark.slow
def test_the_ladder_on_imagenet(study, tmp_path, torchvision):
    from PIL import Image  # noqa: PLC0415  comes with torchvision

    # Images that are all alike leave batch norm no variance to learn from.
    generator = np.random.default_rng(0)
    for part in ("train", "val"):
        for name, colour in {"n01": (255, 0, 0), "n02": (0, 0, 255)}.items():
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(3):
                path = tmp_path / part / name / f"{number}.JPEG"
                noise = generator.integers(0, 256, (250, 240, 3), dtype=np.uint8)
                Image.fromarray(noise // 2 + np.array(colour, dtype=np.uint8) // 2).save(path)
    torch.manual_seed(0)
    network = torchvision.models.shufflenet_v2_x0_5(num_classes=2)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    options = ["--data", "imagenet", "--path", tmp_path, "--weights", tmp_path / "weights.pt"]
    options += ["--networks", "shufflenet_v2_x0_5", "--methods", "sekron"]
    frame = study(*options, "--budgets", "flops=0.6")
    assert len(frame) == 1
    assert frame["flops"].item() <= 0.6
    assert frame[RUNGS].notna().all(axis=None)


def test_networks_by_name(torchvision):
    small = build_network("se_resnet20", 7, 1)
    assert sum(isinstance(m, nn.Linear) for m in small.modules()) == 1 + 2 * 9
    assert small(torch.zeros(2, 1, 8, 8)).shape == (2, 7)
    assert build_network("resnet20", 7, 3).fc.out_features == 7
    for name in ("resnet50", "resnet152"):
        assert isinstance(build_network(name, 7, 3), torchvision.models.ResNet)
    assert build_network("mobilenet_v2", 7, 3)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
