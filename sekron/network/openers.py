"""Modules that hide linear layers, and what computes the same with these as parts that it calls."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from sekron.layers.attention import Attention
from sekron.layers.factorized import in_place_of, take_over
from sekron.layers.window_attention import ShiftedWindowAttention

Opener = Callable[[nn.Module], nn.Module | None]
"""From a module, which it may take apart, to one that computes the same; None where it cannot."""


def opener_of(module: nn.Module) -> Opener | None:
    """Return what opens a module; None if there is nothing to open.

    Only exact classes are opened: a subclass may compute something else. Torch's transformer
    layers and their subclasses keep their class, and only stop to read the weights of their parts.
    """
    if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerEncoder):
        return _part_by_part
    return None if "forward" in vars(module) else OPENERS.get(class_name(type(module)))


def class_name(kind: type[nn.Module]) -> str:
    """Return the name by which a class is known, without importing the library that it is of."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _attention(module: nn.Module) -> nn.Module | None:
    """Give each projection of `nn.MultiheadAttention` a layer of its own."""
    assert isinstance(module, nn.MultiheadAttention)
    own = module._parameters
    packed, bias = own.get("in_proj_weight"), own.get("in_proj_bias")
    weights = [own.get(f"{letter}_proj_weight") for letter in "qkv"]
    weights = weights if packed is None else [*_thirds(packed)]
    biases = [None] * 3 if bias is None else [*_thirds(bias)]
    out_proj = _relieved(module.out_proj)
    if out_proj is None or any(weight is None for weight in weights):
        return None
    q_proj, k_proj, v_proj = map(_linear, weights, biases)
    target = Attention(
        q_proj,
        k_proj,
        v_proj,
        out_proj,
        module.num_heads,
        dropout=module.dropout,
        batch_first=module.batch_first,
        bias_k=own.get("bias_k"),
        bias_v=own.get("bias_v"),
        add_zero_attn=module.add_zero_attn,
    )
    return take_over(module, target)


def _window_attention(module: nn.Module) -> nn.Module | None:
    """Let torchvision's Swin call its two linear layers."""
    qkv, proj = _relieved(module.qkv), _relieved(module.proj)
    if qkv is None or proj is None:
        return None
    module.qkv, module.proj = qkv, proj
    return ShiftedWindowAttention(module)


def _transposed_linear(module: nn.Module) -> nn.Module:
    """Turn Hugging Face's `Conv1D`, a linear layer whose weight is `(in, out)`."""
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    n_in, n_out = weight.shape
    linear = nn.Linear(n_in, n_out, device="meta", dtype=weight.dtype).to_empty(
        device=weight.device
    )
    with torch.no_grad():
        linear.weight.copy_(weight.T)
    return in_place_of(module, linear)


def _part_by_part(module: nn.Module) -> nn.Module:
    """Keep a transformer layer of torch from running its parts, unasked, as one operator."""
    if isinstance(module, nn.TransformerEncoderLayer):
        module.activation_relu_or_gelu = 0
    if isinstance(module, nn.TransformerEncoder):
        module.use_nested_tensor = False
    return module


def _relieved(layer: object) -> nn.Linear | None:
    """Return a linear layer of the very parameters of one that is only read.

    Its hooks never ran and do not pass on; None where its weight is computed.
    """
    if type(layer) not in (nn.Linear, NonDynamicallyQuantizableLinear):
        return None
    assert isinstance(layer, nn.Linear)
    weight = layer._parameters.get("weight")
    linear = None if weight is None else _linear(weight, layer._parameters.get("bias"))
    return None if linear is None else linear.train(layer.training)


def _linear(weight: nn.Parameter | None, bias: nn.Parameter | None) -> nn.Linear:
    """Return a linear layer of these very parameters."""
    assert weight is not None
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.register_parameter("weight", weight)
    linear.register_parameter("bias", bias)
    return linear


def _thirds(parameter: nn.Parameter) -> list[nn.Parameter]:
    """Return the parts of a parameter for queries, keys and values."""
    parts = parameter.detach().chunk(3)
    return [nn.Parameter(part.clone(), parameter.requires_grad) for part in parts]


OPENERS: dict[str, Opener] = {
    "torch.nn.modules.activation.MultiheadAttention": _attention,
    "torchvision.models.swin_transformer.ShiftedWindowAttention": _window_attention,
    "torchvision.models.swin_transformer.ShiftedWindowAttentionV2": _window_attention,
    "transformers.pytorch_utils.Conv1D": _transposed_linear,
}
"""Name of a class -> what opens its modules."""
