"""What the networks for images have in common: their input, and where channels are."""

import keras


def channel_axis() -> int:
    """The axis of the channels: 1 or -1, by `keras.config.image_data_format()`."""
    return 1 if keras.config.image_data_format() == "channels_first" else -1


def image_input(channels: int = 3) -> keras.KerasTensor:
    """The symbolic input of images of any height and width."""
    if channel_axis() == 1:
        return keras.Input((channels, None, None))
    return keras.Input((None, None, channels))
