"""The renderer: faces as soft masks of signed distances, batched in torch.

Coordinates run from -1 to 1, x to the right and y down; a mask fades over one pixel. Parts are painted back to front.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from experiments.tiny_faces.faces import GENDERS, Faces

PARSE_CLASSES = ("background", "hair", "skin", "eye", "brow", "glasses", "mouth", "clothes")

SKIN = torch.tensor([[0.98, 0.85, 0.76], [0.83, 0.62, 0.44], [0.45, 0.28, 0.19]])
HAIR = torch.tensor([[0.07, 0.06, 0.08], [0.40, 0.23, 0.11], [0.93, 0.76, 0.33], [0.78, 0.26, 0.07]])
GREY_HAIR = torch.tensor([0.74, 0.75, 0.78])
BACKGROUND = torch.tensor(
    [[0.30, 0.50, 0.92], [0.36, 0.74, 0.42], [0.97, 0.86, 0.32], [0.97, 0.62, 0.76], [0.95, 0.95, 0.95]]
)
CLOTHES = torch.tensor([[0.20, 0.22, 0.35], [0.60, 0.18, 0.22], [0.35, 0.35, 0.36]])
IRIS = torch.tensor([0.16, 0.20, 0.30])
FRAME = torch.tensor([0.10, 0.10, 0.14])
LIPS = torch.tensor([0.80, 0.20, 0.26])
MAN = GENDERS.index("man")
EYE_X = 0.225


@dataclass(frozen=True)
class Rendering:
    """What the renderer knows about a batch of drawn faces.

    Args:
        images: in [0, 1].
        eye_mask: soft coverage of both eyes in [0, 1].
        labels: index into PARSE_CLASSES for every pixel.
    """

    images: Float[Tensor, "n 3 size size"]
    eye_mask: Float[Tensor, "n size size"]
    labels: Int[Tensor, "n size size"]

    @property
    def eye_area(self) -> Float[Tensor, " n"]:
        """Visible area of both eyes in pixels."""
        return self.eye_mask.sum((-2, -1))


class Canvas:
    """Images being painted, with the label of the part that was painted last on each pixel."""

    def __init__(self, faces: Faces, size: int) -> None:
        n, axis = len(faces), (torch.arange(size) + 0.5) / size * 2 - 1
        hidden = faces.hidden
        wobble = 0.055 * (hidden["poor_amount"] * (hidden["poor_kind"][:, 0] > 0.4))[:, None, None]
        phase = hidden["phase"][:, :, None, None]
        shift = hidden["shift"][:, :, None, None]
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        self.pixel = 2.0 / size
        self.x = x - shift[:, 0] + wobble * torch.sin(13 * y + phase[:, 0])
        self.y = y - shift[:, 1] + wobble * torch.sin(11 * x + phase[:, 1])
        self.images = torch.zeros(n, 3, size, size)
        self.labels = torch.zeros(n, size, size, dtype=torch.long)
        self.eye_mask = torch.zeros(n, size, size)

    def mask(self, distance: Tensor) -> Tensor:
        """Soft coverage of a signed distance (negative inside), fading over one pixel."""
        return (0.5 - distance / self.pixel).clamp(0, 1)

    def ellipse(self, cx: Tensor | float, cy: Tensor | float, rx: Tensor | float, ry: Tensor | float) -> Tensor:
        """Signed distance to an axis-aligned ellipse (first-order)."""
        u, v = self.x - cx, self.y - cy
        radius = torch.sqrt((u / rx) ** 2 + (v / ry) ** 2 + 1e-9)
        gradient = torch.sqrt((u / rx**2) ** 2 + (v / ry**2) ** 2 + 1e-9) / radius
        return (radius - 1) / gradient

    def segment(
        self, x0: Tensor | float, y0: Tensor | float, x1: Tensor | float, y1: Tensor | float, width: Tensor | float
    ) -> Tensor:
        """Signed distance to a segment of half-width `width`."""
        dx, dy = torch.as_tensor(x1 - x0), torch.as_tensor(y1 - y0)
        u, v = self.x - x0, self.y - y0
        along = ((u * dx + v * dy) / (dx**2 + dy**2)).clamp(0, 1)
        return torch.sqrt((u - along * dx) ** 2 + (v - along * dy) ** 2 + 1e-9) - width

    def paint(self, mask: Tensor, color: Tensor, label: str | None = None) -> None:
        """Blend `color` ((n, 3) or (3,)) over the images where `mask` is set."""
        color = color.expand(len(self.images), 3)[:, :, None, None]
        self.images = torch.lerp(self.images, color, mask[:, None])
        if label is not None:
            self.labels = torch.where(mask > 0.5, PARSE_CLASSES.index(label), self.labels)


@dataclass(frozen=True)
class Proportions:
    """Measures and colours shared by the parts of a face, each (n, 1, 1) or (n, 3)."""

    age: Tensor
    man: Tensor
    curl: Tensor
    head_rx: Tensor
    head_ry: Tensor
    head_y: Tensor
    eye_y: Tensor
    turn: Tensor
    skin: Tensor
    hair: Tensor
    brow: Tensor

    @classmethod
    def of(cls, faces: Faces) -> "Proportions":
        values, hidden = faces.values, faces.hidden
        age, jitter = values["age"][:, None, None], hidden["color_jitter"]
        grey_skin = torch.tensor([0.62, 0.58, 0.54])
        skin = torch.lerp(SKIN[values["skin_tone"]] + 0.03 * jitter[:, 0], grey_skin, 0.16 * values["age"][:, None])
        base_hair = HAIR[hidden["base_hair_color"]] + 0.03 * jitter[:, 1]
        hair = torch.lerp(base_hair, GREY_HAIR.expand_as(base_hair), hidden["grey_blend"][:, None])
        return cls(
            age=age,
            man=(values["gender"] == MAN).float()[:, None, None],
            curl=hidden["curl_amount"][:, None, None],
            head_rx=0.43 + 0.13 * values["face_width"][:, None, None],
            head_ry=0.58 + 0.10 * age,
            head_y=0.10 - 0.03 * age,
            eye_y=0.10 - 0.13 * age,
            turn=hidden["turn"][:, None, None],
            skin=skin.clamp(0, 1),
            hair=hair.clamp(0, 1),
            brow=torch.lerp(hair, torch.full_like(hair, 0.12), 0.35).clamp(0, 1),
        )


def smoothstep(x: Tensor, low: float, high: float) -> Tensor:
    """Cubic ramp from 0 at `low` to 1 at `high`."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def render(faces: Faces, size: int = 64) -> Rendering:
    """Draw faces.

    Args:
        faces: n faces.
        size: side of the square images in pixels.
    """
    canvas, body = Canvas(faces, size), Proportions.of(faces)
    _background_and_clothes(canvas, faces)
    _back_hair(canvas, body, faces)
    _head(canvas, body)
    _age_marks(canvas, body)
    _nose_and_mouth(canvas, body, faces)
    _eyes(canvas, body, faces)
    _front_hair(canvas, body, faces)
    _brows(canvas, body, faces)
    _glasses(canvas, body, faces)
    _smear(canvas, faces)
    return Rendering(canvas.images.clamp(0, 1), canvas.eye_mask, canvas.labels)


