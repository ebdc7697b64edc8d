"""What the library needs of an array framework beyond `keras.ops`.

No other package imports jax, tensorflow or torch. There is one module for each, with
the same functions. Which of them serves is decided by the active Keras backend when
this package is imported.

The contract:

`vjp(function, tensors, layer, *, second_order=False) -> (outputs, others, pullback)`

    Calls `function(*tensors)` inside a forward pass, and differentiates that call with
    respect to the tensors.

    - `tensors`: a list of floating-point tensors, each only once.
    - `function`: returns a list of floating-point tensors, the `outputs`, and `others`,
      any structure of tensors that are not differentiated. It calls `layer`, a built
      Keras layer or operation, once. It is itself called once.
    - `outputs` are connected to the rest of the computation as those of the function.
    - `pullback(cotangents)` returns J^T c, a list with the shapes of the tensors. The
      cotangents broadcast to the outputs and are cast to their dtypes; `None` stands
      for zero. With `second_order=False` the result is a constant: no gradient flows
      through it. With `second_order=True` the gradient flows through it to the
      tensors, to the weights of the layer, and to the cotangents. Where the outputs do
      not depend on a tensor, the result is zero.
    - The state of the layer (moving statistics, seeds) changes exactly as in one call.
      Losses that the layer, or a layer in it, adds during the call (activity
      regularization) are kept.
    - Calls may be nested. It also works where the surrounding code records no gradients
      (inference). There it leaves nothing behind that must be freed later.

`gradient_hook(x, backward, *operands) -> (x, is_pending)`

    Replaces the gradient that is back-propagated through `x`.

    - `x`: a floating-point tensor. The tensor that is returned has the same values, and
      is to be used in the place of `x`. When the gradient `dx` is propagated back
      through it, `backward(dx, *operands)` is called, in the same Python trace or eager
      step. Its result, cast to the dtype of `dx`, is propagated on instead of `dx`.
    - `operands`: tensors of the forward pass that `backward` needs, or nested
      structures of them. No gradient flows through them. Anything else that `backward`
      uses must not depend on what is differentiated.
    - Tensors that `backward` stores elsewhere may be used after the gradient was taken.
    - `is_pending()`: whether `backward` may still be called. It is false where no
      gradient is recorded. It becomes false when the recording is freed, or when the
      trace ends.

`value_and_grad(function, tensors) -> (value, extra, gradients)`

    `function(tensors)` returns a scalar `value` and `extra`, any structure of tensors;
    `gradients` are the derivatives of `value` with respect to `tensors`, a list, zero
    where it does not depend on them. It works inside `backward` of a gradient hook, and
    nothing that it returns carries a gradient.

`uncompiled(function) -> function`

    Excludes a function from `torch.compile`, because it reads Python state that changes
    at every step: compiled, it would be compiled anew each time. Does nothing on other
    backends.

`variable_copies(variable) -> list`

    The objects that Keras may pass to `update_step` of an optimizer for `variable`: the
    variable itself, and its copies on the devices of a TensorFlow strategy.

`all_finite(tensors) -> tensor`

    Whether all entries of all tensors are finite, a scalar. There must be at least one
    tensor.

`bool_if_eager(condition) -> bool or tensor`

    A scalar condition as a Python bool where operations run one by one, so that Python
    can skip work that the condition makes needless. Elsewhere the tensor itself.

`eagerly(function) -> result`

    Calls `function()` once, at once, with numbers, even if the code around it is being
    traced.

`tracer() -> str or None`

    What traces the code around it: "torch.export", "torch.jit.trace", "tf.function" or
    "jit". On JAX it is always "jit", because the trace cannot be told from eager code.
    `None` says that none of these was seen.

`all_reduce(tensors, after) -> list`

    The means of the floating-point tensors over all devices that take the step
    together. They are taken in one collective, and are equal to the last bit on each
    device. Other tensors, such as seeds, are returned as they are.

    It is called on each device. Collectives must run in the same order everywhere, so
    it waits for those that update the variables `after`. The devices are

    - JAX: those of the computation. JAX sees them as one, so nothing is left to do;
    - TensorFlow: the replicas of the `tf.distribute` strategy;
    - PyTorch: the ranks of the default group of `torch.distributed`.

`to_apply(gradients) -> list`

    Prepares gradients that are equal on each device for `apply` of a Keras optimizer.
    On TensorFlow `apply` sums over the replicas, so each gradient is divided by their
    number.

`assign(variable, value)`

    Gives a Keras variable a value that is the same on each device.

`broadcast(variables)`

    Gives Keras variables the values that they have on the first device. It is needed
    where each device makes its own variables, as the ranks of PyTorch do. It is called
    on each device.
"""

import keras

if keras.backend.backend() == "jax":
    from keras_gradres.backend.jax import (
        all_finite,
        all_reduce,
        assign,
        bool_if_eager,
        broadcast,
        eagerly,
        gradient_hook,
        to_apply,
        tracer,
        uncompiled,
        value_and_grad,
        variable_copies,
        vjp,
    )
elif keras.backend.backend() == "tensorflow":
    from keras_gradres.backend.tensorflow import (
        all_finite,
        all_reduce,
        assign,
        bool_if_eager,
        broadcast,
        eagerly,
        gradient_hook,
        to_apply,
        tracer,
        uncompiled,
        value_and_grad,
        variable_copies,
        vjp,
    )
elif keras.backend.backend() == "torch":
    from keras_gradres.backend.torch import (
        all_finite,
        all_reduce,
        assign,
        bool_if_eager,
        broadcast,
        eagerly,
        gradient_hook,
        to_apply,
        tracer,
        uncompiled,
        value_and_grad,
        variable_copies,
        vjp,
    )
else:
    from keras_gradres.backend.unsupported import (
        all_finite,
        all_reduce,
        assign,
        bool_if_eager,
        broadcast,
        eagerly,
        gradient_hook,
        to_apply,
        tracer,
        uncompiled,
        value_and_grad,
        variable_copies,
        vjp,
    )

__all__ = [
    "all_finite",
    "all_reduce",
    "assign",
    "bool_if_eager",
    "broadcast",
    "eagerly",
    "gradient_hook",
    "to_apply",
    "tracer",
    "uncompiled",
    "value_and_grad",
    "variable_copies",
    "vjp",
]
