"""Multi-head attention: o = W_o [P v], P = softmax(q k^T / sqrt(d)), by heads.

    c_o = W_o^T c                     dP = c_o v^T,      dv = P^T c_o
    dS  = P (dP - <dP, P>)            dq = dS k / sqrt(d),  dk = dS^T q / sqrt(d)
    dx  = W_q^T dq,  W_k^T dk,  W_v^T dv

P, with all its masks, is what the layer returns as its scores. q, k and v are computed
again by its public parts.
"""

import math

from keras import ops

from keras_gradres.pullbacks.activations import NOWHERE
from keras_gradres.pullbacks.dense import einsum_linear, einsum_pullback
from keras_gradres.pullbacks.registry import register_named
from keras_gradres.pullbacks.rule import Pullback


@register_named("MultiHeadAttention")
def _multi_head_attention(call, query, value, key=None, **kwargs):
    layer = call.layer
    if key is not None:
        kwargs = {"key": key, **kwargs}
    if not _is_plain(call, [query, value], kwargs):
        return call.automatic(query, value, **kwargs)
    y, scores = call(query, value, return_attention_scores=True, **kwargs)
    scores = call.saved(scores)
    sources = [query, value if key is None else key, value]
    parts = [call.to(part) for part in _parts(layer)]
    q, k, v = (
        call.saved(einsum_linear(part, part.cast(call.saved(source))))
        for part, source in zip(parts[:3], sources, strict=True)
    )
    scale = 1 / math.sqrt(layer.key_dim)
    to_query, to_key, to_value = (einsum_pullback(part, 3) for part in parts[:3])
    to_heads = einsum_pullback(parts[3], 4)

    def function(c):
        c = to_heads(c)
        dscores = ops.einsum("nthv,nshv->nhts", c, v)
        dv = to_value(ops.einsum("nhts,nthv->nshv", scores, c))
        mean = ops.sum(dscores * scores, axis=-1, keepdims=True)
        dlogits = scores * (dscores - mean) * scale
        dq = to_query(ops.einsum("nhts,nshd->nthd", dlogits, k))
        dk = to_key(ops.einsum("nhts,nthd->nshd", dlogits, q))
        return [dq, dv + dk] if key is None else [dq, dv, dk]

    return y, Pullback(function, lambda axes: NOWHERE)


def _parts(layer):
    return [
        layer.query_dense,
        layer.key_dense,
        layer.value_dense,
        layer.output_dense,
    ]


def _is_plain(call, tensors, kwargs):
    """Whether nothing is at work but the public parts, on sequences."""
    layer = call.layer
    parts = _parts(layer)
    return (
        all(len(t.shape) == 3 for t in [*tensors, kwargs.get("key", tensors[0])])
        and not (call.training and layer.dropout)
        # Such as those of a gate.
        and len(layer.weights) == sum(len(part.weights) for part in parts)
        and all(part.quantization_mode is None for part in parts)
        and layer.activity_regularizer is None
        and not kwargs.get("return_attention_scores")
    )
