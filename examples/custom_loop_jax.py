"""GAL in a training loop of one's own, with JAX.

A step of JAX has no state but what it is given, so here GAL is told the shape of the
model's output, and built before the first step; and the optimizer's variables are given
to the step and to `scale_loss` in it.

    KERAS_BACKEND=jax python examples/custom_loop_jax.py
"""

import jax
import keras
from spirals import make_data, make_model, report

from keras_gradres.optimizers import GAL


def train(model, gal, loss, batches):
    gal.build(model.trainable_variables)

    def forward(trainable, non_trainable, optimizer, x, y):
        z, non_trainable = model.stateless_call(
            trainable, non_trainable, x, training=True
        )
        pairs = list(zip(gal.variables, optimizer, strict=True))
        with keras.StatelessScope(pairs):
            value = gal.scale_loss(loss(y, z))
        return value, non_trainable

    @jax.jit
    def step(state, x, y):
        trainable, non_trainable, optimizer = state
        differentiate = jax.value_and_grad(forward, has_aux=True)
        (value, non_trainable), gradients = differentiate(*state, x, y)
        trainable, optimizer = gal.stateless_apply(optimizer, gradients, trainable)
        return value, (trainable, non_trainable, optimizer)

    variables = (
        model.trainable_variables,
        model.non_trainable_variables,
        gal.variables,
    )
    state = tuple([v.value for v in group] for group in variables)
    values = []
    for x, y in batches:
        value, state = step(state, x, y)
        values.append(value)
    for group, found in zip(variables, state, strict=True):
        for variable, value in zip(group, found, strict=True):
            variable.assign(value)
    return values


if __name__ == "__main__":
    model = make_model()
    gal = GAL(
        keras.optimizers.SGD(0.1, momentum=0.9),
        alpha=1e-3,
        seed=0,
        output_shapes=[model.output_shape],
    )
    loss = gal.loss(keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    report(model, gal, train(model, gal, loss, make_data()))