def _background_and_clothes(canvas: Canvas, faces: Faces) -> None:
    color = BACKGROUND[faces.values["background"]] + 0.03 * faces.hidden["color_jitter"][:, 2]
    shade = (1.0 - 0.10 * (canvas.y + 1) / 2)[:, None]
    canvas.images = color[:, :, None, None] * shade
    clothes = CLOTHES[(faces.hidden["clothes"] * len(CLOTHES)).long().clamp(max=len(CLOTHES) - 1)[:, 0]]
    canvas.paint(canvas.mask(canvas.ellipse(0.0, 1.18, 0.80, 0.38)), clothes, "clothes")


def _hair_outline(canvas: Canvas, body: Proportions, faces: Faces, cy: Tensor, rx: Tensor, ry: Tensor) -> Tensor:
    """Distance to an ellipse of hair whose border bulges in locks when it is curly."""
    angle = torch.atan2(canvas.y - cy, canvas.x)
    locks = body.curl * 0.075 * torch.sin(11 * angle + faces.hidden["phase"][:, 2, None, None])
    return canvas.ellipse(0.0, cy, rx, ry) - locks - 0.05 * body.curl


def _hair_color(canvas: Canvas, body: Proportions, faces: Faces) -> Tensor:
    """Hair colour per pixel (n, 3, size, size): strands when straight, dark and light rings when curly."""
    phase = faces.hidden["phase"][:, 3, None, None]
    strands = 0.05 * torch.sin(26 * canvas.x + phase)
    rings = 0.20 * torch.sin(19 * canvas.x + phase) * torch.sin(19 * canvas.y + 2 * phase)
    shade = torch.lerp(strands, rings, body.curl)
    return (body.hair[:, :, None, None] * (1 + shade[:, None]) + 0.25 * shade[:, None] * body.curl[:, None]).clamp(0, 1)


