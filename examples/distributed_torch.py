"""GAL in several processes with PyTorch: a loop of one's own, with DDP.

KERAS_BACKEND=torch python examples/distributed_torch.py
"""

import os

import keras
import torch
from spirals import make_data, make_model, report
from torch.nn.parallel import DistributedDataParallel

from keras_gradres.optimizers import GAL

RANKS = 2  # With GPUs, their number.


def train(rank):
    model = make_model()
    parallel = DistributedDataParallel(model)  # With GPUs, device_ids=[rank].
    gal = GAL(keras.optimizers.SGD(0.1, momentum=0.9), alpha=1e-3, seed=0)
    loss = gal.loss(keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = []
    for x, y in make_data():
        x, y = x[rank::RANKS], y[rank::RANKS]  # The part of this process.
        model.zero_grad()
        z = parallel(keras.ops.convert_to_tensor(x), training=True)
        value = gal.scale_loss(loss(y, z))
        value.backward()
        gradients = [v.value.grad for v in model.trainable_variables]
        with torch.no_grad():
            gal.apply(gradients, model.trainable_variables)
        losses.append(value.detach())
    return model, gal, losses


def main(rank):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29555")
    # With GPUs "nccl", and before it `torch.cuda.set_device(rank)`.
    torch.distributed.init_process_group("gloo", rank=rank, world_size=RANKS)
    found = train(rank)  # Where DDP lives: it must not outlive the group.
    if rank == 0:
        report(*found)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(main, nprocs=RANKS)
