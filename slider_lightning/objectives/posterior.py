"""Which preserved concept a state already shows, told from the frozen model's own scores."""

import torch
from jaxtyping import Float
from torch import Tensor

_ITERATIONS = 200


def posterior_weights(
    eps_target: Float[Tensor, "batch ..."], eps_preserved: Float[Tensor, "batch preserved ..."]
) -> Float[Tensor, "batch preserved"]:
    """Weights w_p >= 0 with sum 1 for which sum_p w_p eps(x, (c, p), t) comes nearest to eps(x, c_t, t).

    Where the preserved concepts divide c_t's images among them, the score of the mixture is the mixture of the scores,
    eps(x, c_t, t) = sum_p P(p | x, c_t) eps(x, (c_t, p), t), so the weights are the posterior of p at the state itself:
    which of the preserved concepts the image is on its way to show. Least squares on the simplex, by Nesterov's
    accelerated gradient with the projection of Duchi et al. (2008).

    Args:
        eps_target: eps(x, c_t, t).
        eps_preserved: eps(x, (c, p), t), one for every preserved concept p.
    """
    target, scores = eps_target.float().flatten(1), eps_preserved.float().flatten(2)
    differences = scores - target.unsqueeze(1)
    # In mixed precision the products would be taken in half precision.
    with torch.autocast(target.device.type, enabled=False):
        gram = differences @ differences.mT
        step = 1 / torch.linalg.eigvalsh(gram)[:, -1].clamp_min(torch.finfo(gram.dtype).tiny)[:, None]
        weights = ahead = torch.full_like(gram[:, 0], 1 / gram.shape[-1])
        for iteration in range(_ITERATIONS):
            gradient = (gram @ ahead.unsqueeze(-1)).squeeze(-1)
            moved = _onto_simplex(ahead - step * gradient)
            ahead = moved + iteration / (iteration + 3) * (moved - weights)
            weights = moved
    return weights


def _onto_simplex(points: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
    """The nearest points with entries of at least 0 that sum to 1."""
    descending = points.sort(dim=1, descending=True).values
    excess = descending.cumsum(1) - 1
    counts = torch.arange(1, points.shape[1] + 1, device=points.device)
    kept = (descending * counts > excess).sum(1, keepdim=True)
    threshold = excess.gather(1, kept - 1) / kept
    return (points - threshold).clamp_min(0)