def _paint_hair(canvas: Canvas, body: Proportions, faces: Faces, mask: Tensor) -> None:
    canvas.images = torch.lerp(canvas.images, _hair_color(canvas, body, faces), mask[:, None])
    canvas.labels = torch.where(mask > 0.5, PARSE_CLASSES.index("hair"), canvas.labels)


def _back_hair(canvas: Canvas, body: Proportions, faces: Faces) -> None:
    crown = _hair_outline(canvas, body, faces, body.head_y - 0.04, body.head_rx + 0.10, body.head_ry + 0.10)
    waves = body.curl * 0.05 * torch.sin(15 * canvas.y + faces.hidden["phase"][:, 2, None, None])
    sides = torch.maximum(canvas.x.abs() - (body.head_rx + 0.13 + 0.05 * body.curl) - waves, canvas.y - 0.86)
    sides = torch.maximum(sides, 0.0 - canvas.y)
    long_hair = canvas.mask(torch.minimum(crown, sides))
    short_hair = canvas.mask(torch.maximum(crown + 0.03, canvas.y - 0.05))
    _paint_hair(canvas, body, faces, torch.lerp(long_hair, short_hair, body.man))


def _head(canvas: Canvas, body: Proportions) -> None:
    shadow = body.skin * 0.80
    canvas.paint(
        canvas.mask(torch.maximum(canvas.x.abs() - 0.17 - 0.05 * body.man, 0.5 - canvas.y)) * (canvas.y < 0.93),
        shadow,
        "skin",
    )
    ears = torch.minimum(
        canvas.ellipse(-body.head_rx, body.eye_y + 0.06, 0.07, 0.12),
        canvas.ellipse(body.head_rx, body.eye_y + 0.06, 0.07, 0.12),
    )
    canvas.paint(canvas.mask(ears) * body.man, shadow, "skin")
    down = ((canvas.y - body.head_y) / body.head_ry).clamp(0, 1)
    taper = torch.lerp(torch.tensor(0.30), torch.tensor(0.10), body.man) - 0.08 * smoothstep(body.age, 0.5, 1.0)
    width = body.head_rx * (1 - taper * down**2)
    head = canvas.ellipse(0.0, body.head_y, width, body.head_ry)
    canvas.paint(canvas.mask(head - 0.02), body.skin * 0.62, "skin")
    canvas.paint(canvas.mask(head + 0.012), body.skin, "skin")
    stubble = body.man * 0.42 * smoothstep(body.age, 0.1, 0.35) * smoothstep(canvas.y, 0.22, 0.42)
    canvas.paint(canvas.mask(head + 0.012) * stubble, body.brow)


