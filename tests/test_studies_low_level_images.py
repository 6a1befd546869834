"""Photographs from folders as benchmarks ship them, and whatever else people put there."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from studies.low_level.images import Pair, pair_of, pairs_in, read_rgb
from studies.low_level.patches import Patches, as_batch, batches_of
from studies.low_level.photographs import SAMPLES, TEST_SIZE, from_folders, samples


def pixels(height, width, channels=3, seed=0):
    shape = (height, width, channels)[: 3 if channels > 1 else 2]
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return array


def channels_first(array):
    return torch.from_numpy(array).movedim(-1, 0)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_an_odd_size_is_cropped_and_the_small_image_is_bicubic(tmp_path, scale):
    whole = channels_first(write(tmp_path / "a.png", pixels(53, 67) // 2 + 64))
    (pair,) = pairs_in(tmp_path, scale)
    height, width = 53 // scale, 67 // scale
    assert torch.equal(pair.large, whole[:, : height * scale, : width * scale])
    expected = F.interpolate(
        pair.large[None].float(), (height, width), mode="bicubic", antialias=True
    )
    assert (pair.small - expected[0]).abs().max() <= 1.5  # Pillow rounds after each axis


def test_grey_transparent_and_deep_images_become_rgb_of_eight_bits(tmp_path):
    colour, grey = pixels(5, 7), pixels(5, 7, 1)
    alpha = np.dstack([colour, pixels(5, 7, 1, seed=1)])
    deep = grey.astype(np.uint16) * 257
    for name, array in {"colour": colour, "alpha": alpha, "grey": grey, "deep": deep}.items():
        write(tmp_path / f"{name}.png", array)
    Image.fromarray(np.dstack([grey, grey]), "LA").save(tmp_path / "grey_alpha.png")
    black = Image.fromarray(colour).quantize(2)
    black.save(tmp_path / "palette.png")
    for name in ("colour", "alpha"):
        assert torch.equal(read_rgb(tmp_path / f"{name}.png"), channels_first(colour))
    for name in ("grey", "deep", "grey_alpha"):
        repeated = torch.from_numpy(grey).expand(3, -1, -1)
        assert torch.equal(read_rgb(tmp_path / f"{name}.png"), repeated)
    expected = channels_first(np.array(black.convert("RGB")))
    assert torch.equal(read_rgb(tmp_path / "palette.png"), expected)


def test_what_cannot_be_read_is_named_skipped_and_counted(tmp_path, capsys):
    write(tmp_path / "b.png", pixels(24, 24))
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "c.PNG").write_bytes(whole)
    bad = {
        "cut.png": whole[: len(whole) // 2],
        "empty.png": b"",
        "header.png": whole[:20],
        "spoilt.png": whole[:40] + bytes(40) + whole[80:],
        "words.png": b"no image at all",
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "notes.txt").write_text("not one of the images")
    write(tmp_path / "small.png", pixels(15, 40))
    assert len(pairs_in(tmp_path, 2, least=8)) == 2
    lines = capsys.readouterr().err.splitlines()
    skipped = sorted([*bad, "folder.png", "small.png"])
    assert [line.partition(" is skipped: ")[0] for line in lines[:-1]] == [
        str(tmp_path / name) for name in skipped
    ]
    assert any("must have 16 pixels a side at least, got 14x40 once" in line for line in lines)
    assert lines[-1] == f"7 of 9 images in {tmp_path} were skipped."


def test_a_folder_without_anything_usable_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must be a folder of images, got .*nowhere"):
        pairs_in(tmp_path / "nowhere", 2)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="must hold images that can be used"):
        pairs_in(tmp_path, 2)


def test_small_images_that_a_benchmark_ships_are_taken(tmp_path, capsys):
    shipped = tmp_path / "LR_bicubic" / "X2"
    for name in ("baby", "bird", "lost"):
        write(tmp_path / "HR" / f"{name}.png", pixels(31, 42))
    small = write(shipped / "babyx2.png", pixels(15, 21, seed=1))
    write(shipped / "birdx2.png", pixels(15, 20))
    (pair,) = pairs_in(tmp_path, 2)
    assert torch.equal(pair.small, channels_first(small))
    assert pair.large.shape == (3, 30, 42)
    bird, lost, count = capsys.readouterr().err.splitlines()
    assert "must be 2 times as small, got 15x20 for 31x42" in bird
    assert "lostx2.png" in lost
    assert count.startswith("2 of 3 images")
    assert len(pairs_in(tmp_path, 3)) == 3  # made here, where none are shipped


def test_folders_are_a_training_set_and_sets_to_test_on(tmp_path):
    write(tmp_path / "train" / "a.png", pixels(40, 40))
    write(tmp_path / "train" / "too_small.png", pixels(40, 22))
    with pytest.raises(FileNotFoundError, match="one to test on at least, got train"):
        from_folders(tmp_path, 2, 12)
    write(tmp_path / "Set5" / "a.png", pixels(16, 17))
    write(tmp_path / "Set5" / "too_small.png", pixels(15, 17))
    write(tmp_path / "B100" / "HR" / "a.png", pixels(30, 30))
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "README.txt").write_text("where they are from")
    found = from_folders(tmp_path, 2, 12)
    assert len(found.train) == 1
    assert {name: len(pairs) for name, pairs in found.tests.items()} == {"B100": 1, "Set5": 1}


def test_photographs_of_packages_are_others_to_test_on():
    found = samples(3)
    assert len(found.train) == 11
    tests = found.tests[SAMPLES]
    assert {pair.large.shape for pair in tests} == {(3, TEST_SIZE, TEST_SIZE)}
    for pair in (*found.train, *tests):
        assert pair.large.dtype == pair.small.dtype == torch.uint8
        assert [3 * side for side in pair.small.shape[1:]] == list(pair.large.shape[1:])


@pytest.fixture
def pairs():
    """Photographs whose small images, magnified by repeating pixels, are the large ones."""
    small = [channels_first(pixels(11, 13, seed=seed)) for seed in range(3)]
    large = [image.repeat_interleave(3, 1).repeat_interleave(3, 2) for image in small]
    return [Pair(*images) for images in zip(large, small, strict=True)]


def test_small_and_large_patches_show_the_same(pairs):
    patches = Patches(pairs, 60, 7)
    for small, large in patches:
        assert small.shape == (3, 7, 7)
        assert torch.equal(large, small.repeat_interleave(3, 1).repeat_interleave(3, 2))
        assert 0.0 <= small.min() < 0.1
        assert 0.9 < small.max() <= 1.0
    assert len({small.numpy().tobytes() for small, _ in patches}) > 50


def test_patches_are_turned_and_mirrored_in_all_ways():
    pair = pair_of(channels_first(pixels(22, 22)), 2)
    found = {small.numpy().tobytes() for small, _ in Patches([pair], 100, 11)}
    whole = as_batch(pair.small)[0]
    turned = [torch.rot90(x, k, (1, 2)) for x in (whole, whole.flip(1)) for k in range(4)]
    assert found == {image.contiguous().numpy().tobytes() for image in turned}


def test_batches_are_the_same_in_every_epoch_and_others_for_another_seed(pairs):
    loader = batches_of(pairs, 3, 2, 7)
    assert len(loader) == 3
    first, again = (torch.cat([large for _, large in loader]) for _ in range(2))
    other = torch.cat([large for _, large in batches_of(pairs, 3, 2, 7, seed=1)])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
