"""Figures: what they draw is what was measured, and drawing twice gives the same bytes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from evaluation.grids import GridRow, GridSpec, PromptSet, base_grid, make_grid
from evaluation.report import save_figure
from evaluation.report.figures import (
    dose_response_figure,
    flip_matrix,
    noun_interference_figure,
    scale_points,
    shift_matrix,
    start_points,
    trade_off_figure,
)
from evaluation.report.strips import method_strip, slider_strip
from slider_lightning.backbone import Backbone, SamplerConfig
from slider_lightning.errors import InputError
from tests.report_measurements import linear_slider

SLIDERS = {"age": linear_slider(age=0.5, flip_from=2.0), "strong": linear_slider(age=1.0)}
SAMPLER = SamplerConfig(num_inference_steps=1, guidance_scale=1.0)


def lines_of(figure: Figure, panel: int) -> dict[str, np.ndarray]:
    return {str(line.get_label()): np.asarray(line.get_ydata()) for line in figure.axes[panel].lines}


def test_dose_response_draws_the_mean_shift_of_the_target() -> None:
    figure = dose_response_figure(SLIDERS, {"age": "age", "strong": "age"})
    assert [axes.get_title() for axes in figure.axes] == ["age", "strong"]
    np.testing.assert_allclose(lines_of(figure, 0)["target"], [-1.0, -0.5, 0.0, 0.5, 1.0], atol=1e-12)
    np.testing.assert_allclose(lines_of(figure, 1)["target"], [-2.0, -1.0, 0.0, 1.0, 2.0], atol=1e-12)
    assert len(lines_of(figure, 1)) >= 3, "the other attributes and the lines through 0 are there too"


def test_the_attribute_that_drifts_most_is_named() -> None:
    figure = dose_response_figure(SLIDERS, {"age": "gender", "strong": "age"})
    assert [text.get_text() for text in figure.axes[0].texts] == ["largest drift: age\n+1.00 at +2"]
    assert "\n0.00 at" in figure.axes[1].texts[0].get_text(), "nothing else moves"


def test_trade_off_places_distance_and_clip_shift() -> None:
    points = scale_points(SLIDERS["age"])
    assert [(p.label, p.distance.mean, p.effect.mean) for p in points] == [("+1", 0.0625, 1.0), ("+2", 0.125, 2.0)]
    starts = start_points({500: SLIDERS["age"], 750: SLIDERS["strong"]}, 2.0)
    assert [p.label for p in starts] == ["500", "750"]
    figure = trade_off_figure({"Slider": points}, "test distance", {"Slider": starts})
    drawn = {str(line.get_label()): line for line in figure.axes[0].lines}
    np.testing.assert_allclose(drawn["Slider"].get_xydata(), [[0.0625, 1.0], [0.125, 2.0]])
    assert drawn["Slider"].get_color() == drawn["Slider, by start_timestep"].get_color()
    assert "test distance" in figure.axes[0].get_xlabel()


def test_matrices_write_their_figures() -> None:
    figure = shift_matrix(SLIDERS)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["+2.00", "0.00", "0.00", "+4.00", "0.00", "0.00"]
    flips = flip_matrix(SLIDERS, {"age": "age", "strong": "gender"})
    assert [text.get_text() for text in flips.axes[0].texts] == ["0.25", "0.00", "target", "0.00"]


def test_bars_show_interference_per_noun() -> None:
    figure = noun_interference_figure(SLIDERS, 2.0, ["gender"])
    heights = [[bar.get_height() for bar in bars if hasattr(bar, "get_height")] for bars in figure.axes[0].containers]
    bars = [row for row in heights if row]
    assert bars == [[0.5, 0.5], [0.0, 0.0]]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["“a man”", "“a woman”"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: shift_matrix({"age": SLIDERS["age"]}),
        lambda: trade_off_figure({"Slider": scale_points(SLIDERS["age"])}, "test distance"),
    ],
)
def test_drawing_twice_gives_the_same_bytes(draw: Callable[[], Figure], tmp_path: Path) -> None:
    first = [path.read_bytes() for path in save_figure(tmp_path / "a", "figure", draw())]
    with mpl.rc_context({"font.size": 20, "savefig.dpi": 30}):
        files = save_figure(tmp_path / "b", "figure", draw())
    assert [path.name for path in files] == ["figure.png", "figure.pdf"]
    assert [path.read_bytes() for path in files] == first


@pytest.mark.parametrize(
    "draw",
    [
        lambda: dose_response_figure({}, {}),
        lambda: trade_off_figure({}, "d"),
        lambda: shift_matrix({}),
        lambda: flip_matrix({}, {}),
        lambda: noun_interference_figure({}, 2.0, ["gender"]),
    ],
)
def test_nothing_to_draw_is_refused(draw: Callable[[], Figure]) -> None:
    with pytest.raises(InputError, match="at least one method first"):
        draw()


class Shade:
    """A method whose images are grey: darker for a lower scale."""

    name = "shade"

    def depends_on(self) -> dict[str, Any]:
        return {}

    def generate(
        self,
        backbone: Backbone,
        rows: Sequence[GridRow],
        scales: Sequence[float],
        sampler: SamplerConfig,
        *,
        batch_size: int,
    ) -> Float[Tensor, "rows scales 3 height width"]:
        grey = 0.5 + torch.tensor(scales) / 10
        side = backbone.resolution
        return grey[None, :, None, None, None].expand(len(rows), -1, 3, side, side)


def grids(root: Path, backbone: Backbone, seeds: int = 2) -> tuple[Any, Any]:
    spec = GridSpec(PromptSet("faces", ("a man",), ("image of {}",)), seeds_per_prompt=seeds)
    base = base_grid(root, backbone, spec, SAMPLER, batch_size=2)
    return base, make_grid(root, backbone, Shade(), spec, (-2.0, 2.0), SAMPLER, batch_size=2)


def test_strips_show_the_images_of_grids(tmp_path: Path, backbone: Backbone) -> None:
    base, shade = grids(tmp_path, backbone)
    strip = slider_strip(shade, base, [1], "shades")
    cell = 2 * backbone.resolution
    right = strip.getpixel((strip.width - cell // 2, strip.height - cell // 2))
    left = strip.getpixel((strip.width - cell // 2 - 2 * (cell + 4), strip.height - cell // 2))
    assert (left, right) == ((round(0.3 * 255),) * 3, (round(0.7 * 255),) * 3)
    both = method_strip({"one": shade, "two": shade}, base, 0, [2.0], "methods")
    assert both.height > strip.height
    assert both.getpixel((both.width - cell // 2, both.height - cell // 2)) == right


def test_strips_refuse_other_rows(tmp_path: Path, backbone: Backbone) -> None:
    base, shade = grids(tmp_path, backbone)
    _, more = grids(tmp_path, backbone, seeds=3)
    with pytest.raises(InputError, match="same seeds"):
        slider_strip(more, base, [0], "shades")
    with pytest.raises(InputError, match=r"rows out of 0\.\.1"):
        slider_strip(shade, base, [2], "shades")
    with pytest.raises(InputError, match="got none"):
        method_strip({}, base, 0, [2.0], "methods")
