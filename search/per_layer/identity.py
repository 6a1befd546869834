"""What a layer is, so that a run folder knows it again and equal layers are searched once."""

from __future__ import annotations

import hashlib

import msgspec
import torch
from torch import Tensor, nn

from sekron.decomposition.metric import Metric
from sekron.network.digest import digest_of
from sekron.network.opening import opened
from sekron.profiling.network_profile import LayerProfile, NetworkProfile
from sekron.structures.geometry import Geometry


def weight_digests(model: nn.Module, measured: NetworkProfile) -> dict[str, str]:
    """Return layer name -> digest of its weight, for the searched layers.

    It is empty where the network is another one, and has no such layer, or none with a weight.
    """
    names = [layer.name for layer in measured.searched]
    modules = dict(opened(model, names).named_modules(remove_duplicate=False))
    weights = {name: getattr(modules.get(name), "weight", None) for name in names}
    return {
        name: digest(weight) if isinstance(weight, Tensor) else ""
        for name, weight in weights.items()
    }


def digest(weight: Tensor) -> str:
    """Return a digest of a weight's shape, type and numbers."""
    data = weight.detach().cpu().contiguous()
    digest_of = hashlib.sha256(f"{tuple(data.shape)} {data.dtype}".encode())
    digest_of.update(data.flatten().view(torch.uint8).numpy().data)
    return digest_of.hexdigest()


def digest_in_metric(weight: Tensor, metric: Metric | None) -> str:
    """Return a digest of a weight and the metric that it is searched in.

    It is of what goes in: the last bits of their product differ from machine to machine.
    """
    if metric is None:
        return digest(weight)
    return digest_of({"weight": weight, "output": metric.output, "input": metric.input})


def digest_of_calls(calls: tuple[Geometry, ...]) -> str:
    """Return a digest of the convolutions around a weight, one per call of its layer."""
    return hashlib.sha256(msgspec.json.encode(calls)).hexdigest()


def identity(layer: LayerProfile, digests: dict[str, str], calibrated: bool) -> tuple[object, ...]:
    """Return what layers share that are searched once: same weight and cost, tied or copied.

    In a metric every layer is a case of its own.
    """
    return (digests[layer.name], layer.calls, layer.name if calibrated else "")
