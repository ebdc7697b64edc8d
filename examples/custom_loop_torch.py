"""GAL in a training loop of one's own, with PyTorch.

KERAS_BACKEND=torch python examples/custom_loop_torch.py
"""

import keras
import torch
from spirals import make_data, make_model, report

from keras_gradres.optimizers import GAL


def train(model, gal, loss, batches):
    values = []
    for x, y in batches:
        model.zero_grad()
        value = gal.scale_loss(loss(y, model(x, training=True)))
        value.backward()
        gradients = [v.value.grad for v in model.trainable_variables]
        with torch.no_grad():
            gal.apply(gradients, model.trainable_variables)
        values.append(value.detach())
    return values


if __name__ == "__main__":
    model = make_model()
    gal = GAL(keras.optimizers.SGD(0.1, momentum=0.9), alpha=1e-3, seed=0)
    loss = gal.loss(keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    report(model, gal, train(model, gal, loss, make_data()))
