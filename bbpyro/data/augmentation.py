"""Changes of a minibatch of images that leave its labels true."""

import torch
import torch.nn.functional as F
from torch import Tensor


def crop_and_flip(images: Tensor, padding: int = 4) -> Tensor:
    """Each image shifted by up to `padding` pixels both ways, zeros coming in, and half of them mirrored.

    It is what is usually done to CIFAR-10: a random crop of the padded image, and a random horizontal flip.

    Args:
        images: `[B, C, H, W]`.
        padding: pixels of zeros around.

    Returns:
        Images of the same shape; the draws follow from torch's global generator.

    Raises:
        ValueError: `images` has other dimensions, or `padding` is negative.
    """
    if images.dim() != 4 or padding < 0:
        raise ValueError(
            f"images have shape {list(images.shape)} and padding is {padding}, wanted [B, C, H, W] and 0 or more"
        )
    num_images, num_channels, height, width = images.shape
    device = images.device
    padded = F.pad(images, [padding] * 4)
    top, left = torch.randint(2 * padding + 1, (2, num_images, 1), device=device)
    mirrored = torch.rand(num_images, 1, device=device) < 0.5
    rows = top + torch.arange(height, device=device)
    columns = left + torch.arange(width, device=device)
    columns = torch.where(mirrored, columns.flip(1), columns)
    image = torch.arange(num_images, device=device)[:, None, None, None]
    channel = torch.arange(num_channels, device=device)[:, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
