"""Disentanglement beyond eq. 4: a direction without its components along the contrasts of protected concepts."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from slider_lightning.config.objective import Projection

# Of the Gram matrix of unit vectors in fp32: what lies below is rounding, its vectors depend on each other.
_SMALLEST_EIGENVALUE = 1e-5


def least_squares_projection(
    direction: Float[Tensor, "batch ..."], contrasts: Float[Tensor, "batch contrasts ..."], strength: float = 1.0
) -> Float[Tensor, "batch ..."]:
    """d - strength * G (G^T G)^+ G^T d, of every state by itself.

    At strength 1 the component of d in the span of all contrasts at once is taken out, whatever their lengths and
    angles; 0 leaves d as it is.

    Args:
        direction: d.
        contrasts: the columns g_j of G; zero or dependent ones do no harm.
        strength: share of the component that is taken out.
    """
    d, g = direction.float().flatten(1), F.normalize(contrasts.float().flatten(2), dim=-1)
    coefficients = _inverse_power(g @ g.mT, 1.0) @ (g @ d.unsqueeze(-1))
    return (d - strength * (g.mT @ coefficients).squeeze(-1)).view_as(direction)


def symmetric_projection(
    direction: Float[Tensor, "batch ..."], contrasts: Float[Tensor, "batch contrasts ..."]
) -> Float[Tensor, "batch ..."]:
    """d's column of Löwdin's symmetric orthogonalisation V = U (U^T U)^(-1/2), scaled to |d|, of every state by itself.

    U holds d and the contrasts as unit vectors; of all orthonormal sets V is the nearest to U, and no vector of U comes
    first. That is what confounding both ways asks for: where d = A + rho G and g = G + rho A with orthonormal A and G,
    taking all of g out of d leaves a multiple of A - rho G, as far off on the other side, while V is (A, G) itself.

    Args:
        direction: d.
        contrasts: g_j; their lengths and signs do not matter, zero or dependent ones do no harm.
    """
    d = direction.float().flatten(1).unsqueeze(1)
    u = F.normalize(torch.cat([d, contrasts.float().flatten(2)], dim=1), dim=-1)
    first = _inverse_power(u @ u.mT, 0.5)[:, :1] @ u
    return (d.norm(dim=-1, keepdim=True) * first).view_as(direction)


def _inverse_power(gram: Float[Tensor, "batch n n"], power: float) -> Float[Tensor, "batch n n"]:
    """gram^(-power) on the space that its vectors span, 0 beside it."""
    values, vectors = torch.linalg.eigh(gram)
    powers = values.clamp_min(_SMALLEST_EIGENVALUE).pow(-power) * (values > _SMALLEST_EIGENVALUE)
    return (vectors * powers.unsqueeze(-2)) @ vectors.mT


def project_out(
    projection: Projection, direction: Float[Tensor, "batch ..."], contrasts: Float[Tensor, "batch contrasts ..."]
) -> Float[Tensor, "batch ..."]:
    """The direction without the contrasts, in fp32.

    Args:
        projection: which contrasts, and how they are taken out.
        direction: eps(c+) - eps(c-) of every state.
        contrasts: eps(q+) - eps(q-) of every state, in the order of the settings.

    Raises:
        ValueError: if another number of contrasts comes.
    """
    if contrasts.shape[1] != len(projection.contrasts):
        raise ValueError(f"Expected {len(projection.contrasts)} contrasts, but got {contrasts.shape[1]}.")
    # Mixed precision would take the products of the Gram matrix in half precision.
    with torch.autocast(direction.device.type, enabled=False):
        if projection.method == "symmetric":
            return symmetric_projection(direction, contrasts)
        return least_squares_projection(direction, contrasts, projection.strength)
