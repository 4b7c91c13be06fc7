"""Quality over seconds and over sample-forwards as a figure of two panels."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from evaluation.report.style import COLORS, GREY, MARKERS, TEXT_WIDTH, new_figure, styled
from experiments.benchmarks.quality_curve import SHIFT, VARIANTS, Rates, Reached, curve


@styled
def quality_figure(sliders: Sequence[Reached], rates: Rates) -> Figure:
    """Means over seeds as curves, single sliders as faint marks, the released algorithm's end as a dashed line.

    Args:
        sliders: of all variants and seeds.
        rates: by which steps become seconds.
    """
    points = curve(sliders, rates)
    figure = new_figure(TEXT_WIDTH, 0.45 * TEXT_WIDTH)
    panels = figure.subplots(1, 2, sharey=True)
    end = [point for point in points if point.variant == "released"][-1]
    for panel, axis, label in zip(
        panels, ("seconds", "sample_forwards"), ("seconds on this machine", "UNet sample-forwards"), strict=True
    ):
        for (variant, name), color, marker in zip(VARIANTS.items(), COLORS, MARKERS, strict=False):
            own = [slider for slider in sliders if slider.variant == variant]
            places = [rates.seconds(slider) if axis == "seconds" else slider.sample_forwards for slider in own]
            panel.plot(places, [s.figures[SHIFT] for s in own], marker, color=color, alpha=0.3, markeredgewidth=0)
            mean = [point for point in points if point.variant == variant]
            heights = [point.figures[SHIFT] for point in mean]
            panel.plot([getattr(point, axis) for point in mean], heights, f"{marker}-", color=color, label=name)
        panel.axhline(end.figures[SHIFT], color=GREY, linestyle="--", linewidth=0.8, zorder=0.6)
        panel.set_xscale("log")
        panel.set_xlabel(label)
    panels[0].set_ylabel("shift of the target, standard deviations")
    panels[0].legend(loc="upper left")
    return figure
