"""What the library asks of an array framework, and nothing else does.

This package is the only place that imports jax, tensorflow or torch. There is one
module for each, with the same names and the same meaning; the one that serves the
active Keras backend is chosen here, once, when the package is imported.

The contract:

`vjp(function, tensors, layer, *, second_order=False) -> (outputs, others, pullback)`

    Calls `function(*tensors)` inside a forward pass, and differentiates that call with
    respect to the tensors.

    - `tensors`: a list of floating-point tensors, no one twice.
    - `function`: returns a list of floating-point tensors, the `outputs`, and `others`,
      any structure of tensors that are not differentiated. It calls `layer`, a built
      Keras layer or operation, once; it is called once itself.
    - `outputs` are connected to the rest of the computation as those of the function.
    - `pullback(cotangents)` returns J^T c, a list with the shapes of the tensors. The
      cotangents broadcast to the outputs and are cast to their dtypes; `None` stands
      for zero. With `second_order=False` what it returns is a constant: no gradient
      flows through it. With `second_order=True` the gradient flows through it to the
      tensors, to the weights of the layer, and to the cotangents. Where the outputs do
      not depend on a tensor, it is zero.
    - The state of the layer (moving statistics, seeds) moves exactly as in one call,
      and losses added inside it (activity regularization) are kept, by it or a layer in
      it.
    - It may be nested, and it works where the surrounding code records no gradients
      (inference), there without leaving anything to be freed later.

`gradient_hook(x, backward, *operands) -> (x, is_pending)`

    Hooks into the gradient that is back-propagated through `x`.

    - `x`: a floating-point tensor. Returned is a tensor of the same values. What
      replaces `x` by it changes nothing but this: when the gradient `dx` is propagated
      back through it, `backward(dx, *operands)` is called, in the same Python trace or
      eager step, and what it returns is propagated on in the place of `dx`, in its
      dtype.
    - `operands`: tensors, or nested structures of them, of the forward pass that
      `backward` needs. No gradient flows through them. All else that it needs of the
      forward pass must be independent of what is differentiated.
    - Tensors that `backward` leaves elsewhere may be used after the gradient was taken.
    - `is_pending()`: whether `backward` may still be called. False where no gradient is
      recorded, and after what was recorded is gone or its trace is over.

`value_and_grad(function, tensors) -> (value, extra, gradients)`

    `function(tensors)` returns a scalar `value` and `extra`, any structure of tensors;
    `gradients` are the derivatives of `value` with respect to `tensors`, a list, zero
    where it does not depend on them. It works inside `backward` of a gradient hook, and
    nothing that it returns carries a gradient.

`uncompiled(function) -> function`

    A decorator for what a compiler of Python code around it, which guards all that it
    reads and compiles again when that changes, is to call as it is.

`parts(variable) -> list`

    The objects, of which each is the variable or its copy on a device, that Keras may
    give to `update_step` of an optimizer that is built for `variable`.

`all_finite(tensors) -> tensor`

    Whether all entries of all tensors, of which there is one at least, are finite; a
    scalar.

`known(condition) -> bool or tensor`

    A scalar that says whether something is so, as a Python bool where operations run
    one by one, so that what depends on it need not.

`eagerly(function)`

    Calls `function()` now and once, with numbers, where the code around it may be
    traced.

`tracer() -> str or None`

    What traces the code around it: "torch.export", "torch.jit.trace", "tf.function",
    "jit", which JAX may always be in, or `None`, which may be something else.

`all_reduce(tensors, after) -> list`

    The means of the floating-point tensors over all devices that take the step
    together, in one collective, the same on each device to the last bit; other tensors,
    such as seeds, as they are. To be called on each device, when the collectives that
    changed the variables `after` are under way: their order must be one everywhere. The
    devices are

    - JAX: those of the computation, which it sees as one: nothing is left to do;
    - TensorFlow: the replicas of the `tf.distribute` strategy;
    - PyTorch: the ranks of the default group of `torch.distributed`.

`to_apply(gradients) -> list`

    Gradients, the same on each device, as `apply` of a Keras optimizer is to be given
    them on each. (That of TensorFlow takes their sum.)

`assign(variable, value)`

    Gives a Keras variable a value that is the same on each device.

`broadcast(variables)`

    Gives Keras variables the values that they have on the first of these devices, where
    each device makes its own variables, as the ranks of PyTorch do. To be called on
    each device.
"""

import keras

if keras.backend.backend() == "jax":
    from keras_gradres.backend.jax import (
        all_finite,
        all_reduce,
        assign,
        broadcast,
        eagerly,
        gradient_hook,
        known,
        parts,
        to_apply,
        tracer,
        uncompiled,
        value_and_grad,
        vjp,
    )
elif keras.backend.backend() == "tensorflow":
    from keras_gradres.backend.tensorflow import (
        all_finite,
        all_reduce,
        assign,
        broadcast,
        eagerly,
        gradient_hook,
        known,
        parts,
        to_apply,
        tracer,
        uncompiled,
        value_and_grad,
        vjp,
    )
elif keras.backend.backend() == "torch":
    from keras_gradres.backend.torch import (
        all_finite,
        all_reduce,
        assign,
        broadcast,
        eagerly,
        gradient_hook,
        known,
        parts,
        to_apply,
        tracer,
        uncompiled,
        value_and_grad,
        vjp,
    )
else:
    from keras_gradres.backend.unsupported import (
        all_finite,
        all_reduce,
        assign,
        broadcast,
        eagerly,
        gradient_hook,
        known,
        parts,
        to_apply,
        tracer,
        uncompiled,
        value_and_grad,
        vjp,
    )

__all__ = [
    "all_finite",
    "all_reduce",
    "assign",
    "broadcast",
    "eagerly",
    "gradient_hook",
    "known",
    "parts",
    "to_apply",
    "tracer",
    "uncompiled",
    "value_and_grad",
    "vjp",
]
