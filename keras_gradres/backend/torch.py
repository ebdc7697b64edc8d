"""PyTorch: one call of the layer, then `torch.autograd.grad` through its graph."""

import contextlib
import functools
import weakref

import keras
import torch
import torch.distributed as dist
from torch.nn.attention import SDPBackend, sdpa_kernel


# `torch.compile` cannot trace `torch.autograd.grad` into a graph that is itself
# differentiated; compiled around it, not through it, a model trains correctly.
@torch.compiler.disable
def vjp(function, tensors, layer, *, second_order=False):
    recording = torch.is_grad_enabled()
    second_order = second_order and recording
    # `predict` and `evaluate` switch gradients off; the product needs them. Inside
    # `torch.inference_mode` it needs tensors that are not inference tensors, too.
    with _differentiable(second_order):
        tensors = [
            t
            if recording and t.requires_grad
            else (t.clone() if t.is_inference() else t).detach().requires_grad_()
            for t in tensors
        ]
        outputs, others = function(*tensors)

    @torch.compiler.disable
    def pullback(cotangents):
        with _differentiable(second_order):
            pairs = [
                (y, (c if second_order else c.detach()).to(y.dtype).expand(y.shape))
                for y, c in zip(outputs, cotangents, strict=True)
                if c is not None and y.requires_grad
            ]
            if not pairs:
                return [torch.zeros_like(t) for t in tensors]
            values, cotangents = zip(*pairs, strict=True)
            found = torch.autograd.grad(
                values,
                tensors,
                cotangents,
                retain_graph=True,
                create_graph=second_order,
                materialize_grads=True,
            )
        return list(found)

    return [y if recording else y.detach() for y in outputs], others, pullback


@contextlib.contextmanager
def _differentiable(second_order):
    # The fused kernels of attention have no second derivative.
    kernel = sdpa_kernel(SDPBackend.MATH) if second_order else contextlib.nullcontext()
    with torch.inference_mode(False), torch.enable_grad(), kernel:
        yield


def gradient_hook(x, backward, *operands):
    if not (torch.is_grad_enabled() and x.requires_grad):
        return x, lambda: False

    x = x.clone()  # The hook is on this use of x alone.
    reverse = functools.partial(_reverse, backward, operands)
    x.register_hook(reverse)
    alive = weakref.ref(reverse)  # The graph holds it.
    return x, lambda: alive() is not None


@torch.compiler.disable  # It is called from the backward pass, not from the hook.
def _reverse(backward, operands, dx):
    return backward(dx, *_detached(operands)).to(dx.dtype)


def value_and_grad(function, tensors):
    # A backward pass, where this is called, records no gradients.
    with torch.enable_grad():
        tensors = [t.detach().requires_grad_() for t in tensors]
        value, extra = function(tensors)
        if value.requires_grad:
            gradients = torch.autograd.grad(value, tensors, materialize_grads=True)
        else:
            gradients = [torch.zeros_like(t) for t in tensors]
    return _detached(value), _detached(extra), list(gradients)


def _detached(values):
    if isinstance(values, torch.Tensor):
        return values.detach()
    if type(values) in (list, tuple):  # `keras.tree` takes long, felt in each step.
        return type(values)(map(_detached, values))
    return keras.tree.map_structure(
        lambda t: t.detach() if isinstance(t, torch.Tensor) else t, values
    )


def uncompiled(function):
    return torch.compiler.disable(function)


def parts(variable):
    return [variable]


def tracer():
    if torch.compiler.is_exporting():
        return "torch.export"
    return "torch.jit.trace" if torch.jit.is_tracing() else None


def eagerly(function):
    # Not where tensors are without values, as when Keras finds the shapes of outputs.
    if keras.ops.zeros(()).device.type != "meta":
        return function()
    with keras.device("cuda" if torch.cuda.is_available() else "cpu"):
        return function()


@torch.no_grad()
def all_finite(tensors):
    # 0, or not a number: few operations for each, which are felt in an eager step.
    return (torch.stack([(t * 0).sum() for t in tensors]) == 0).all()


@torch.no_grad()
def all_reduce(tensors, after):
    ranks = _count_ranks()
    if ranks == 1:
        return tensors
    parts = [t for t in tensors if t.is_floating_point()]
    dtype = functools.reduce(torch.promote_types, (t.dtype for t in parts))
    flat = torch.cat([t.reshape(-1).to(dtype) for t in parts])
    dist.all_reduce(flat)
    means = iter((flat / ranks).split([t.numel() for t in parts]))
    return [
        next(means).reshape(t.shape).to(t.dtype) if t.is_floating_point() else t
        for t in tensors
    ]


@torch.no_grad()
def broadcast(variables):
    if _count_ranks() > 1:
        for variable in variables:
            dist.broadcast(variable.value, src=0)


def _count_ranks():
    distributed = dist.is_available() and dist.is_initialized()
    return dist.get_world_size() if distributed else 1


def to_apply(gradients):
    return gradients


def assign(variable, value):
    variable.assign(value)


def known(condition):
    return bool(condition)
