"""CREPE: the real weights, its decoding, tones, and files that are not its own."""

import math

import pytest
import torch

from studies.pitch.tones import noisy, tones
from studies.pretrained.crepe import (
    CENTS_PER_PITCH,
    CREPE,
    FIRST_CENTS,
    FRAME,
    KERNELS,
    SAMPLE_RATE,
    cents_of,
    cents_of_hertz,
    crepe_full,
    fill_crepe,
    normalised,
)

WIDTHS = (1, 5, 3, 7, 2, 11, 13)


@pytest.fixture(scope="module")
def crepe():
    try:
        return crepe_full()
    except ModuleNotFoundError as missing:  # no extra installs it: see `INSTALL`
        pytest.skip(str(missing))


def test_crepe_full_has_the_published_parameters(crepe):
    widths = (1, 1024, 128, 128, 128, 256, 512)
    pairs = zip(widths[:-1], widths[1:], KERNELS, strict=True)
    counted = sum(n_in * n_out * taps + 3 * n_out for n_in, n_out, taps in pairs)  # bias, norm
    counted += (512 * 4 + 1) * 360
    assert counted == 22_239_976
    assert sum(p.numel() for p in crepe.parameters()) == counted
    assert not crepe.training


@pytest.mark.parametrize("hertz", [41.2, 55.0, 98.0, 220.0, 440.0, 987.77, 1760.0])
@pytest.mark.parametrize("n_harmonics", [1, 4])
def test_the_pitch_of_a_tone_is_within_ten_cents(crepe, hertz, n_harmonics):
    seconds = torch.arange(FRAME) / SAMPLE_RATE
    tone = sum(torch.sin(2 * math.pi * h * hertz * seconds) / h for h in range(1, n_harmonics + 1))
    with torch.no_grad():
        found = cents_of(crepe(normalised(tone[None])))
    assert abs(float(found - cents_of_hertz(torch.tensor(hertz)))) < 10.0


def test_a_pitch_is_the_mean_around_the_likeliest():
    likely = torch.zeros(3, 360)
    likely[0, 100] = 0.7
    likely[1, 100:103] = torch.tensor([0.5, 0.9, 0.5])
    likely[1, 106] = 0.4  # five away: another pitch
    likely[2, 358:] = torch.tensor([0.2, 0.6])
    places = (cents_of(likely) - FIRST_CENTS) / CENTS_PER_PITCH
    torch.testing.assert_close(places, torch.tensor([100.0, 101.0, 358.75]))
    assert float(cents_of_hertz(torch.tensor(20.0))) == 1200.0


def test_frames_have_no_mean_and_unit_variance_and_silence_stays():
    frames = normalised(3.0 + 7.0 * torch.randn(2, FRAME))
    torch.testing.assert_close(frames.mean(dim=1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(frames.std(dim=1), torch.ones(2))
    assert torch.equal(normalised(torch.ones(1, FRAME)), torch.zeros(1, FRAME))


def test_tones_are_of_unit_power_and_of_their_pitch():
    samples, hertz = tones(5, seed=3)
    torch.testing.assert_close(samples.square().mean(dim=1), torch.ones(5))
    assert torch.equal(samples, tones(5, seed=3)[0])
    assert not torch.equal(samples, tones(5, seed=4)[0])
    spectrum = torch.fft.rfft(samples.double() * torch.hann_window(FRAME), n=2**17).abs()
    for own, pitch in zip(spectrum, hertz.tolist(), strict=True):
        places = torch.tensor([round(pitch * h * 2**17 / SAMPLE_RATE) for h in (1, 2)])
        assert (own[places] > 0.02 * own.max()).all()  # the pitch and its octave sound
        assert own[: int(places[0] * 0.3)].max() < 0.1 * own.max()  # and nothing far below


def test_noise_is_as_loud_as_it_is_said_to_be():
    samples, _ = tones(4, seed=0)
    loud = noisy(samples, torch.tensor([[60.0], [0.0], [0.0], [0.0]]), seed=1)
    likeness = (loud * normalised(samples)).mean(dim=1)
    assert likeness[0] > 0.99
    torch.testing.assert_close(likeness[1:], torch.full((3,), 0.5**0.5), atol=0.08, rtol=0)


def write(path, model, change=lambda tensors: tensors):
    """Write weights under torchcrepe's names."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        part, _, rest = name.partition(".")
        number, _, last = rest.partition(".")
        own = {"convolutions": "conv{}", "norms": "conv{}_BN"}.get(part)
        tensors[f"{own.format(int(number) + 1)}.{last}" if own else name] = tensor
    torch.save(change(tensors), path)


def test_what_was_written_is_read(tmp_path):
    model, other = CREPE(WIDTHS), CREPE(WIDTHS)
    write(tmp_path / "tiny.pth", model)
    fill_crepe(other, tmp_path / "tiny.pth")
    frames = torch.randn(2, FRAME)
    assert torch.equal(model.eval()(frames), other.eval()(frames))


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: {name: t for name, t in tensors.items() if name != "conv3.bias"},
        lambda tensors: tensors | {"conv7.weight": torch.zeros(3)},
        lambda tensors: tensors | {"conv2.weight": torch.zeros(3)},
        lambda tensors: tensors | {"convolution.weight": torch.zeros(3)},
        list,
        lambda tensors: tensors | {"conv1.bias": CREPE},  # a class: only tensors are unpickled
    ],
)
def test_a_file_of_another_layout_is_refused(tmp_path, change):
    write(tmp_path / "other.pth", CREPE(WIDTHS), change)
    with pytest.raises(ValueError, match=r"^other.pth must hold the weights of CREPE") as caught:
        fill_crepe(CREPE(WIDTHS), tmp_path / "other.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("n_bytes", [0, 10, 1000, -100])
def test_a_file_that_is_cut_short_is_refused(tmp_path, n_bytes):
    path = tmp_path / "short.pth"
    write(path, CREPE(WIDTHS))
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(ValueError, match=r"^short.pth must hold the weights of CREPE"):
        fill_crepe(CREPE(WIDTHS), path)
