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
      cotangents broadcast to the outputs and are cast to their dtypes; `None` stands for
      zero. With `second_order=False` what it returns is a constant: no gradient flows
      through it. With `second_order=True` the gradient flows through it to the tensors,
      to the weights of the layer, and to the cotangents. Where the outputs do not depend
      on a tensor, it is zero.
    - The state of the layer (moving statistics, seeds) moves exactly as in one call, and
      losses added inside it (activity regularization) are kept, by it or a layer in it.
    - It may be nested, and it works where the surrounding code records no gradients
      (inference), there without leaving anything to be freed later.

`outside_of_traces()`

    A context in which what is computed is computed now, with numbers, wherever the
    surrounding code is being traced.

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
"""

import keras

if keras.backend.backend() == "jax":
    from keras_gradres.backend.jax import (
        gradient_hook,
        outside_of_traces,
        uncompiled,
        value_and_grad,
        vjp,
    )
elif keras.backend.backend() == "tensorflow":
    from keras_gradres.backend.tensorflow import (
        gradient_hook,
        outside_of_traces,
        uncompiled,
        value_and_grad,
        vjp,
    )
elif keras.backend.backend() == "torch":
    from keras_gradres.backend.torch import (
        gradient_hook,
        outside_of_traces,
        uncompiled,
        value_and_grad,
        vjp,
    )
else:
    from keras_gradres.backend.unsupported import (
        gradient_hook,
        outside_of_traces,
        uncompiled,
        value_and_grad,
        vjp,
    )

__all__ = ["gradient_hook", "outside_of_traces", "uncompiled", "value_and_grad", "vjp"]
