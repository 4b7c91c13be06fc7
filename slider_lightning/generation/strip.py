"""The strip: rows are seeds, columns are slider scales."""

import math
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from slider_lightning.assets import atomic_path
from slider_lightning.backbone import images_to_pil

_MIN_CELL = 96
_GAP = 4
_FONT_SIZE = 13
_LINE = 20


def strip_title(concept: str, prompt: str, start_timestep: int) -> str:
    """The strip's heading: what was turned, on which prompt, from which timestep on."""
    return f"{concept} | {prompt} | start_timestep {start_timestep}"


def draw_strip(
    images: Float[Tensor, "rows columns 3 height width"],
    row_labels: Sequence[object],
    column_labels: Sequence[object],
    title: str,
) -> Image.Image:
    """A labelled grid of images.

    Images smaller than 96 px are enlarged by a whole factor, pixel by pixel, so that nothing is smoothed.

    Args:
        images: in [0, 1].
        row_labels: one per row, e.g. seeds.
        column_labels: one per column, written by `format_scales`.
        title: heading; it is broken into as many lines as the width asks for.

    Raises:
        ValueError: if labels and images differ in number.
    """
    rows, columns, _, height, width = images.shape
    if (len(row_labels), len(column_labels)) != (rows, columns):
        raise ValueError(
            f"Expected {rows} row and {columns} column labels, but got {len(row_labels)} and {len(column_labels)}."
        )
    factor = max(1, -(-_MIN_CELL // min(height, width)))
    cell_height, cell_width = height * factor, width * factor
    font = ImageFont.load_default(_FONT_SIZE)
    left = math.ceil(max(font.getlength(str(label)) for label in row_labels)) + 3 * _GAP
    total_width = left + columns * (cell_width + _GAP)
    lines = _wrap(title, font, total_width - 2 * _GAP)
    top = _GAP + _LINE * (len(lines) + 1)
    canvas = Image.new("RGB", (total_width, top + rows * (cell_height + _GAP)), "white")
    draw = ImageDraw.Draw(canvas)
    for index, line in enumerate(lines):
        draw.text((_GAP, _GAP + index * _LINE), line, fill="black", font=font)
    for column, label in enumerate(column_labels):
        centre = left + column * (cell_width + _GAP) + cell_width / 2
        draw.text((centre, top - _LINE / 2), format_scales(label), fill="black", font=font, anchor="mm")
    for row, label in enumerate(row_labels):
        y = top + row * (cell_height + _GAP)
        draw.text((left - 2 * _GAP, y + cell_height / 2), str(label), fill="black", font=font, anchor="rm")
        for column, image in enumerate(images_to_pil(images[row])):
            cell = image.resize((cell_width, cell_height), Image.Resampling.NEAREST)
            canvas.paste(cell, (left + column * (cell_width + _GAP), y))
    return canvas


def format_scales(label: object) -> str:
    """Scales as a label: a number with its sign, several joined by commas, anything else as it is.

    Example:
        >>> format_scales(-1.0), format_scales([2, 0.5]), format_scales("original")
        ('-1', '+2, +0.5', 'original')
    """
    if isinstance(label, int | float):
        return f"{label:+g}" if label else "0"
    if isinstance(label, Sequence) and not isinstance(label, str):
        return ", ".join(format_scales(part) for part in label)
    return str(label)


def save_image(image: Image.Image, path: str | Path) -> Path:
    """Write an image whole or not at all; the format follows the name's ending.

    Raises:
        InputError: if the file cannot be written.
    """
    with atomic_path(path) as temporary:
        image.save(temporary)
    return Path(path)


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
