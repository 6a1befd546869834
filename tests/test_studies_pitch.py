"""The study of pitch: its score, frames of speech, and kernels that two factors divide."""

import math
import wave

import numpy as np
import pytest
import torch
from torch import nn

import search
import sekron
from sekron.network.surgery import weight_of
from studies.pitch.accuracy import N_TEST, agreement, raw_pitch_accuracy
from studies.pitch.speech import HOP, speech_frames
from studies.pitch.splits import beside_divided, divides_kernel, pairs_along_time
from studies.pitch.tones import tones
from studies.pretrained.crepe import (
    CENTS_PER_PITCH,
    FIRST_CENTS,
    FRAME,
    N_PITCHES,
    SAMPLE_RATE,
    cents_of_hertz,
    normalised,
)


@pytest.mark.parametrize(("cents_off", "expected"), [(0, 100.0), (40, 100.0), (80, 0.0)])
def test_raw_pitch_accuracy_is_of_pitches_within_fifty_cents(cents_off, expected):
    _, hertz = tones(N_TEST, seed=1)
    places = (cents_of_hertz(hertz) + cents_off - FIRST_CENTS) / CENTS_PER_PITCH
    likely = nn.functional.one_hot(places.round().long(), N_PITCHES).float()
    parts = iter(likely.split(32))
    assert raw_pitch_accuracy(lambda _: next(parts), 20.0) == expected


def test_agreement_is_of_frames_in_which_the_dense_network_hears_a_pitch():
    dense, other = torch.zeros(2, 4, N_PITCHES)
    dense[[0, 1, 2, 3], [100, 100, 100, 100]] = torch.tensor([0.9, 0.5, 0.4, 0.8])
    other[[0, 1, 2, 3], [102, 103, 300, 100]] = 0.1  # 40 and 60 cents off, unvoiced, equal
    assert agreement(other, dense) == pytest.approx(200 / 3)


def write_wave(path, samples, *, rate=SAMPLE_RATE, channels=1):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


def test_frames_of_speech_are_spread_and_what_cannot_be_read_is_named(tmp_path, capsys):
    samples = np.random.default_rng(0).integers(-9000, 9000, FRAME + 6 * HOP)
    write_wave(tmp_path / "good.wav", samples)
    frames = speech_frames(tmp_path, most=3)
    assert capsys.readouterr().err == ""
    starts = (0, 3 * HOP, 6 * HOP)
    expected = np.stack([samples[start : start + FRAME] for start in starts]) / 32768
    torch.testing.assert_close(frames, normalised(torch.from_numpy(expected).float()))

    write_wave(tmp_path / "fast.wav", samples, rate=44_100)
    write_wave(tmp_path / "stereo.wav", samples, channels=2)
    write_wave(tmp_path / "brief.wav", samples[: FRAME - 1])
    (tmp_path / "text.wav").write_text("no sound at all, but more than a header would take")
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "cut.wav").write_bytes((tmp_path / "good.wav").read_bytes()[:30])
    assert torch.equal(speech_frames(tmp_path, most=3), frames)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    for name in ("fast", "stereo", "brief", "text", "empty", "cut"):
        assert sum(f"{name}.wav" in line for line in lines) == 1
    (tmp_path / "good.wav").unlink()
    with pytest.raises(ValueError, match="must hold a WAV file that can be read, got 6 that"):
        speech_frames(tmp_path, most=3)


def test_whole_and_divided_kernels_have_the_errors_that_are_told_at_no_more_flops():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 6, (5, 1)), nn.ReLU(), nn.Conv2d(6, 5, (64, 1))),
        *(nn.Flatten(), nn.Linear(665, 2)),
    ).eval()
    budget = search.Budget(flops=0.7)
    image = torch.zeros(1, 1, 200, 1)
    result = search.run(model, image, budget=budget, n_trials=0, measure_seconds=0, progress=False)
    plan = result.plan(budget)
    (row,) = beside_divided(model, result, {"70%": plan}).itertuples()
    assert (row.layer, row.budget, row.chosen) == ("2", "70%", str(plan["2"]))
    both = search.profile(plan.apply(model), image).flops
    (layer,) = (layer for layer in result.profile.layers if layer.name == "2")
    assert layer.flops - row.flops == result.profile.flops - both
    assert row.chosen in (row.whole, row.divided)  # the search enumerates all of both
    found = ((row.whole, row.error_whole, False), (row.divided, row.error_divided, True))
    for text, error, is_divided in found:
        structure = sekron.Structure.parse(text)
        assert divides_kernel(structure) == is_divided
        weight = weight_of(model, "2")
        assert sekron.relative_error(weight, structure) == pytest.approx(error, abs=1e-6)
        alone = sekron.Plan({"2": structure}).apply(model)
        assert search.profile(alone, image).flops <= both


def test_pairs_along_time_are_all_and_multiply_to_the_weight():
    points = list(pairs_along_time((5, 3, 8, 1)))
    for family, shapes in points:
        assert family == "sekron"
        assert tuple(map(math.prod, zip(*shapes, strict=True))) == (5, 3, 8, 1)
    # Kernels of 2·4 and 4·2 with four homes of the channels; whole ones in both orders are one.
    assert len(points) == len(set(points)) == 2 * 4 + 3
