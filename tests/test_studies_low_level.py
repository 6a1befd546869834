"""The study of super-resolution networks that are trained here, from end to end."""

import math
import runpy
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sekron.profiling.profile import profile
from studies.low_level import training
from studies.low_level.images import Pair, pair_of
from studies.low_level.networks import BLOCKS, EDSR, MEAN, NETWORKS, SRResNet, blocks_weights
from studies.low_level.quality import quality
from studies.low_level.training import trained_on_patches
from studies.super_resolution.fidelity import luminance
from tests.test_studies_low_level_images import pixels, write


@pytest.mark.parametrize(("build", "published"), [(SRResNet, 73_728), (EDSR, 294_912)])
def test_a_residual_block_has_the_published_weights(build, published):
    model = build(4)
    for block in model.blocks:
        weights = [m.weight for m in block.modules() if isinstance(m, nn.Conv2d)]
        assert sum(weight.numel() for weight in weights) == published
    assert blocks_weights(model) == len(model.blocks) * published


@pytest.mark.parametrize(
    ("name", "width", "at_the_ends", "per_stage"),
    [
        # Convolutions of 9x9 with biases, slopes, the last batch norm without a bias before it.
        ("srresnet", 64, (3 * 64 * 81 + 64 + 64) + (64 * 3 * 81 + 3) + 2 * 64, 64),
        ("edsr_8_128", 128, (3 * 128 * 9 + 128) + (128 * 3 * 9 + 3) + 128, 0),
    ],
)
@pytest.mark.parametrize(("scale", "stages"), [(2, [4]), (3, [9]), (4, [4, 4])])
def test_networks_are_counted_and_magnify(name, width, at_the_ends, per_stage, scale, stages):
    model = NETWORKS[name](scale).eval()
    square = width * width * 9
    upsampler = sum(square * n + width * n + per_stage for n in stages)
    blocks = sum(p.numel() for p in model.blocks.parameters())
    assert sum(p.numel() for p in model.parameters()) == blocks + at_the_ends + square + upsampler
    with torch.no_grad():
        assert model(torch.rand(2, 3, 5, 7)).shape == (2, 3, 5 * scale, 7 * scale)


@pytest.mark.parametrize("build", NETWORKS.values())
def test_networks_refuse_other_scales(build):
    with pytest.raises(ValueError, match="`scale` must be 2, 3 or 4, got 5"):
        build(5)


def test_edsr_puts_out_the_mean_where_it_has_learnt_nothing():
    model = EDSR(2, n_blocks=1, n_features=4)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    expected = torch.tensor(MEAN).view(3, 1, 1).expand(1, 3, 10, 10)
    torch.testing.assert_close(model(torch.rand(1, 3, 5, 5)), expected)


def test_only_the_residual_blocks_are_searched():
    measured = profile(SRResNet(2, 3, 8).eval(), torch.rand(1, 3, 5, 5), include=[BLOCKS])
    names = [layer.name for layer in measured.searched]
    assert names == [f"blocks.{block}.conv{k}" for block in range(3) for k in (1, 2)]


def repeated(x):
    return F.interpolate(x, scale_factor=3.0, mode="nearest")


@pytest.fixture
def pair():
    small = torch.from_numpy(pixels(9, 12)).movedim(-1, 0) // 2 + 50
    return Pair(repeated(small[None].float())[0].to(torch.uint8), small)


def test_quality_is_of_the_luminance_of_eight_bits_without_the_border(pair):
    assert quality(repeated, [pair]) == (math.inf, 1.0)
    brighter = Pair(pair.large + 1, pair.small)
    psnr, _ = quality(repeated, [brighter])
    assert psnr == pytest.approx(20 * math.log10(255 * 255 / 219), abs=1e-3)
    assert quality(lambda x: repeated(x) + 0.4 / 255, [pair])[0] == math.inf
    for spoilt, is_seen in ((2, False), (3, True)):
        large = pair.large.clone()
        large[:, spoilt, 5] = 255
        assert (quality(repeated, [Pair(large, pair.small)])[0] < math.inf) == is_seen
    mean = quality(repeated, [pair_of(pair.large, 3), brighter])
    apart = [quality(repeated, [p]) for p in (pair_of(pair.large, 3), brighter)]
    assert mean == pytest.approx(tuple(np.mean(apart, axis=0)))


def ssim(x, y):
    """Return the mean structural similarity as published: Gaussian windows within the image."""
    line = torch.exp(-0.5 * (torch.arange(-5.0, 6.0, dtype=x.dtype) / 1.5) ** 2)
    window = torch.outer(line, line)[None, None] / line.sum() ** 2

    def mean(z):
        return F.conv2d(z, window)

    covariance = mean(x * y) - mean(x) * mean(y)
    variances = [mean(z * z) - mean(z) ** 2 for z in (x, y)]
    contrast = (2 * covariance + 0.03**2) / (sum(variances) + 0.03**2)
    light = (2 * mean(x) * mean(y) + 0.01**2) / (mean(x) ** 2 + mean(y) ** 2 + 0.01**2)
    return (light * contrast).mean()


