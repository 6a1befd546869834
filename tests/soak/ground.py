"""What commands are tried on: a user's folder with a network, data and finished runs."""

import os
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.soak.command import answer_of

NETWORK = """
import torch
from torch import nn

def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 20), nn.ReLU(), nn.Linear(20, 5),
    )

def score(network):
    return -float(sum(p.numel() for p in network.parameters()))
"""
PAYLOAD = """
import pathlib
pathlib.Path(__file__).parents[1].joinpath("executed").touch()
from soak_network import small, score
"""
MODEL, SCORE = "soak_network:small", "soak_network:score"
INPUT = ("--input", "2x3x11x9")
QUICK = (*INPUT, "--trials", "4", "--max-length", "2", "--threads", "1", "--flops", "60%")
UNTIMED = (*QUICK, "--measure-seconds", "0")
CALIBRATED = ("--calibration", "images.safetensors", "--output-kind", "logits")
SCORED = ("--score", SCORE, "--network-trials", "3")
FUNNEL = (
    *("funnel", MODEL, "--input", "1x3x11x9", "--data", "data.safetensors", "--params", "60%"),
    *("--epochs", "3", "--batch-size", "8", "--folder", "train", "--output", "out.safetensors"),
)
URL = "sqlite:///trials.db"
RICH = (
    "search",
    MODEL,
    *QUICK,
    *CALIBRATED,
    *SCORED,
    "--measure-seconds",
    "1",
    "--run",
    "run",
    "--json",
)
STORED = ("search", MODEL, *UNTIMED, "--run", "stored", "--storage", URL)
MADE = (
    RICH,
    ("compare", "run", "--model", MODEL, "--max-seconds", "1", "--json"),
    ("apply", "run", "--model", MODEL, "--output", "small.safetensors"),
    STORED,
    FUNNEL,
    ("python", "finetune"),
)
"""Commands whose files are read by others."""


def make_ground(parent: Path) -> Path:
    """Make the folders of a user and of a neighbour, and return the user's.

    Raises:
        RuntimeError: If a command fails.
    """
    user, outside = parent / "user", parent / "outside"
    user.mkdir(parents=True)
    outside.mkdir()
    (outside / "precious.txt").write_text("precious")  # a journal would cut this line
    (outside / "empty.txt").write_text("")
    (user / "soak_network.py").write_text(NETWORK)
    namespace = {}
    exec(NETWORK, namespace)
    state = namespace["small"]().state_dict()
    save_file(state, user / "weights.safetensors")
    torch.save(state, user / "weights.pt")
    images = torch.randn(16, 3, 11, 9, generator=torch.Generator().manual_seed(0))
    save_file({"images": images}, user / "images.safetensors")
    save_file({"images": images, "labels": torch.arange(16) % 5}, user / "data.safetensors")
    (user / "pictures").mkdir()
    for name, pixels in zip("ab", images[:2], strict=True):
        levels = np.ascontiguousarray((60 * pixels + 128).byte().permute(1, 2, 0))
        Image.fromarray(levels).save(user / "pictures" / f"{name}.png")
    for arguments in MADE:
        answer = answer_of(arguments, user, limit=200.0)
        if answer.code:
            raise RuntimeError(f"{arguments} must end well, got {answer}")
    (user / "run" / "payload.py").write_text(PAYLOAD)
    os.mkfifo(user / "fifo")
    (user / "loop").symlink_to("loop")
    return user


def copy_of(user: Path, parent: Path) -> Path:
    """Copy the ground into a folder that is not there yet; return the copy of the user's folder."""
    shutil.copytree(user.parent, parent, symlinks=True, ignore=shutil.ignore_patterns("fifo"))
    os.mkfifo(parent / "user" / "fifo")
    return parent / "user"
