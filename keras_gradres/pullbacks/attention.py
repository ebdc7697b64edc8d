"""Multi-head attention: o = W_o [P v], P = softmax(q k^T / sqrt(d)), by heads.

    c_o = W_o^T c                     dP = c_o v^T,      dv = P^T c_o
    dS  = P (dP - <dP, P>)            dq = dS k / sqrt(d),  dk = dS^T q / sqrt(d)
    dx  = W_q^T dq,  W_k^T dk,  W_v^T dv

P, with all masks applied, is what the layer returns as its attention scores. It does
not return q, k and v. These are computed again by its public sublayers.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_gradres.pullbacks.dense import einsum_linear, einsum_pullback
from keras_gradres.pullbacks.registry import register_named
from keras_gradres.pullbacks.rule import Call, Pullback, RuleResult, no_axes
from keras_gradres.typing import Tensor


@register_named("MultiHeadAttention")
def _multi_head_attention(
    call: Call, query: Tensor, value: Tensor, key: Tensor | None = None, **kwargs: Any
) -> RuleResult:
    layer = call.layer
    if key is not None:
        kwargs = {"key": key, **kwargs}
    if not _is_plain(call, [query, value], kwargs):
        return call.automatic(query, value, **kwargs)
    y, scores = call(query, value, return_attention_scores=True, **kwargs)
    scores = call.saved(scores)
    sources = [query, value if key is None else key, value]
    *projections, output = [call.to(sublayer) for sublayer in _projections(layer)]
    q, k, v = (
        call.saved(einsum_linear(to, to.cast(call.saved(source))))
        for to, source in zip(projections, sources, strict=True)
    )
    scale = 1 / math.sqrt(layer.key_dim)
    to_query, to_key, to_value = (einsum_pullback(to, 3) for to in projections)
    to_heads = einsum_pullback(output, 4)

    def function(c: Tensor) -> list[Tensor]:
        c = to_heads(c)
        dscores = ops.einsum("nthv,nshv->nhts", c, v)
        dv = to_value(ops.einsum("nhts,nthv->nshv", scores, c))
        mean = ops.sum(dscores * scores, axis=-1, keepdims=True)
        dlogits = scores * (dscores - mean) * scale
        dq = to_query(ops.einsum("nhts,nshd->nthd", dlogits, k))
        dk = to_key(ops.einsum("nhts,nthd->nshd", dlogits, q))
        return [dq, dv + dk] if key is None else [dq, dv, dk]

    return y, Pullback(function, no_axes)


def _projections(layer: keras.Layer) -> list[keras.Layer]:
    return [
        layer.query_dense,
        layer.key_dense,
        layer.value_dense,
        layer.output_dense,
    ]


def _is_plain(call: Call, tensors: Sequence[Tensor], kwargs: dict[str, Any]) -> bool:
    """Whether the formulas above are all that the layer computes, on sequences."""
    layer = call.layer
    projections = _projections(layer)
    return (
        all(len(t.shape) == 3 for t in [*tensors, kwargs.get("key", tensors[0])])
        and not (call.training and layer.dropout)
        # A layer with a gate, for example, has more weights than its projections.
        and len(layer.weights) == sum(len(to.weights) for to in projections)
        and all(to.quantization_mode is None for to in projections)
        and layer.activity_regularizer is None
        and not kwargs.get("return_attention_scores")
    )