def _age_marks(canvas: Canvas, body: Proportions) -> None:
    blush = 0.55 * (1 - smoothstep(body.age, 0.0, 0.55))
    lines = smoothstep(body.age, 0.28, 1.0)
    crease = body.skin * 0.55
    for side in (-1.0, 1.0):
        x = side * 0.30 + body.turn
        canvas.paint(torch.sigmoid(-canvas.ellipse(x, 0.30, 0.09, 0.07) * 30) * blush, torch.tensor([0.96, 0.42, 0.42]))
        bag_y = body.eye_y + 0.185
        canvas.paint(
            canvas.mask(canvas.segment(side * EYE_X - 0.08, bag_y, side * EYE_X + 0.08, bag_y, 0.016)) * lines * 0.8,
            crease,
        )
        fold = canvas.segment(
            side * 0.13 + body.turn, body.eye_y + 0.24, side * 0.25 + body.turn, body.eye_y + 0.47, 0.02
        )
        canvas.paint(canvas.mask(fold) * lines, crease)
    for height in (0.345, 0.425):
        brow_line = canvas.segment(-0.22, body.eye_y - height, 0.22, body.eye_y - height, 0.016)
        canvas.paint(canvas.mask(brow_line) * lines, crease)
    chin = canvas.segment(-0.07, body.head_y + body.head_ry - 0.09, 0.07, body.head_y + body.head_ry - 0.09, 0.016)
    canvas.paint(canvas.mask(chin) * lines, crease)


def _poor_shift(faces: Faces, part: int) -> tuple[Tensor, Tensor]:
    """Displacement (x, y) of a part in a bad drawing; 0 left eye, 1 right eye, 2 mouth, 3 nose."""
    shift = faces.hidden["poor_shift"][:, part]
    apart = 0.10 * faces.hidden["poor_amount"] * (1 if part % 2 else -1) if part < 2 else torch.zeros(len(faces))
    return 0.10 * shift[:, 0, None, None], (0.10 * shift[:, 1] + apart)[:, None, None]


def _nose_and_mouth(canvas: Canvas, body: Proportions, faces: Faces) -> None:
    dx, dy = _poor_shift(faces, 3)
    nose_x, nose_y = 1.6 * body.turn + dx, body.eye_y + 0.24 + dy
    canvas.paint(
        canvas.mask(canvas.segment(nose_x + 0.02, nose_y - 0.14, nose_x + 0.05, nose_y, 0.016)) * 0.7, body.skin * 0.68
    )
    canvas.paint(canvas.mask(canvas.ellipse(nose_x, nose_y, 0.065, 0.025)), body.skin * 0.62)
    dx, dy = _poor_shift(faces, 2)
    smile = faces.values["smile"][:, None, None]
    x, y = canvas.x - 1.3 * body.turn - dx, canvas.y - (body.eye_y + 0.45) - dy
    half = 0.13 + 0.09 * smile
    bend = (smile - 0.35) * 0.20
    curve = bend * (0.5 - (x / half) ** 2)
    open_height = 0.11 * smoothstep(smile, 0.45, 1.0) * (1 - (x / half) ** 2).clamp(0, 1)
    beside = x.abs() - half
    thickness = torch.lerp(torch.tensor(0.042), torch.tensor(0.026), body.man)
    lips = torch.maximum(
        torch.maximum(curve - open_height / 2 - thickness - y, y - curve - open_height / 2 - thickness), beside
    )
    opening = torch.maximum(torch.maximum(curve - open_height / 2 - y, y - curve - open_height / 2), beside + 0.02)
    color = torch.lerp(LIPS.expand_as(body.skin), body.skin * torch.tensor([0.62, 0.45, 0.45]), body.man[:, 0])
    canvas.paint(canvas.mask(lips), color, "mouth")
    canvas.paint(canvas.mask(opening) * (open_height > 0.02), torch.full((3,), 0.97), "mouth")


