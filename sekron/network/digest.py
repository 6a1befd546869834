"""What tells tensors from all others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def digest_of(tensors: Mapping[str, object]) -> str:
    """Return a digest of the names, shapes, types and numbers of tensors.

    Args:
        tensors: In any order, such as a state dict; what is no tensor is left out.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
            numbers = tensor.detach().cpu().contiguous().flatten()
            digest.update(numbers.view(torch.uint8).numpy().data)
    return digest.hexdigest()
