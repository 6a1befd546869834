"""Linear algebra in the precision of its numbers, whatever the caller's autocast says."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def in_own_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Return a block in which products on a tensor's device keep the dtype of their factors.

    Autocast would take those in fp32 in half precision, and round their results to it.
    """
    device = tensor.device.type
    if not torch.amp.is_autocast_available(device):  # as on `meta`
        return nullcontext()
    return torch.autocast(device, enabled=False)
