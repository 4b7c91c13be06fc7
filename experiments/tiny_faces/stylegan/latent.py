"""What the generator's z means: z -> the attributes of a well drawn face, a function."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.tiny_faces.faces import BACKGROUNDS, CURL_GAP, GREY_BLEND_GAP, HAIR_COLORS, SKIN_TONES, Faces

CONTINUOUS = ("age", "smile", "eye_size", "brow_shape", "face_width")
_TURN, _SHIFT = 0.05, 0.06


def z_dim() -> int:
    """Length of z."""
    return _Reader(torch.zeros(1, 0)).length()


def faces_of(z: Float[Tensor, "n z_dim"]) -> Faces:
    """The faces that z stands for, with the world's distribution when z is standard normal; all are well drawn.

    A uniform quantity is the normal's distribution function of its element, a class the largest of its elements:
    nothing jumps but classes. Locks and strands of hair always lie alike, since a regression would average phases away.
    """
    return _Reader(z).faces()


class _Reader:
    """Takes the elements of z one after the other."""

    def __init__(self, z: Tensor) -> None:
        self.z, self.position = z, 0

    def length(self) -> int:
        self.z = torch.zeros(1, 64)
        self.faces()
        return self.position

    def normal(self, count: int) -> Tensor:
        self.position += count
        return self.z[:, self.position - count : self.position]

    def uniform(self, count: int) -> Tensor:
        return torch.special.ndtr(self.normal(count))

    def classes(self, count: int) -> Tensor:
        return self.normal(count).argmax(1)

    def faces(self) -> Faces:
        n = len(self.z)
        values = {name: self.uniform(1)[:, 0] for name in CONTINUOUS}
        age = values["age"]
        values["gender"] = (self.uniform(1)[:, 0] > 0.3 + 0.4 * age).long()
        values["glasses"] = (self.uniform(1)[:, 0] < 0.2 + 0.6 * age).long()
        values["skin_tone"] = self.classes(len(SKIN_TONES))
        values["background"] = self.classes(len(BACKGROUNDS))
        values["curl"] = (self.normal(1)[:, 0] > 0).long()
        values["quality"] = torch.zeros(n, dtype=torch.long)
        grey = self.uniform(1)[:, 0] < ((age - 0.5) * 2.5).clamp(0.0, 0.9)
        base = self.classes(len(HAIR_COLORS) - 1)
        values["hair_color"] = torch.where(grey, HAIR_COLORS.index("grey"), base)
        amount, curl = self.uniform(2).unbind(1)
        (grey_low, grey_high), (curl_low, curl_high) = GREY_BLEND_GAP, CURL_GAP
        return Faces(
            values,
            {
                "base_hair_color": base,
                "grey_blend": torch.where(grey, grey_high + (1 - grey_high) * amount, grey_low * amount * (age > 0.4)),
                "curl_amount": torch.where(values["curl"] == 1, curl_high + (1 - curl_high) * curl, curl_low * curl),
                "color_jitter": torch.cat([self.uniform(9).view(n, 3, 3) * 2 - 1, torch.zeros(n, 1, 3)], 1),
                "clothes": self.uniform(1).expand(n, 3),
                "shift": (self.uniform(2) * 2 - 1) * _SHIFT,
                "turn": (self.uniform(1)[:, 0] * 2 - 1) * _TURN,
                "phase": torch.zeros(n, 4),
                "poor_amount": torch.zeros(n),
                "poor_shift": torch.zeros(n, 4, 2),
                "poor_kind": torch.zeros(n, 3),
            },
        )