def test_quality_is_as_published():
    pair = pair_of(torch.from_numpy(pixels(48, 60)).movedim(-1, 0), 2)

    def enlarge(x):
        return F.interpolate(x, scale_factor=2.0, mode="bicubic")

    output = enlarge(pair.small[None] / 255).clamp(0, 1).mul(255).round() / 255
    found, wanted = (
        luminance(x.double())[..., 2:-2, 2:-2] for x in (output, pair.large[None] / 255)
    )
    psnr = -10 * (found - wanted).square().mean().log10()
    expected = psnr.item(), ssim(found, wanted).item()
    assert quality(enlarge, [pair]) == pytest.approx(expected, rel=1e-4)


@pytest.fixture
def small_networks(monkeypatch):
    monkeypatch.setitem(NETWORKS, "srresnet", lambda scale: SRResNet(scale, 2, 8))
    monkeypatch.setitem(NETWORKS, "edsr_8_128", lambda scale: EDSR(scale, 2, 8))


def test_a_network_learns_and_is_trained_once(small_networks, tmp_path, monkeypatch):
    ramp = np.linspace(0, 255, 30).round().astype(np.uint8)
    smooth = np.stack([np.add.outer(ramp // 2, ramp // 2)] * 3, axis=-1)
    pair = pair_of(torch.from_numpy(smooth).movedim(-1, 0), 2)
    settings = {"batch_size": 2, "size": 8, "learning_rate": 5e-3, "folder": tmp_path}
    few, many = (
        trained_on_patches("edsr_8_128", 2, [pair], steps=steps, **settings) for steps in (2, 80)
    )
    assert quality(many, [pair])[0] > quality(few, [pair])[0] + 3
    monkeypatch.setattr(training, "batches_of", None)
    again = trained_on_patches("edsr_8_128", 2, [pair], steps=80, **settings)
    for key, tensor in many.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key])


QUICK = [
    *("--patch", 8, "--dense-steps", 2, "--calibration", 2, "--tune-steps", 2, "--steps", 2),
    *("--trials", 0, "--max-length", 2, "--threads", 1),
]


@pytest.fixture
def study(tmp_path, monkeypatch, few_steps):
    """Run the study on generated files; returns its table."""
    for name in ("train/a", "train/b", "Set5/a", "Urban100/a", "Urban100/b"):
        write(tmp_path / "data" / f"{name}.png", pixels(33, 36, seed=len(name)))

    def run(*options):
        path = tmp_path / "table.csv"
        argv = ["study", *QUICK, "--data", tmp_path / "data", "--output", path]
        argv += ["--runs", tmp_path / "runs", *options]
        monkeypatch.setattr(sys, "argv", list(map(str, argv)))
        runpy.run_module("studies.low_level.__main__", run_name="__main__")
        return pd.read_csv(path)

    return run


@pytest.mark.slow
def test_everybody_climbs_the_ladder_and_no_row_is_run_again(study, small_networks, capsys):
    methods = ["sekron, plain", "sekron, calibrated", "tucker2", "tensor_train"]
    options = ["--shares", 0.4, "--methods", *methods, "--measure-seconds"]
    frame = study(*options, 0)
    wanted = [
        (method, name) for method in ("bicubic", "dense", *methods) for name in ("Set5", "Urban100")
    ]
    assert list(zip(frame["method"], frame["images"], strict=True)) == wanted
    rungs = ["decomposed", "repaired", "tuned", "finetuned"]
    compressed = frame[frame["share"] == 0.4]
    assert compressed[[*rungs, *(f"ssim_{rung}" for rung in rungs)]].notna().all(axis=None)
    dense = frame[frame["method"] == "dense"]
    assert dense[["decomposed", "finetuned"]].notna().all(axis=None)
    assert dense[["repaired", "tuned"]].isna().all(axis=None)
    model = SRResNet(2, 2, 8)
    total = sum(p.numel() for p in model.parameters())
    assert (compressed["params"] * total <= total - 0.6 * blocks_weights(model) + 1).all()
    assert frame["latency_ms"].isna().all()
    claim = next(x for x in capsys.readouterr().out.splitlines() if "claimed by" in x)
    assert claim.split()[:6] == ["srresnet", "4", "1.000", "dense", "Set5", "32.03"]
    timed = study(*options, 0.01)
    clocked = ["latency_ms", "speedup"]
    assert timed.drop(columns=clocked).equals(frame.drop(columns=clocked))
    assert timed.loc[timed["method"] != "bicubic", clocked].notna().all(axis=None)
    out_of_reach = study("--methods", *methods[::2], "--shares", 0.001, "--measure-seconds", 0)
    assert out_of_reach.equals(timed)
    assert "tucker2 does not reach 0.1%" in capsys.readouterr().out
    more = study("--methods", "tucker2", "--shares", 0.4, 0.6, "--networks", "edsr_8_128")
    assert more.iloc[: len(timed)].equals(timed)
    assert list(more["network"][len(timed) :].unique()) == ["edsr_8_128"]


def test_what_cannot_be_run_is_told_in_one_line(study, tmp_path, small_networks, capsys):
    with pytest.raises(SystemExit):
        study("--shares", 1.5)
    assert "a share must be between 0 and 1, got 1.5." in capsys.readouterr().err
    (tmp_path / "data" / "train").rename(tmp_path / "data" / "training")
    with pytest.raises(SystemExit, match="must hold the folder `train`"):
        study()
