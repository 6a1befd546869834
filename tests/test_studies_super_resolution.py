"""Fidelity as the field reports it, and the picture of `upscale`."""

import sys
from contextlib import suppress
from functools import partial

import pandas as pd
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import search
import sekron
from studies.pretrained.srvggnet import SRVGGNetCompact
from studies.super_resolution import clock, networks, repaired
from studies.super_resolution.__main__ import main
from studies.super_resolution.fidelity import OnLuminance, luminance
from studies.super_resolution.networks import NETWORKS, SCALE, Network
from studies.super_resolution.upscale import read_picture


def test_luminance_is_that_of_bt_601():
    primaries = torch.eye(3).reshape(3, 3, 1, 1)
    black, white = torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
    found = 255.0 * luminance(torch.cat([black, white, primaries])).flatten()
    expected = torch.tensor([16.0, 235.0, 81.481, 144.553, 40.966])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_psnr_is_the_mean_over_images_of_what_is_within_the_border():
    truth = torch.full((2, 3, 23, 31), 0.5)
    images = truth.clone()
    images[0] += 0.1
    images[1] += 0.01
    images[:, :, :4] = images[:, :, :, -4:] = 0.0  # the border may be anything
    found = OnLuminance.of(images, truth, border=4)
    expected = [-20 * torch.tensor(shift * 219 / 255).log10() for shift in (0.1, 0.01)]
    assert found.psnr == pytest.approx(sum(expected).item() / 2, abs=1e-3)
    assert OnLuminance.of(images, truth, border=0).psnr < found.psnr


def test_values_beyond_black_and_white_are_cut_off_and_equal_images_have_an_ssim_of_one():
    truth = torch.rand(1, 3, 29, 19).round()
    beyond = 3.0 * truth - 1.0
    assert OnLuminance.of(beyond, truth, border=2).ssim == pytest.approx(1.0)
    other = OnLuminance.of(torch.rand(1, 3, 29, 19), truth, border=2)
    assert other.ssim < 0.5


