"""ImageNet as folders of images, one per class, from a path that the user has."""

from pathlib import Path

from torch import Tensor
from torch.utils.data import DataLoader

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def imagenet(
    folder: str | Path, *, training: bool, batch_size: int = 64, workers: int = 2
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Load `folder/train/<class>/*` or `folder/val/<class>/*` as torchvision's recipes do.

    Args:
        folder: With `train` and `val`.
        training: Whether to take `train`, cropped and flipped at random and shuffled, or `val`,
            cropped at the centre.
        batch_size: Images per batch.
        workers: Processes that decode.

    Returns:
        Batches `(images (N, 3, 224, 224), labels (N,))`.

    Raises:
        FileNotFoundError: If the folder is missing or holds no classes.

    Reference:
        He et al., Deep residual learning for image recognition, 2015, section 3.4.
    """
    from torchvision import datasets, transforms  # noqa: PLC0415  heavy, and only needed here

    crop = (
        [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
        if training
        else [transforms.Resize(256), transforms.CenterCrop(224)]
    )
    steps = [*crop, transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    images = datasets.ImageFolder(
        Path(folder) / ("train" if training else "val"), transforms.Compose(steps)
    )
    return DataLoader(images, batch_size, shuffle=training, num_workers=workers)
