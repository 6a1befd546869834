"""How a compressed network is trained further."""

from dataclasses import dataclass

from sekron.scalars import number, whole


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train.

    Args:
        epochs: Passes over the data.
        learning_rate: First learning rate; it falls to zero along a cosine.
        decay: Weight decay `decay / 2 · ‖W‖²`, where `W` is the product of the factors of a
            factorized layer, or any other weight; biases and batch norm are left alone.
        distillation: Share of the loss that is the divergence from the dense network, if there
            is one; the rest is the task's loss, by default cross-entropy with the labels.
        temperature: Temperature of that divergence.
        clip: Norm to which a gradient is cut.
        mixed_precision: `no`, `fp16` or `bf16`; None for what `accelerate launch` was told, or this
            process trained in before.

    Raises:
        ValueError: If one of them is out of range.
    """

    epochs: int = 10
    learning_rate: float = 0.01
    decay: float = 1e-4
    distillation: float = 0.5
    temperature: float = 4.0
    clip: float = 5.0
    mixed_precision: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        object.__setattr__(self, "epochs", whole("epochs", self.epochs))
        for name in ("learning_rate", "decay", "distillation", "temperature", "clip"):
            object.__setattr__(self, name, number(name, getattr(self, name)))
        if self.epochs < 1:
            raise ValueError(f"`epochs` must be at least 1, got {self.epochs}.")
        for name in ("learning_rate", "temperature", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        if not self.decay >= 0 or not 0 <= self.distillation <= 1:
            raise ValueError(
                "`decay` must be at least 0 and `distillation` between 0 and 1, got "
                f"{self.decay} and {self.distillation}."
            )
        if self.mixed_precision not in {None, "no", "fp16", "bf16"}:
            raise ValueError(
                f"`mixed_precision` must be no, fp16 or bf16, got {self.mixed_precision!r}."
            )


DEFAULT_RECIPE = Recipe()
