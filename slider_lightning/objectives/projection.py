"""Disentanglement beyond eq. 4: a direction without its components along the contrasts of protected concepts."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from slider_lightning.errors import InputError

Method = Literal["symmetric", "least_squares"]
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


@dataclass(frozen=True)
class Projection:
    """Which concepts are taken out of the direction eps(c+) - eps(c-), and how.

    Args:
        contrasts: pairs of prompts (q+, q-) that differ in a protected concept alone, e.g. ("a person, male",
            "a person, female"). Each contrast is eps(q+) - eps(q-) at the state itself.
        method: "symmetric" (`symmetric_projection`) or "least_squares" (`least_squares_projection`).
        strength: of least squares, 0 or more; the symmetric method has none, so there it is 1.

    Raises:
        InputError: if there is no contrast, one is blank or has two equal prompts, the method is unknown, or the
            strength is out of range.
    """

    contrasts: tuple[tuple[str, str], ...]
    method: Method = "symmetric"
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not self.contrasts:
            raise InputError(
                "Expected at least one pair in objective.project.contrasts, but got none; set project=null."
            )
        for positive, negative in self.contrasts:
            if not positive.strip() or not negative.strip() or positive == negative:
                raise InputError(
                    f"Expected two different prompts in every pair of objective.project.contrasts, but got "
                    f"{positive!r} and {negative!r}; change one."
                )
        if self.method not in (known := get_args(Method)):
            names = ", ".join(known)
            raise InputError(f"Expected objective.project.method to be one of {names}, but got {self.method!r}.")
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise InputError(f"Expected objective.project.strength to be 0 or more, but got {self.strength}; raise it.")
        if self.method == "symmetric" and self.strength != 1:
            raise InputError(
                f"Expected objective.project.strength to be 1 with the symmetric method, but got {self.strength}; "
                "leave it out, or set objective.project.method=least_squares."
            )

    def __call__(
        self, direction: Float[Tensor, "batch ..."], contrasts: Float[Tensor, "batch contrasts ..."]
    ) -> Float[Tensor, "batch ..."]:
        """The direction without the contrasts, in fp32.

        Args:
            direction: eps(c+) - eps(c-) of every state.
            contrasts: eps(q+) - eps(q-) of every state, in the order of the settings.

        Raises:
            ValueError: if another number of contrasts comes.
        """
        if contrasts.shape[1] != len(self.contrasts):
            raise ValueError(f"Expected {len(self.contrasts)} contrasts, but got {contrasts.shape[1]}.")
        # Mixed precision would take the products of the Gram matrix in half precision.
        with torch.autocast(direction.device.type, enabled=False):
            if self.method == "symmetric":
                return symmetric_projection(direction, contrasts)
            return least_squares_projection(direction, contrasts, self.strength)
