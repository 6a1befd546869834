"""What a network puts out: how far two outputs are apart, and in which directions that counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sekron.forward.tensors import map_tensors, scalar, tensors_in
from sekron.network.precision import HALF

NUDGE = 1e-2
"""How far a divergence of the user's is looked into, relative to the size of the outputs."""

LEAST_SQUARES = 1e-12
"""Least sum of squares that something is relative to."""


@dataclass(frozen=True, slots=True)
class OutputKind:
    """What a network's outputs are, tensors or trees of tensors.

    Attributes:
        name: `logits`, `values` or `given`.
        divergence: Of an output, the one that is wanted, and the temperature of logits; 0 where
            they are equal, mean over the images.
        draw: Of an output and a generator: a scalar whose gradient g at the output is random, and
            the mean of g gᵀ the curvature of the divergence there, but for a factor.
    """

    name: str
    divergence: Callable[[Any, Any, float], Tensor]
    draw: Callable[[Any, torch.Generator], Tensor]


Output = Literal["logits", "values"] | Callable[[Any, Any], Tensor] | OutputKind
"""What users say of a network's outputs: a name of `KINDS`, or a divergence of their own.

That is a function of what the compressed and what the dense network put out, which returns a scalar
tensor with a gradient, 0 where both are equal and more where they are not."""


def kind_of(output: Output | None, example: object) -> OutputKind:
    """Return what a network's outputs are, by what the user says or by what they look like.

    Outputs are taken for logits where all of them are matrices `(N, classes)` that no
    probabilities could be, for values otherwise.

    Args:
        output: What the user says; None to guess.
        example: What the network puts out for a batch.

    Raises:
        ValueError: If there is no such kind, or what the user calls logits is none.
    """
    if isinstance(output, OutputKind):
        return output
    if output is None:
        return KINDS["logits" if all(map(_may_be_logits, real_tensors(example))) else "values"]
    if callable(output):
        return _given(output)
    if output not in KINDS:
        raise ValueError(
            f"`output` must be {', '.join(KINDS)} or a function of two outputs, got {output!r}."
        )
    alone = [t for t in real_tensors(example) if not _has_classes(t)] if output == "logits" else []
    if alone:
        raise ValueError(
            "logits must be of two classes or more along axis 1, got an output of shape "
            f"{tuple(alone[0].shape)}; let `output` be values, or a function of two outputs."
        )
    return KINDS[output]


def _has_classes(tensor: Tensor) -> bool:
    return tensor.dim() > 1 and tensor.shape[1] > 1


def _may_be_logits(tensor: Tensor) -> bool:
    if tensor.dim() != 2 or not _has_classes(tensor) or not len(tensor):
        return False
    low, high = tensor.detach().aminmax()
    return not (float(low) >= 0.0 and float(high) <= 1.0)


def real_tensors(tree: object) -> list[Tensor]:
    """Return the tensors that differ continuously, in single precision at least.

    Sums over many numbers overflow in half precision, and differences of logarithms vanish.

    Args:
        tree: What a network puts out.

    Raises:
        ValueError: If one is sparse or nested, which cannot be compared number by number.
    """
    found = [tensor for tensor in tensors_in(tree) if tensor.is_floating_point()]
    for tensor in found:
        if tensor.layout != torch.strided or tensor.is_nested:
            kind = "nested" if tensor.is_nested else str(tensor.layout)
            raise ValueError(f"the network must put out dense tensors, got one that is {kind}.")
    return [leaf.float() if leaf.dtype in HALF else leaf for leaf in found]


def _pairs(output: object, wanted: object) -> list[tuple[Tensor, Tensor]]:
    outputs, targets = real_tensors(output), real_tensors(wanted)
    shapes = [[tuple(t.shape) for t in tensors] for tensors in (outputs, targets)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "the dense network's output must have the shape of the network's, "
            f"{', '.join(map(str, shapes[0]))}, got {', '.join(map(str, shapes[1]))}."
        )
    return list(zip(outputs, targets, strict=True))


def _stacked(terms: list[Tensor]) -> Tensor:
    if not terms:
        raise ValueError("the network must put out tensors of real numbers, got none.")
    return torch.stack(terms)


def _of_logits(output: object, wanted: object, temperature: float) -> Tensor:
    """Return `T² · KL(softmax(t / T) ‖ softmax(y / T))`, mean over images and positions."""
    terms = []
    for y, t in _pairs(output, wanted):
        log_probs, targets = ((z / temperature).log_softmax(dim=1) for z in (y, t))
        n_rows = y.numel() // y.shape[1]
        total = F.kl_div(log_probs, targets, log_target=True, reduction="sum")
        terms.append(temperature**2 * total / max(n_rows, 1))
    return _stacked(terms).sum()


def _of_values(output: object, wanted: object, _: float) -> Tensor:
    """Return the sum of `‖y − t‖² / ‖t‖²`; where some t are not zero, those that are do not count.

    Nothing is small beside zero: one of them would outweigh all others.
    """
    pairs = _pairs(output, wanted)
    sizes = _stacked([t.square().sum() for _, t in pairs])
    errors = _stacked([(y - t).square().sum() for y, t in pairs])
    is_zero = sizes == 0
    counts = ~is_zero | is_zero.all()
    return (counts * errors / sizes.clamp_min(LEAST_SQUARES)).sum()


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, like.shape, generator=generator, device="cpu") * 2.0 - 1.0).to(like)


def _draw_logits(output: object, generator: torch.Generator) -> Tensor:
    """Return `⟨A z, y⟩` for random signs z, where A Aᵀ is the covariance of a drawn label.

    Every class takes part with the root of its probability p: `A = diag(√p) − p √pᵀ`. Labels that
    are drawn instead have the same covariance and tell far less each, since most are the likeliest.
    """
    terms = []
    for y in real_tensors(output):
        probs = y.detach().softmax(dim=1)
        signed = probs.sqrt() * _signs(y, generator)
        terms.append(((signed - probs * signed.sum(dim=1, keepdim=True)) * y).sum())
    return _stacked(terms).sum()


def _draw_values(output: object, generator: torch.Generator) -> Tensor:
    """Return `⟨z, y⟩` for random signs z."""
    return _stacked([(y * _signs(y, generator)).sum() for y in real_tensors(output)]).sum()


KINDS = {
    "logits": OutputKind("logits", _of_logits, _draw_logits),
    "values": OutputKind("values", _of_values, _draw_values),
}


def _given(function: Callable[[Any, Any], Tensor]) -> OutputKind:
    """Return the kind whose divergence is a function of the user's."""

    def divergence(output: object, wanted: object, _: float) -> Tensor:
        return scalar("output", function(output, wanted))

    def draw(output: object, generator: torch.Generator) -> Tensor:
        """Return the divergence from outputs nearby, whose gradient is `H z` for random signs z."""

        def nudged(leaf: Tensor) -> Tensor:
            if not leaf.is_floating_point():
                return leaf
            size = leaf.detach().square().mean().sqrt()
            return leaf.detach() + NUDGE * size * _signs(leaf, generator)

        return divergence(output, map_tensors(nudged, output), 1.0)

    return OutputKind("given", divergence, draw)
