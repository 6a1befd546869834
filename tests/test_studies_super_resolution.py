"""Fidelity as the field reports it, and the picture of `upscale`."""

import pytest
import torch
from torch.nn import functional as F

from studies.super_resolution.fidelity import OnLuminance, luminance


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
