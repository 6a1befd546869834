"""Attention as torch's `nn.MultiheadAttention` computes it, with linear layers that it calls."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head attention whose projections are modules, so that others can stand in their place.

    Args:
        q_proj: Linear layer from `embed_dim` to `embed_dim`, for the queries.
        k_proj: From the keys' features to `embed_dim`.
        v_proj: From the values' features to `embed_dim`.
        out_proj: From `embed_dim` to `embed_dim`, for what the heads put out.
        num_heads: Number of heads, which share `embed_dim` evenly.
        dropout: Probability at which a weight of the attention is dropped in training.
        batch_first: Whether the batch is the first axis of the inputs, not the second.
        bias_k: One more key, `(1, 1, embed_dim)`, or None.
        bias_v: Its value; None where that is None.
        add_zero_attn: Whether there is one more key and value of zeros.

    Reference:
        Vaswani et al., Attention Is All You Need, arXiv 1706.03762, section 3.2.
    """

    in_proj_weight = None
    in_proj_bias = None
    _qkv_same_embed_dim = False
    """By these three torch's transformer layers see that they cannot run all in one operator."""

    def __init__(
        self,
        q_proj: nn.Linear,
        k_proj: nn.Linear,
        v_proj: nn.Linear,
        out_proj: nn.Linear,
        num_heads: int,
        *,
        dropout: float = 0.0,
        batch_first: bool = False,
        bias_k: nn.Parameter | None = None,
        bias_v: nn.Parameter | None = None,
        add_zero_attn: bool = False,
    ) -> None:
        super().__init__()
        self.embed_dim, self.kdim, self.vdim = (
            layer.in_features for layer in (q_proj, k_proj, v_proj)
        )
        self.num_heads, self.head_dim = num_heads, self.embed_dim // num_heads
        self.dropout, self.batch_first, self.add_zero_attn = dropout, batch_first, add_zero_attn
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = q_proj, k_proj, v_proj, out_proj
        self.bias_k, self.bias_v = bias_k, bias_v

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute what `nn.MultiheadAttention` does, whose documentation tells of the arguments.

        Args:
            query: `(L, N, embed_dim)`, `(N, L, embed_dim)` or, without a batch, `(L, embed_dim)`.
            key: `(S, N, kdim)` and so on.
            value: `(S, N, vdim)` and so on.
            key_padding_mask: `(N, S)` or `(S,)`: True where a key is ignored, or what is added.
            need_weights: Whether to return the weights of the attention.
            attn_mask: `(L, S)` or `(N · num_heads, L, S)`, likewise, for each query.
            average_attn_weights: Whether their mean over the heads is returned.
            is_causal: Whether `attn_mask` is the causal one.

        Returns:
            Shape of the query; and the weights, `(N, L, S)` or `(N, num_heads, L, S)`, or None.

        Raises:
            ValueError: If `is_causal` comes without a mask.
        """
        if is_causal and attn_mask is None:
            raise ValueError("`is_causal` says that `attn_mask` is causal, got none; give it.")
        x, weights = attend(
            self.q_proj(query),
            self.k_proj(key),
            self.v_proj(value),
            self.num_heads,
            self.batch_first,
            self.bias_k,
            self.bias_v,
            self.add_zero_attn,
            self.dropout if self.training else 0.0,
            attn_mask,
            key_padding_mask,
            need_weights,
            average_attn_weights,
            is_causal,
        )
        return self.out_proj(x), weights


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_heads: int,
    batch_first: bool,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout: float,
    attn_mask: Tensor | None,
    key_padding_mask: Tensor | None,
    need_weights: bool,
    average_attn_weights: bool,
    is_causal: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return what the heads take from the values, and the weights, as `Attention` does.

    A function of its own, which symbolic tracing does not look into.

    Args:
        q: Projected queries in the shape of `Attention`'s input; all else is as there.
        k: Projected keys.
        v: Projected values.
        num_heads: Number of heads.
        batch_first: Whether the batch is the first axis.
        bias_k: One more key, or None.
        bias_v: Its value, or None.
        add_zero_attn: Whether there is one more key and value of zeros.
        dropout: Probability at which a weight is dropped now.
        attn_mask: As in `Attention.forward`.
        key_padding_mask: As in `Attention.forward`.
        need_weights: As in `Attention.forward`.
        average_attn_weights: As in `Attention.forward`.
        is_causal: As in `Attention.forward`.
    """
    is_batched = q.dim() == 3
    if not is_batched:
        q, k, v = q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0)
    elif not batch_first:
        q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)
    is_causal = is_causal and key_padding_mask is None and not need_weights
    mask = _mask(None if is_causal else attn_mask, key_padding_mask, q)
    length = k.shape[1]
    if bias_k is not None and bias_v is not None:
        k = torch.cat((k, bias_k.expand(k.shape[0], 1, -1)), dim=1)
        v = torch.cat((v, bias_v.expand(v.shape[0], 1, -1)), dim=1)
    if add_zero_attn:
        k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
    if mask is not None:
        mask = F.pad(mask, (0, k.shape[1] - length))
    q, k, v = (x.reshape(*x.shape[:2], num_heads, -1).transpose(1, 2) for x in (q, k, v))
    weights = None
    if need_weights:
        weights = _weights(q, k, mask, dropout)
        x = weights @ v  # (N, num_heads, L, head_dim)
        weights = weights.mean(dim=1) if average_attn_weights else weights
    else:
        x = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal)
    x = x.transpose(1, 2).flatten(2)  # (N, L, embed_dim)
    if not is_batched:
        x, weights = x.squeeze(0), None if weights is None else weights.squeeze(0)
    elif not batch_first:
        x = x.transpose(0, 1)
    return x, weights


torch.fx.wrap("attend")


def _weights(q: Tensor, k: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    scores = (q * math.sqrt(1.0 / q.shape[-1])) @ k.transpose(-2, -1)
    scores = scores if mask is None else scores + mask
    return F.dropout(scores.softmax(dim=-1), dropout)


def _mask(attended: Tensor | None, keys: Tensor | None, q: Tensor) -> Tensor | None:
    """Return what is added to the scores: both masks in the shape of these, or None."""
    parts = []
    if attended is not None:
        mask = _added(attended, q)
        parts.append(mask if mask.dim() == 2 else mask.reshape(q.shape[0], -1, *mask.shape[1:]))
    if keys is not None:
        parts.append(_added(keys, q).reshape(q.shape[0], 1, 1, -1))
    return sum(parts[1:], parts[0]) if parts else None


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask as what is added to scores: minus infinity where it was True."""
    if mask.is_floating_point():
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)
