"""PyTorch: one call of the layer, then `torch.autograd.grad` through its graph."""

import contextlib

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


# `torch.compile` cannot trace `torch.autograd.grad` into a graph that is itself
# differentiated; compiled around it, not through it, a model trains correctly.
@torch.compiler.disable
def vjp(layer, x, cotangent, *, second_order=False, **call_arguments):
    recording = torch.is_grad_enabled()
    second_order = second_order and recording
    # The fused kernels of attention have no second derivative.
    kernel = sdpa_kernel(SDPBackend.MATH) if second_order else contextlib.nullcontext()
    # `predict` and `evaluate` switch gradients off; the product needs them. Inside
    # `torch.inference_mode` it needs tensors that are not inference tensors, too.
    with torch.inference_mode(False), torch.enable_grad():
        if x.is_inference():
            x = x.clone()
        if not (recording and x.requires_grad):
            x = x.detach().requires_grad_()
        with kernel:
            y = layer(x, **call_arguments)
        c = cotangent(y) if callable(cotangent) else cotangent
        c = c.to(y.dtype).expand(y.shape)
        p = None
        if y.requires_grad:
            (p,) = torch.autograd.grad(
                y,
                x,
                c if second_order else c.detach(),
                retain_graph=recording,
                create_graph=second_order,
                allow_unused=True,
            )
        if p is None:
            p = torch.zeros_like(x)
    return (y, p) if recording else (y.detach(), p)
