import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare

from bbpyro.data import crop_and_flip

PADDING = 1


def every_change(image: torch.Tensor) -> list[torch.Tensor]:
    """All crops of the padded image, and their mirror images, the slow way."""
    _, height, width = image.shape
    padded = F.pad(image, [PADDING] * 4)
    crops = [
        padded[:, top : top + height, left : left + width]
        for top in range(2 * PADDING + 1)
        for left in range(2 * PADDING + 1)
    ]
    return [*crops, *(crop.flip(-1) for crop in crops)]


def test_an_image_becomes_each_of_its_crops_and_mirrored_crops_equally_often():
    image = torch.rand(2, 3, 4)  # neither square nor symmetric
    changed = crop_and_flip(image.expand(9000, -1, -1, -1), PADDING)
    counts = torch.stack([(changed == one).flatten(1).all(1).sum() for one in every_change(image)])
    assert counts.sum() == 9000
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_images_keep_their_places_their_type_and_the_seed_decides():
    images = torch.rand(50, 3, 8, 8)
    torch.manual_seed(1)
    first = crop_and_flip(images)
    torch.manual_seed(1)
    assert torch.equal(crop_and_flip(images), first) and first.shape == images.shape
    assert not torch.equal(crop_and_flip(images), first)
    flat = torch.arange(1.0, 51.0).reshape(50, 1, 1, 1).expand(50, 1, 8, 8)  # image i is of the number i
    assert torch.equal(crop_and_flip(flat.double()).amax((1, 2, 3)), torch.arange(1.0, 51.0).double())


def test_other_shapes_and_a_negative_padding_are_refused():
    for images, padding in ((torch.rand(3, 8, 8), 4), (torch.rand(2, 3, 8, 8), -1)):
        with pytest.raises(ValueError, match=r"wanted \[B, C, H, W\] and 0 or more"):
            crop_and_flip(images, padding)


def test_without_padding_an_image_is_itself_or_its_mirror_image():
    images = torch.rand(20, 1, 5, 5)
    changed = crop_and_flip(images, 0)
    for before, after in zip(images, changed, strict=True):
        assert torch.equal(after, before) or torch.equal(after, before.flip(-1))
