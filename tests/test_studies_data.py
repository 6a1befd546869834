"""Loaders of the real sets, on small files in those sets' own formats."""

import numpy as np
import pytest
import torch

from studies.cifar import cifar10, cifar100
from studies.imagenet import MEAN, STD, imagenet

NAMES = {
    cifar10: [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"],
    cifar100: ["train.bin", "test.bin"],
}


def write_cifar(folder, loader, n=4):
    """Return the pixels and the labels of all files."""
    generator = np.random.default_rng(0)
    pixels, labels = {}, {}
    for name in NAMES[loader]:
        pixels[name] = generator.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
        labels[name] = generator.integers(0, 10 if loader is cifar10 else 100, n, dtype=np.uint8)
        columns = [labels[name][:, None], pixels[name].reshape(n, -1)]
        if loader is cifar100:
            columns.insert(0, np.full((n, 1), 7, dtype=np.uint8))  # the coarse label
        np.concatenate(columns, axis=1).tofile(folder / name)
    return pixels, labels


@pytest.mark.parametrize("loader", NAMES)
def test_cifar_is_read_in_order_and_normalised_by_its_training_part(tmp_path, loader):
    pixels, labels = write_cifar(tmp_path, loader)
    split = loader(tmp_path)
    *train, test = NAMES[loader]
    raw = torch.from_numpy(np.concatenate([pixels[name] for name in train])).float() / 255
    std, mean = torch.std_mean(raw, dim=(0, 2, 3), keepdim=True)
    torch.testing.assert_close(split.train_images, (raw - mean) / std)
    torch.testing.assert_close(
        split.test_images, (torch.from_numpy(pixels[test]).float() / 255 - mean) / std
    )
    assert split.train_labels.tolist() == [int(x) for name in train for x in labels[name]]
    assert split.test_labels.tolist() == labels[test].tolist()


@pytest.mark.parametrize("loader", NAMES)
def test_a_damaged_or_missing_file_is_named(tmp_path, loader):
    write_cifar(tmp_path, loader)
    last = tmp_path / NAMES[loader][-1]
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{last.name} must hold records of"):
        loader(tmp_path)
    last.unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {last.name}"):
        loader(tmp_path)


def test_imagenet_is_cropped_at_the_centre_and_labelled_by_folder(tmp_path, torchvision):
    from PIL import Image  # noqa: PLC0415  comes with torchvision

    colours = {"n01": (255, 0, 0), "n02": (0, 0, 255)}
    for name, colour in colours.items():
        for part in ("train", "val"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (300, 280), colour).save(tmp_path / part / name / "image.png")
    ((images, labels),) = imagenet(tmp_path, training=False, workers=0)
    assert labels.tolist() == [0, 1]
    wanted = [
        [(value / 255 - m) / s for value, m, s in zip(colour, MEAN, STD, strict=True)]
        for colour in colours.values()
    ]
    expected = torch.tensor(wanted)[:, :, None, None].expand(2, 3, 224, 224)
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)
    ((images, labels),) = imagenet(tmp_path, training=True, workers=0)
    assert images.shape == (2, 3, 224, 224)
    assert sorted(labels.tolist()) == [0, 1]
