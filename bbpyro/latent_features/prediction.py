"""predict() of a LatentFeatureModel."""

import torch
from torch import Tensor

from bbpyro.checks import check_positive, in_eval_mode
from bbpyro.exclusive import one_at_a_time
from bbpyro.latent_features.model import LatentFeatureModel
from bbpyro.likelihoods import expectation


@one_at_a_time
@torch.no_grad()
def predict_features(model: LatentFeatureModel, x: Tensor, num_samples: int | None = 100) -> Tensor:
    """What is to be expected of each number of x, `[N, ...]`, whether it is nan or was observed.

    torch.where(x.isnan(), bbpyro.predict(model, x), x) fills in what was not.

    Args:
        model: trained; without an encoder on this x, whose data have a z of their own, so that x tells only their
            number.
        x: what was seen of the data, `[N, ...]`, nan where nothing was.
        num_samples: draws of q(W, z) to average over; or None for the mean of W and λ in place of z.

    Raises:
        TypeError: x is no tensor.
        ValueError: a number is below 1, or x does not fit the model.
    """
    check_positive(num_samples=1 if num_samples is None else num_samples)
    x = model.as_data(x)
    with in_eval_mode(model):
        if num_samples is None:
            W, z = model.q_weights().mean, torch.sigmoid(model.z_logits(x))
            return expectation(model.likelihood(model.decoded(z @ W)))
        return torch.stack([expectation(model.draw(x).of_x) for _ in range(num_samples)]).mean(0)
