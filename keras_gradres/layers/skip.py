"""The terms that a gradient residual adds to its branch, as functions of tensors.

Eq. 2 of "Gradient Residual Connections" (arXiv 2602.09190), for a branch F with input
x and p = J_F(x)^T 1:

    g = p / max(|p|_2, epsilon) = r p
    y = F(x) + (1 - s) x + s g,    s = sigmoid(alpha)
    y = F(x) + x + gamma g         (ours)

What these terms cost are passes over memory. So they are written with r, which is one
number for a whole feature vector, and not with g, which has as many entries as p.

Usage:

    r = inverse_norm(p, axis=-1, epsilon=1e-12)
    y = f + convex(x, p, r, alpha)
"""

from keras import ops

from keras_gradres.typing import Tensor


def convex(x: Tensor, p: Tensor, r: Tensor, alpha: Tensor) -> Tensor:
    """(1 - s) x + s r p with s = sigmoid(alpha): the skip of Eq. 2.

    Args:
        x: The input, of any shape.
        p: The gradient, of the shape of `x`.
        r: The factor that brings `p` to unit norm; broadcasts to the shape of `x`.
        alpha: A scalar.

    Returns:
        A tensor of the shape of `x`.
    """
    s = ops.sigmoid(alpha)
    return (1 - s) * x + (s * r) * p


def gain(x: Tensor, p: Tensor, r: Tensor, gamma: Tensor) -> Tensor:
    """The skip x + gamma r p, with one gamma for each feature: ours, not the paper's.

    Args:
        x: The input, of any shape.
        p: The gradient, of the shape of `x`.
        r: The factor that brings `p` to unit norm; broadcasts to the shape of `x`.
        gamma: Broadcasts to the shape of `x`.

    Returns:
        A tensor of the shape of `x`.
    """
    return x + gamma * (r * p)


def inverse_norm(p: Tensor, axis: int | tuple[int, ...], epsilon: float) -> Tensor:
    """The factor r = 1 / max(|p|_2, epsilon), with the norm over `axis`.

    The squares of large or small entries would overflow or underflow, so `p` is scaled
    before. The derivative is that of the norm, and zero where the norm is below
    `epsilon`.

    Args:
        p: A tensor.
        axis: An int, or a tuple of ints.
        epsilon: A positive float, at least the smallest normal float32.

    Returns:
        A tensor of the shape of `p`, with size 1 along `axis`.
    """
    squares, scale = _scaled_squares(p, axis, epsilon)
    # In units of the scale, max(|p|, epsilon) is max(|p|, 1). With a single entry |p|
    # is exactly 1, where the derivative of `maximum` is not that of |p|; that
    # of `where` is.
    return ops.rsqrt(ops.where(squares < 1, 1, squares)) / scale


def norm(p: Tensor, axis: int | tuple[int, ...], epsilon: float) -> Tensor:
    """|p|_2 over `axis`, broadcast to the shape of `p`, and scaled as `inverse_norm`.

    Where the norm is zero, so is its derivative.
    """
    squares, scale = _scaled_squares(p, axis, epsilon)
    positive = squares > 0
    length = scale * ops.sqrt(ops.where(positive, squares, 1))
    return ops.broadcast_to(ops.where(positive, length, 0), ops.shape(p))


def _scaled_squares(
    p: Tensor, axis: int | tuple[int, ...], epsilon: float
) -> tuple[Tensor, Tensor]:
    """|p / scale|^2 and scale = max(max|p|, epsilon), of size 1 along `axis`."""
    if 0 in p.shape:  # There is no largest entry, and nothing to scale.
        squares = ops.sum(ops.square(p), axis=axis, keepdims=True)
        return squares, ops.ones_like(squares)
    # Not `max` and `min`, at which the compiler of PyTorch breaks the graph.
    largest = ops.maximum(
        ops.amax(p, axis=axis, keepdims=True), -ops.amin(p, axis=axis, keepdims=True)
    )
    # The norm does not depend on the scale, so no derivative has to pass it.
    scale = ops.stop_gradient(ops.maximum(largest, epsilon))
    return ops.sum(ops.square(p / scale), axis=axis, keepdims=True), scale
