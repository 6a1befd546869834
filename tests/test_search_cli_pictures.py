"""A folder of pictures as unlabelled images, beside a file of tensors."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from search.cli.calibration import load_calibration
from search.cli.pictures import load_pictures, parse_normalization, spread
from search.folder.input_spec import InputSpec
from search.folder.run_folder import RunFolder
from tests.test_search_cli_app import QUICK, files, sekron_command

__all__ = ["files", "sekron_command"]  # fixtures are found by their names

RAW = parse_normalization("none")
COLOUR = (1, 3, 11, 9)


def pixels(*shape):
    """Return a picture as bytes, always the same for a shape."""
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def save(folder, name, array):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_a_picture_of_the_inputs_size_is_itself_in_every_format(tmp_path):
    array = pixels(11, 9, 3)
    for name in ("a.png", "b.BMP", "deep/er/c.tiff", "d.ppm"):
        save(tmp_path, name, array)
    (tmp_path / "notes.txt").write_text("no picture, and not meant as one")
    Image.fromarray(array).save(tmp_path / "e.webp", lossless=True)
    images = load_pictures(str(tmp_path), COLOUR, RAW, 10)
    expected = torch.from_numpy(array).permute(2, 0, 1) / 255.0
    assert images.shape == (5, 3, 11, 9)
    for image in images:
        torch.testing.assert_close(image, expected)
    images = load_pictures(str(tmp_path), COLOUR, parse_normalization("imagenet"), 10)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (expected - mean[:, None, None]) / deviation[:, None, None]
    torch.testing.assert_close(images[0], expected)


@pytest.mark.parametrize("shape", [(22, 60), (50, 18), (44, 36)])
def test_a_picture_just_covers_the_input_and_is_cut_around_its_centre(tmp_path, shape):
    height, width = shape
    ramp = np.linspace(0, 1, 60)[:height, None] + 2 * np.linspace(0, 1, 60)[None, :width]
    save(tmp_path, "a.png", (ramp * 80).astype(np.uint8))
    (image,) = load_pictures(str(tmp_path), (1, 1, 11, 9), RAW, 1)
    assert image.shape == (1, 11, 9)
    middle = (ramp * 80)[height // 2 - 1 : height // 2 + 1, width // 2 - 1 : width // 2 + 1]
    assert image[0, 5, 4] * 255 == pytest.approx(middle.mean(), abs=2)
    scale = min(height / 11, width / 9)  # pixels of the picture for one of the input
    steps = (80 * scale / 59, 160 * scale / 59)
    assert (image[0, 9, 4] - image[0, 1, 4]) * 255 / 8 == pytest.approx(steps[0], rel=0.1)
    assert (image[0, 5, 7] - image[0, 5, 1]) * 255 / 6 == pytest.approx(steps[1], rel=0.1)


def test_channels_are_those_of_the_input(tmp_path):
    array = pixels(11, 9, 4)
    colour = torch.from_numpy(array[..., :3]).permute(2, 0, 1) / 255.0
    grey = torch.from_numpy(array[..., 0]) / 255.0
    save(tmp_path, "rgba.png", array)
    (image,) = load_pictures(str(tmp_path), COLOUR, RAW, 1)
    torch.testing.assert_close(image, colour)
    (image,) = load_pictures(str(tmp_path), (1, 4, 11, 9), RAW, 1)
    torch.testing.assert_close(image[:3], colour)
    (image,) = load_pictures(str(tmp_path), (1, 1, 11, 9), RAW, 1)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    torch.testing.assert_close(image[0], (weights * colour).sum(0), atol=0.004, rtol=0)

    for name, saved in {
        "grey.png": array[..., 0],
        "sixteen.png": array[..., 0].astype(np.uint16) * 257,
    }.items():
        (tmp_path / "rgba.png").unlink(missing_ok=True)
        save(tmp_path / name, name, saved)
        for channels in (1, 3):
            (image,) = load_pictures(str(tmp_path / name), (1, channels, 11, 9), RAW, 1)
            torch.testing.assert_close(image, grey.expand(channels, 11, 9))

    palette = Image.fromarray(array[..., :3]).quantize(7)
    (tmp_path / "palette").mkdir()
    palette.save(tmp_path / "palette" / "a.gif", transparency=2)
    (image,) = load_pictures(str(tmp_path / "palette"), COLOUR, RAW, 1)
    expected = torch.from_numpy(np.array(palette.convert("RGB"))).permute(2, 0, 1) / 255.0
    torch.testing.assert_close(image, expected)


def test_what_cannot_be_read_is_named_counted_and_left_out(tmp_path, capsys):
    array = pixels(11, 9, 3)
    for name in ("a.png", "z.png"):
        save(tmp_path, name, array)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    Image.fromarray(np.ones((11, 9), np.float32)).save(tmp_path / "real.tif")
    (tmp_path / "folder.png").mkdir()
    images = load_pictures(str(tmp_path), COLOUR, RAW, 100)
    assert len(images) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 5
    for name, reason in [
        ("cut.png", "OSError: "),
        ("empty.jpg", "UnidentifiedImageError: "),
        ("script.png", "UnidentifiedImageError: "),  # nothing was started to draw it
        ("real.tif", "ValueError: pixels must be integers, got floats"),
    ]:
        assert any(f"skipped {tmp_path / name}: {reason}" in line for line in lines)
    assert lines[-1] == "skipped 4 of 6 pictures"


def test_some_of_many_are_spread_evenly_in_the_order_of_their_names(tmp_path):
    for i in range(10):
        save(tmp_path, f"{i}.png", np.full((11, 9), 10 * i, np.uint8))
    images = load_pictures(str(tmp_path), (1, 1, 11, 9), RAW, 4)
    assert [round(image.mean().item() * 255) for image in images] == [0, 20, 50, 70]
    assert spread(3, 5) == [0, 1, 2]
    assert spread(0, 5) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("half", ((0.5,), (0.5,))),
        ("0.13/0.31", ((0.13,), (0.31,))),
        ("1,2,3/0.5,1,2", ((1.0, 2.0, 3.0), (0.5, 1.0, 2.0))),
    ],
)
def test_normalizations_as_text(text, expected):
    assert parse_normalization(text) == expected


@pytest.mark.parametrize("text", ["", "0.5", "a/b", "0/0", "0/-1", "nan/1", "0/inf", "1/1/1", "/1"])
def test_text_that_is_no_normalization(text):
    with pytest.raises(ValueError, match="a normalization is imagenet, clip, half, none or mean"):
        parse_normalization(text)


def load(path, *inputs, **options):
    """Return the batches of a network with one input."""
    specs = [InputSpec.parse(text) for text in inputs]
    batches = load_calibration(str(path), specs, **options)
    return [tensor for batch in batches for tensor in batch.positional]


def test_batches_are_of_a_moderate_size_and_of_the_inputs_dtype(tmp_path):
    save_file({"x": torch.arange(600.0).view(150, 4)}, tmp_path / "x.safetensors")
    batches = load(tmp_path / "x.safetensors", "1x4")
    assert [len(batch) for batch in batches] == [64, 64, 22]
    assert torch.equal(torch.cat(batches).flatten(), torch.arange(600.0))
    (batch,) = load(tmp_path / "x.safetensors", "1x4:float64", n_images=3)
    assert torch.equal(batch[:, 0], torch.tensor([0.0, 200.0, 400.0], dtype=torch.float64))
    for name in ("a.png", "b.png", "c.png"):
        save(tmp_path / "large", name, pixels(8, 8, 3))
    batches = load(tmp_path / "large", "1x3x2048x1024:float16", normalization=RAW)
    assert [tuple(batch.shape) for batch in batches] == [(2, 3, 2048, 1024), (1, 3, 2048, 1024)]
    assert batches[0].dtype == torch.float16


@pytest.mark.parametrize(
    ("path", "inputs", "options", "message"),
    [
        (
            "pictures",
            ["1x3x8x8"],
            {},
            "must be normalised as in training; add --normalize imagenet",
        ),
        ("pictures", ["1x3x8x8", "1x3"], {}, "are one input, but the network takes 2"),
        (
            "pictures",
            ["1x3x8x8:uint8"],
            {"normalization": RAW},
            r"floating-point numbers, but .* of uint8; give a file",
        ),
        ("pictures", ["1x2x8x8"], {"normalization": RAW}, "channels, .*, but the input is 1x2x8x8"),
        ("pictures", ["1x48"], {"normalization": RAW}, "but the input is 1x48; give a file"),
        (
            "pictures",
            ["1x3x8x8"],
            {"normalization": ((0.0,) * 2, (1.0,))},
            "one for each of the 3 channels, got 2",
        ),
        ("pictures", ["1x3x8x8"], {"n_images": 0}, "--images must be at least 1, got 0"),
        ("nothing", ["1x3x8x8"], {"normalization": RAW}, "must hold a picture that can be read"),
        ("x.safetensors", ["1x4"], {"normalization": RAW}, "is no folder of pictures, so --norm"),
        ("x.safetensors", ["1x4:int64"], {}, r"of int64, got \(150, 4\) torch.float32"),
        ("", ["1x4"], {"normalization": RAW}, "--normalize must come with --calibration"),
        ("", ["1x4"], {"n_images": 3}, "--images must come with --calibration"),
    ],
)
def test_what_is_no_calibration_is_refused(tmp_path, monkeypatch, path, inputs, options, message):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "pictures", "a.png", pixels(8, 8, 3))
    (tmp_path / "nothing").mkdir()
    save_file({"x": torch.zeros(150, 4)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=message):
        load(path, *inputs, **options)


def test_a_search_with_pictures_is_one_with_their_tensor(sekron_command, files):
    for i in range(5):
        save(
            files / "pictures",
            f"{i}.png",
            np.random.default_rng(i).integers(0, 256, (11, 9, 3), dtype=np.uint8),
        )
    (files / "pictures" / "bad.png").touch()
    normalize = parse_normalization("half")
    images = load_pictures(str(files / "pictures"), COLOUR, normalize, 10)
    save_file({"images": images}, files / "pictures.safetensors")
    arguments = ("search", "cli_networks:small", "--weights", "good.safetensors", *QUICK)
    arguments = (*arguments, "--flops", "60%", "--calibration")
    code, _, err = sekron_command(*arguments, "pictures.safetensors", "--run", "of_tensor")
    assert code == 0, err
    code, _, err = sekron_command(
        *arguments, "pictures", "--normalize", "half", "--images", "9", "--run", "of_pictures"
    )
    assert code == 0, err
    assert "skipped 1 of 6 pictures" in err
    first, second = (RunFolder(files / name).read() for name in ("of_tensor", "of_pictures"))
    assert first.metric == second.metric != ""
    code, out, err = sekron_command(*arguments, "pictures", "--run", "unnormalized")
    assert (code, out) == (2, "")
    assert "must be normalised as in training; add --normalize imagenet, clip, half, none or" in err
    assert err.count("\n") == 1
