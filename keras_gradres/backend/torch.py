"""PyTorch: one call of the layer, then `torch.autograd.grad` through its graph."""

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import keras
import torch
import torch.distributed as dist
from torch.nn.attention import SDPBackend, sdpa_kernel

from keras_gradres.typing import ListPullback, Structure, Tensor

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


# `torch.compile` cannot trace `torch.autograd.grad` into a graph that is itself
# differentiated. So this function is left out of the compiled graph: a model compiled
# around it trains correctly.
@torch.compiler.disable
def vjp(
    function: Callable[..., tuple[list[Tensor], Structure]],
    tensors: Sequence[Tensor],
    layer: keras.Operation,
    *,
    second_order: bool = False,
) -> tuple[list[Tensor], Structure, ListPullback]:
    recording = torch.is_grad_enabled()
    second_order = second_order and recording
    # `predict` and `evaluate` switch gradients off, but the product needs them. It
    # cannot use the inference tensors of `torch.inference_mode`, so they are cloned.
    with _differentiable(second_order):
        inputs = [
            t
            if recording and t.requires_grad
            else (t.clone() if t.is_inference() else t).detach().requires_grad_()
            for t in tensors
        ]
        outputs, others = function(*inputs)

    @torch.compiler.disable
    def pullback(cotangents: Sequence[Tensor | None]) -> list[Tensor]:
        with _differentiable(second_order):
            pairs = [
                (y, (c if second_order else c.detach()).to(y.dtype).expand(y.shape))
                for y, c in zip(outputs, cotangents, strict=True)
                if c is not None and y.requires_grad
            ]
            if not pairs:
                return [torch.zeros_like(t) for t in inputs]
            products = torch.autograd.grad(
                [y for y, _ in pairs],
                inputs,
                [c for _, c in pairs],
                retain_graph=True,
                create_graph=second_order,
                materialize_grads=True,
            )
        return list(products)

    return [y if recording else y.detach() for y in outputs], others, pullback


@contextlib.contextmanager
def _differentiable(second_order: bool) -> Iterator[None]:
    """Records gradients, whatever the surrounding code does."""
    # The fused kernels of attention have no second derivative.
    kernel: contextlib.AbstractContextManager = contextlib.nullcontext()
    if second_order:
        kernel = sdpa_kernel(SDPBackend.MATH)
    with torch.inference_mode(False), torch.enable_grad(), kernel:
        yield


def gradient_hook(
    x: Tensor, backward: Callable[..., Tensor], *operands: Structure
) -> tuple[Tensor, Callable[[], bool]]:
    if not (torch.is_grad_enabled() and x.requires_grad):
        return x, lambda: False

    x = x.clone()  # A hook on `x` itself would see the gradients of its other uses.
    reverse = functools.partial(_reverse, backward, operands)
    x.register_hook(reverse)
    alive = weakref.ref(reverse)  # Only the graph keeps it alive.
    return x, lambda: alive() is not None


# The backward pass calls it, so excluding `gradient_hook` would not exclude it.
@torch.compiler.disable
def _reverse(
    backward: Callable[..., Tensor], operands: tuple[Structure, ...], dx: Tensor
) -> Tensor:
    return backward(dx, *_detached(operands)).to(dx.dtype)


def value_and_grad(
    function: Callable[[Any], tuple[Tensor, Structure]], tensors: Sequence[Tensor]
) -> tuple[Tensor, Structure, list[Tensor]]:
    # This is called in backward passes, which record no gradients.
    with torch.enable_grad():
        inputs = [t.detach().requires_grad_() for t in tensors]
        value, extra = function(inputs)
        if value.requires_grad:
            gradients = torch.autograd.grad(value, inputs, materialize_grads=True)
        else:
            gradients = tuple(torch.zeros_like(t) for t in inputs)
    return _detached(value), _detached(extra), list(gradients)


def _detached(values: Structure) -> Structure:
    if isinstance(values, torch.Tensor):
        return values.detach()
    # `keras.tree` is slow enough to be noticed in each step.
    if type(values) in (list, tuple):
        return type(values)(map(_detached, values))
    return keras.tree.map_structure(
        lambda t: t.detach() if isinstance(t, torch.Tensor) else t, values
    )


def uncompiled(function: F) -> F:
    return torch.compiler.disable(function)


def variable_copies(variable: Any) -> list[Any]:
    return [variable]


def tracer() -> str | None:
    if torch.compiler.is_exporting():
        return "torch.export"
    return "torch.jit.trace" if torch.jit.is_tracing() else None


def eagerly(function: Callable[[], T]) -> T:
    # To find the shapes of outputs, Keras uses the device "meta", whose tensors have no
    # values.
    if keras.ops.zeros(()).device.type != "meta":
        return function()
    with keras.device("cuda" if torch.cuda.is_available() else "cpu"):
        return function()


@torch.no_grad()
def all_finite(tensors: Sequence[Tensor]) -> Tensor:
    # 0 t is 0 where t is finite, else not a number. `isfinite` would need more
    # operations, which are noticed in an eager step.
    return (torch.stack([(t * 0).sum() for t in tensors]) == 0).all()


@torch.no_grad()
def all_reduce(
    tensors: Sequence[Tensor], after: Sequence[keras.Variable]
) -> list[Tensor]:
    ranks = _count_ranks()
    if ranks == 1:
        return list(tensors)
    floats = [t for t in tensors if t.is_floating_point()]
    dtype = functools.reduce(torch.promote_types, (t.dtype for t in floats))
    flat = torch.cat([t.reshape(-1).to(dtype) for t in floats])
    dist.all_reduce(flat)
    means = iter((flat / ranks).split([t.numel() for t in floats]))
    return [
        next(means).reshape(t.shape).to(t.dtype) if t.is_floating_point() else t
        for t in tensors
    ]


@torch.no_grad()
def broadcast(variables: Sequence[keras.Variable]) -> None:
    if _count_ranks() > 1:
        for variable in variables:
            dist.broadcast(variable.value, src=0)


def _count_ranks() -> int:
    distributed = dist.is_available() and dist.is_initialized()
    return dist.get_world_size() if distributed else 1


def to_apply(gradients: Sequence[Tensor]) -> list[Tensor]:
    return list(gradients)


def assign(variable: keras.Variable, value: Tensor) -> None:
    variable.assign(value)


def bool_if_eager(condition: Tensor) -> Tensor:
    return bool(condition)
