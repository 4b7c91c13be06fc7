"""A generator made by hand, with the official interface, whose style channels do what their names say."""

from weakref import WeakSet

import torch
from torch import Tensor, nn

from experiments.tiny_faces.pairs import sample_well_drawn
from experiments.tiny_faces.render import render
from slider_lightning.data.style_space import StyleSpace

EYES, SMILE, BOTH, GLASSES, NOTHING = range(5)
FACES = 8


class PlantedLayer(nn.Module):
    """Styles of five channels, each w alone, and what is drawn between their ends."""

    def __init__(self) -> None:
        super().__init__()
        self.affine = nn.Linear(6, 5)
        with torch.no_grad():
            self.affine.weight.zero_()
            self.affine.weight[:, :5] = 0.05 * torch.eye(5)
            self.affine.bias.zero_()

    def forward(self, w: Tensor) -> Tensor:
        styles: Tensor = self.affine(w)
        return styles


class PlantedSynthesis(nn.Module):
    """Drawn faces; eyes shrink as style 0 rises, mouths smile as style 1 rises, style 2 does both.

    Glasses appear as style 3 rises, and style 4 does nothing.
    """

    corners: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = PlantedLayer()
        faces = sample_well_drawn(FACES, seed=3)
        corners = [
            render(faces.with_values(eye_size=size, smile=smile, glasses=glasses), 64).images
            for size in (0.9, 0.1)
            for smile in (0.1, 0.9)
            for glasses in (0, 1)
        ]
        self.register_buffer("corners", torch.stack(corners).unflatten(0, (2, 2, 2)))

    def forward(self, ws: Tensor, noise_mode: str = "random") -> Tensor:
        styles = self.layer(ws[:, 0])
        number = (ws[:, 0, 5].sigmoid() * FACES).long().clamp_max(FACES - 1)
        image = self.corners[:, :, :, number]
        for style in (styles[:, EYES] + styles[:, BOTH], styles[:, SMILE] + styles[:, BOTH], styles[:, GLASSES]):
            share = (0.5 + 2 * style).clamp(0, 1)[:, None, None, None]
            image = torch.lerp(image[0], image[1], share)
        return image * 2 - 1


class PlantedMapping(nn.Module):
    """w is z."""

    def forward(self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        return z[:, None] * truncation_psi


class PlantedGenerator(nn.Module):
    """`G(z, c)` of the above."""

    def __init__(self) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = 6, 0, 6, 1
        self.img_resolution, self.img_channels = 64, 3
        self.mapping = PlantedMapping()
        self.synthesis = PlantedSynthesis()


OPENED: WeakSet[StyleSpace] = WeakSet()
"""What `open_planted` opened and somebody still holds."""


def open_planted() -> StyleSpace:
    """What a config builds."""
    space = StyleSpace(PlantedGenerator(), "planted")
    OPENED.add(space)
    return space