def test_ssim_is_that_of_gaussian_windows():
    """Against the formula written out: 11 by 11 windows of σ = 1.5, constants 0.01² and 0.03²."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(1, 3, 41, 37, generator=generator)
    images = (truth + 0.1 * torch.randn(truth.shape, generator=generator)).clamp(0, 1)
    x, y = luminance(images), luminance(truth)
    places = torch.arange(11.0) - 5
    window = torch.exp(-places.square() / (2 * 1.5**2))
    window = torch.outer(window, window)[None, None] / window.sum() ** 2

    def mean(t):
        return F.conv2d(t, window)

    covariance = mean(x * y) - mean(x) * mean(y)
    variances = mean(x * x) - mean(x) ** 2 + mean(y * y) - mean(y) ** 2
    ssim = (2 * mean(x) * mean(y) + 1e-4) * (2 * covariance + 9e-4)
    ssim /= (mean(x) ** 2 + mean(y) ** 2 + 1e-4) * (variances + 9e-4)
    assert OnLuminance.of(images, truth, 0).ssim == pytest.approx(ssim.mean().item(), abs=1e-4)


@pytest.fixture
def tiny(monkeypatch, tmp_path, few_steps):
    """Have a tiny network in place of the real one."""
    torch.manual_seed(0)
    model = SRVGGNetCompact(n_features=6, n_convolutions=2).eval()
    budgets = (search.Budget(flops=0.6),)
    network = Network("animevideov3", lambda: model, 4, 16, 2, ("plain",), budgets, ("repaired",))
    monkeypatch.setitem(NETWORKS, "animevideov3", network)
    for module in (clock, networks, repaired):
        monkeypatch.setattr(module, "RUNS", tmp_path / "runs")


@pytest.fixture
def upscale(tiny, monkeypatch, capsys):
    """Run `upscale` with the tiny network, and return the error."""

    def run(*arguments):
        words = ["super_resolution", "upscale", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        with suppress(SystemExit):
            main()
        return capsys.readouterr().err

    return run


PICTURES = {
    "grey.png": ("L", (19, 13), 128),
    "deep.png": ("I;16", (19, 13), 2**15 + 2**7),
    "clear.png": ("RGBA", (19, 13), (255, 255, 255, 0)),
    "palette.gif": ("P", (19, 13), 3),
    "dot.png": ("RGB", (1, 1), (10, 20, 30)),
    "odd.jpg": ("RGB", (31, 7), (10, 20, 30)),
}


def test_a_picture_of_any_kind_is_magnified_in_three_ways(upscale, tmp_path):
    structure = sekron.Structure.parse("cp:6x1x1x1,1x6x1x1,1x1x3x3@4")
    sekron.Plan({"body.2": structure}).save(tmp_path / "plan.json")
    for name, (mode, size, colour) in PICTURES.items():
        Image.new(mode, size, colour).save(tmp_path / name)
        error = upscale(tmp_path / name, tmp_path / "out.png", "--plan", tmp_path / "plan.json")
        assert "error" not in error
        with Image.open(tmp_path / "out.png") as sheet:
            assert sheet.mode == "RGB"
            assert sheet.height > SCALE * size[1]
            assert sheet.width >= 3 * SCALE * size[0]
    assert len(list((tmp_path / "runs").glob("sr-animevideov3-repaired/*"))) == 1  # kept


@pytest.mark.slow
def test_without_a_plan_the_network_is_searched_once(upscale, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "run", partial(search.run, n_trials=1, max_sequence_length=2))
    Image.new("RGB", (9, 8)).save(tmp_path / "a.png")
    assert "error" not in upscale(tmp_path / "a.png", tmp_path / "b.png", "--flops", "0.6")
    assert (tmp_path / "b.png").exists()
    assert (tmp_path / "runs" / "sr-animevideov3-plain" / "front.csv").exists()
    error = upscale(tmp_path / "a.png", tmp_path / "c.png", "--flops", "0.001")
    assert "error: " in error
    assert "flops" in error.splitlines()[-1]
    assert not (tmp_path / "c.png").exists()


def test_grey_is_scaled_and_what_is_see_through_is_white(tmp_path):
    for name in ("grey.png", "deep.png", "clear.png"):
        mode, size, colour = PICTURES[name]
        Image.new(mode, size, colour).save(tmp_path / name)
        image = read_picture(tmp_path / name)
        assert image.shape == (1, 3, size[1], size[0])
        grey = 1.0 if mode == "RGBA" else 128 / 255
        torch.testing.assert_close(image, torch.full_like(image, grey), atol=1e-3, rtol=0)


def test_what_cannot_be_magnified_is_told_in_one_line(upscale, tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "fine.png")
    data = (tmp_path / "fine.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[:50])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "plan.json").write_text("{")
    Image.new("L", (1001, 1000)).save(tmp_path / "large.png")
    out, fine = tmp_path / "out.png", tmp_path / "fine.png"
    wrong = {
        "must be a picture, but is not there": (tmp_path / "none.png", out),
        "cut.png must be a picture that can be read": (tmp_path / "cut.png", out),
        "text.png must be a picture that can be read": (tmp_path / "text.png", out),
        "empty.png must be a picture that can be read": (tmp_path / "empty.png", out),
        "must be a picture that can be read: ": (tmp_path, out),
        "must have at most 1000000 pixels, got 1001 by 1000": (tmp_path / "large.png", out),
        "must end in .png": (fine, tmp_path / "out.xyz"),
        "in a folder that exists": (fine, tmp_path / "no" / "out.png"),
        "plan.json": (fine, out, "--plan", tmp_path / "plan.json"),
        "no.json": (fine, out, "--plan", tmp_path / "no.json"),
    }
    for text, arguments in wrong.items():
        *_, error = upscale(*arguments).splitlines()
        assert error.startswith("error: ")
        assert text in error
    assert not out.exists()


@pytest.mark.slow
def test_a_row_of_the_clock_stands_in_place_of_the_one_of_before(tiny, monkeypatch, tmp_path):
    run = search.run

    def by_flops(model, image, *, budget, measure_seconds, **options):
        """Search by what does not depend on the machine; 999 times as fast is out of reach."""
        flops = search.Budget(flops=0.9 / budget.speedup)
        briefly = {"measure_seconds": 0, "n_trials": 0, "max_sequence_length": 2}
        return run(model, image, budget=flops, **options | briefly)

    monkeypatch.setattr(search, "run", by_flops)
    monkeypatch.setattr(sekron, "tune", partial(sekron.tune, steps=10))
    for name, value in (("SIZE", 16), ("RACE_SECONDS", 0.1)):
        monkeypatch.setattr(clock, name, value)
    table = tmp_path / "clock.csv"
    words = ["clock", "--threads", "1", "--runtimes", "torch", "--output", str(table)]
    for asked in ("1.5", "1.5", "999"):
        monkeypatch.setattr(sys, "argv", [*words, "--speedups", asked])
        clock.main()
    frame = pd.read_csv(table).set_index("asked")
    assert list(frame.index) == [1.5, 999.0]
    found = ["flops", "decomposed", "repaired", "tuned", "speedup", "contiguous_speedup"]
    assert frame.loc[1.5, found].notna().all()
    assert "flops" in frame.loc[999.0, "note"]