def _eyes(canvas: Canvas, body: Proportions, faces: Faces) -> None:
    size = faces.values["eye_size"][:, None, None]
    rx, ry = 0.100 + 0.070 * size, 0.064 + 0.050 * size
    for part, side in enumerate((-1.0, 1.0)):
        dx, dy = _poor_shift(faces, part)
        cx, cy = side * EYE_X + body.turn + dx, body.eye_y + dy
        eye = canvas.ellipse(cx, cy, rx, ry)
        lashes = torch.maximum(eye - torch.lerp(torch.tensor(0.045), torch.tensor(0.025), body.man), canvas.y - cy)
        canvas.paint(canvas.mask(lashes), torch.full((3,), 0.08))
        opening = canvas.mask(eye)
        canvas.paint(opening, torch.full((3,), 0.98), "eye")
        iris = torch.minimum(canvas.mask(canvas.ellipse(cx, cy, ry * 0.80, ry * 0.80)), opening)
        canvas.paint(iris, IRIS)
        canvas.eye_mask = torch.maximum(canvas.eye_mask, opening)


def _front_hair(canvas: Canvas, body: Proportions, faces: Faces) -> None:
    cap = _hair_outline(canvas, body, faces, body.head_y - 0.04, body.head_rx + 0.10, body.head_ry + 0.10)
    cap = torch.lerp(cap, cap + 0.03, body.man)
    recession = 0.10 * smoothstep(body.age, 0.45, 1.0) * body.man
    man_line = body.eye_y - 0.42 - recession + 0.10 * (canvas.x / body.head_rx) ** 2
    woman_line = body.eye_y - 0.40 + 0.55 * ((canvas.x.abs() - 0.10).clamp(min=0) / body.head_rx) ** 2
    ripple = 0.03 * body.curl * torch.sin(17 * canvas.x + faces.hidden["phase"][:, 2, None, None])
    below = canvas.y - torch.lerp(woman_line, man_line, body.man) - ripple
    _paint_hair(canvas, body, faces, canvas.mask(torch.maximum(cap, below)))


def _brows(canvas: Canvas, body: Proportions, faces: Faces) -> None:
    slope = (faces.values["brow_shape"][:, None, None] - 0.5) * 0.16
    width = torch.lerp(torch.tensor(0.020), torch.tensor(0.036), body.man)
    for side in (-1.0, 1.0):
        cx, cy = side * (EYE_X + 0.01) + body.turn, body.eye_y - 0.265
        inner, outer = cx - side * 0.12, cx + side * 0.12
        brow = canvas.segment(inner, cy - slope, outer, cy + slope, width)
        canvas.paint(canvas.mask(brow), body.brow, "brow")


def _glasses(canvas: Canvas, body: Proportions, faces: Faces) -> None:
    worn = faces.values["glasses"].float()[:, None, None]
    bridge = canvas.segment(-0.05 + body.turn, body.eye_y, 0.05 + body.turn, body.eye_y, 0.02)
    for side in (-1.0, 1.0):
        ring = canvas.ellipse(side * EYE_X + body.turn, body.eye_y, 0.207, 0.192).abs() - 0.019
        temple = canvas.segment(
            side * (EYE_X + 0.20) + body.turn, body.eye_y, side * (body.head_rx + 0.02), body.eye_y - 0.02, 0.02
        )
        frame = torch.minimum(torch.minimum(ring, temple), bridge)
        canvas.paint(canvas.mask(frame) * worn, FRAME, "glasses")


def _smear(canvas: Canvas, faces: Faces) -> None:
    """Drag a horizontal band of a badly drawn picture sideways, eyes included."""
    amount = faces.hidden["poor_amount"] * (faces.hidden["poor_kind"][:, 1] > 0.4)
    centre = (faces.hidden["poor_kind"][:, 2] * 1.2 - 0.5)[:, None, None]
    band = torch.sigmoid((0.16 - (canvas.y - centre).abs()) * 25) * amount[:, None, None]
    layers = torch.cat([canvas.images, canvas.eye_mask[:, None]], 1)
    reach = max(round(0.09 / canvas.pixel), 1)
    dragged = torch.stack([torch.roll(layers, step, dims=-1) for step in range(0, 3 * reach, max(reach // 2, 1))]).mean(
        0
    )
    layers = torch.lerp(layers, dragged, band[:, None])
    canvas.images, canvas.eye_mask = layers[:, :3], layers[:, 3]
