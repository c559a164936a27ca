"""`nn.MultiheadAttention` as a module whose operations keep the batch axis in front: what a private copy is traced as.

Torch's own code moves the axes of the sequence, the batch and the heads in and out, and has a second, opaque path for
inference. The module here holds the same weights (rows of the packed ones) and is the same function; like every import
it is compared with the original afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional


class HeadsInFront(nn.Module):
    """Attention of several heads, as `nn.MultiheadAttention` outside training.

    Args:
        original: without bias_k and add_zero_attn.
    """

    in_proj_bias = None  # keeps the layers of torch that hold it from their path for inference
    _qkv_same_embed_dim = False

    def __init__(self, original: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads, self.batch_first = original.num_heads, original.batch_first
        if original.in_proj_weight is not None:
            weights = list(original.in_proj_weight.detach().chunk(3))
        else:
            separate = (original.q_proj_weight, original.k_proj_weight, original.v_proj_weight)
            weights = [weight.detach() for weight in separate]
        biases = [None] * 3 if original.in_proj_bias is None else list(original.in_proj_bias.detach().chunk(3))
        self.query, self.key, self.value = (_linear(*pair) for pair in zip(weights, biases, strict=True))
        self.out = original.out_proj
        self.training = original.training

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
        """The arguments of the original; masks that are true or minus infinity leave pairs out."""
        turned = query.dim() == 3 and not self.batch_first
        if turned:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        mask = self._mask(attn_mask, key_padding_mask, query)
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(-2, -3)
            for layer, x in ((self.query, query), (self.key, key), (self.value, value))
        )
        found = functional.scaled_dot_product_attention(q, k, v, mask)
        found = self.out(found.transpose(-2, -3).flatten(-2))
        shares = None
        if need_weights:
            scores = q @ k.mT * (q.shape[-1] ** -0.5)
            shares = (scores if mask is None else scores + mask).softmax(-1)
            shares = shares.mean(-3) if average_attn_weights else shares
        return (found.transpose(0, 1) if turned else found), shares

    def _mask(self, mask: Tensor | None, padding: Tensor | None, query: Tensor) -> Tensor | None:
        """Both masks as numbers to add, broadcastable to (*batch, heads, queries, keys)."""
        masks = []
        if mask is not None:
            mask = _added(mask, query)
            masks.append(mask.unflatten(0, (-1, self.heads)) if mask.dim() == 3 and query.dim() == 3 else mask)
        if padding is not None:
            masks.append(_added(padding, query)[..., None, None, :])
        return None if not masks else masks[0] if len(masks) == 1 else masks[0] + masks[1]


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, weight.device, weight.dtype)
    layer.weight = nn.Parameter(weight.clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone())
    return layer


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """A mask as numbers to add."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, float("-inf"))


def open_attention(module: nn.Module) -> nn.Module:
    """Put `HeadsInFront` in the place of every attention of torch inside a private copy; the module to go on with."""
    if _is_plain(module):
        assert isinstance(module, nn.MultiheadAttention)
        return HeadsInFront(module)
    for layer in list(module.modules()):
        for name, child in list(layer.named_children()):
            if _is_plain(child):
                assert isinstance(child, nn.MultiheadAttention)
                setattr(layer, name, HeadsInFront(child))
    return module


@contextmanager
def opened(module: nn.Module) -> Iterator[None]:
    """Inside, a module that can not be copied runs its attentions as `HeadsInFront`; they are put back as they were."""
    fast = torch.backends.mha.get_fastpath_enabled()
    layers = [layer for layer in module.modules() if _is_plain(layer)]
    before = [vars(layer).get("forward") for layer in layers]
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for layer in layers:
            assert isinstance(layer, nn.MultiheadAttention)
            vars(layer)["forward"] = HeadsInFront(layer).forward
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for layer, own in zip(layers, before, strict=True):
            if own is None:
                vars(layer).pop("forward", None)
            else:
                vars(layer)["forward"] = own


def _is_plain(layer: nn.Module) -> bool:
    """Whether a layer is an attention of torch itself, without keys and values of its own."""
    return type(layer) is nn.MultiheadAttention and layer.bias_k is None and not layer.add_zero_attn
