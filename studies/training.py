"""Train a classifier on tensors, score it, and keep its weights so that no study trains twice."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional as F

from studies.kept import kept

RUNS = Path(__file__).resolve().parents[1] / ".runs"
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
MAX_SHIFT = 0.0625  # of the image's side: half a pixel of an 8x8 digit, 2 pixels of a 32x32 image


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int = 10,
    batch_size: int = 64,
    learning_rate: float = 0.1,
    seed: int = 0,
) -> None:
    """Train a classifier in place: SGD, a one-cycle schedule, images shifted at random.

    The progress bar goes to stderr. The training flags are left as they were found.

    Args:
        model: Maps images to logits `(N, classes)`; its weights are changed.
        images: Training images of shape `(N, C, H, W)`, on the model's device.
        labels: Class indices of shape `(N,)`.
        epochs: Passes over the images, at least 1.
        batch_size: Images per step at most; the batches of an epoch differ by one image at most.
        learning_rate: The schedule's peak.
        seed: Seed of the order and of the shifts.

    Raises:
        ValueError: If `epochs` or `batch_size` is below 1.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        >>> train(model, torch.randn(8, 1, 4, 4), torch.arange(8) % 2, epochs=1)

    Reference:
        Smith and Topin, "Super-Convergence", 2018, for the schedule.
    """
    if epochs < 1 or batch_size < 1:
        raise ValueError(
            f"`epochs` and `batch_size` must be at least 1, got {epochs} and {batch_size}."
        )
    generator = torch.Generator().manual_seed(seed)
    n_steps = -(-len(images) // batch_size)
    optimizer = torch.optim.SGD(
        model.parameters(), learning_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, epochs * n_steps)
    with _mode(model, training=True), _progress() as progress:
        task = progress.add_task("", total=epochs * n_steps, epoch=1, loss=0.0, accuracy=0.0)
        for epoch in range(1, epochs + 1):
            seen, right = 0, 0
            order = torch.randperm(len(images), generator=generator).to(images.device)
            # Equal batches: a last batch of three images would spoil the batch norm statistics.
            for batch in order.tensor_split(n_steps):
                shifted = _shifted(images[batch], generator)
                loss, n_right = _step(model, optimizer, shifted, labels[batch])
                schedule.step()
                seen, right = seen + len(batch), right + n_right
                progress.update(task, advance=1, epoch=epoch, loss=loss, accuracy=right / seen)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 256) -> float:
    """Measure the share of images that a classifier names correctly.

    Args:
        model: Maps images to logits `(N, classes)`; evaluated in eval mode, left as found.
        images: Images of shape `(N, C, H, W)`, on the model's device.
        labels: Class indices of shape `(N,)`.
        batch_size: Images per forward pass; bounds the memory, not the result.

    Returns:
        The accuracy, in [0, 1].

    Example:
        >>> accuracy(nn.Identity(), torch.eye(3), torch.tensor([0, 1, 0]))
        0.6666666666666666
    """
    with torch.no_grad(), _mode(model, training=False):
        batches = zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True)
        return sum(_n_right(model(x), y) for x, y in batches) / len(labels)


def trained(
    name: str,
    build: Callable[[], nn.Module],
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int = 10,
    batch_size: int = 64,
    learning_rate: float = 0.1,
    seed: int = 0,
    folder: Path = RUNS,
) -> nn.Module:
    """Build and train a network, or load the weights of an earlier identical training.

    The file's name carries what determines the weights: the network, the data and the settings.
    A file that cannot be read, or whose weights do not fit the network, is replaced.

    Args:
        name: Names the network that `build` builds; part of the file's name.
        build: Returns the network with fresh weights, drawn from torch's global CPU generator,
            which is seeded for the call and restored.
        images: Training images of shape `(N, C, H, W)`.
        labels: Class indices of shape `(N,)`.
        epochs: As in `train`.
        batch_size: As in `train`.
        learning_rate: As in `train`.
        seed: Seed of the fresh weights, of the order and of the shifts.
        folder: Where the weights are kept, by default `.runs` at the root of the repository.

    Returns:
        The trained network, in eval mode.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> build = lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        >>> images, labels = torch.randn(8, 1, 4, 4), torch.arange(8) % 2
        >>> with TemporaryDirectory() as folder:
        ...     first = trained("linear", build, images, labels, epochs=1, folder=Path(folder))
        ...     again = trained("linear", build, images, labels, epochs=1, folder=Path(folder))
        >>> torch.equal(first[1].weight, again[1].weight)
        True
    """
    settings = (epochs, batch_size, learning_rate, seed, MOMENTUM, WEIGHT_DECAY, MAX_SHIFT)
    key = f"{name}-epochs{epochs}-seed{seed}-{_digest(images, labels, settings)}"
    path = folder / f"{key}.safetensors"

    def fit(model: nn.Module) -> None:
        train(
            model,
            images,
            labels,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
        )

    return kept(path, lambda: build().to(images.device), fit, seed=seed)


@contextmanager
def _mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Set every training flag, and give each module its own back."""
    flags = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def _progress() -> Progress:
    return Progress(
        TextColumn("epoch {task.fields[epoch]:>2}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  accuracy {task.fields[accuracy]:.1%}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by its own few pixels, repeating the pixels at the border."""
    height, width = images.shape[-2:]
    reach = round(MAX_SHIFT * min(height, width))
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, C, shifts, shifts, H, W)
    down, right = torch.randint(2 * reach + 1, (2, len(images)), generator=generator)
    return windows[torch.arange(len(images)), :, down, right]  # (N, C, H, W)


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> tuple[float, int]:
    """Take one step down the loss; returns the loss before it and the number named correctly."""
    logits = model(images)  # (n, classes)
    loss = F.cross_entropy(logits, labels)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.item(), _n_right(logits, labels)


def _n_right(logits: Tensor, labels: Tensor) -> int:
    return int((logits.argmax(dim=1) == labels).sum())


def _digest(images: Tensor, labels: Tensor, settings: tuple[float, ...]) -> str:
    digest = hashlib.sha256(repr(settings).encode())
    for tensor in (images, labels):
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
