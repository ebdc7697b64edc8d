"""The papers' networks, with a choice of the residual connection in every block."""

from keras_gradres.models.edsr import EDSR, SEDSR
from keras_gradres.models.mlp import MLP
from keras_gradres.models.resnet import ResNet
from keras_gradres.models.srresnet import SRResNet
from keras_gradres.models.unet import UNet

__all__ = ["EDSR", "MLP", "SEDSR", "ResNet", "SRResNet", "UNet"]
