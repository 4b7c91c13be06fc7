"""The share of badly made images against the scale of a repair slider."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from evaluation.measurements import Measurements
from evaluation.report.style import COLORS, MARKERS, TEXT_WIDTH, new_figure, styled
from evaluation.statistics import bootstrap_mean
from experiments.paper.repair_tables import faulty


@styled
def share_figure(sliders: Mapping[str, Measurements], faults: Mapping[str, str]) -> Figure:
    """One panel per slider, one line per prompt noun, with 95 % intervals.

    Args:
        sliders: concept to the measurements of its slider's images, at least one.
        faults: concept to the class that counts as badly made, as "quality=poorly drawn".
    """
    figure = new_figure(TEXT_WIDTH, 2.8)
    for panel, (name, measurements) in zip(
        figure.subplots(1, len(sliders), squeeze=False)[0], sliders.items(), strict=True
    ):
        scales = np.array(measurements.header.scales)
        for number, noun in enumerate(measurements.nouns):
            bad = faulty(measurements.only(noun), faults[name]).double()
            shares = [bootstrap_mean(bad[:, column]) for column in range(len(scales))]
            ends = np.array([[share.mean - share.ci95[0], share.ci95[1] - share.mean] for share in shares])
            look = {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)]}
            panel.errorbar(scales, [s.mean for s in shares], yerr=ends.clip(0).T, capsize=3, label=noun, **look)
        panel.set_title(name)
        panel.set_xticks(scales)
        panel.set_xlabel("slider scale")
        panel.set_ylabel(f"share of {faults[name].partition('=')[2]} images")
        panel.set_ylim(-0.03, 1.03)
        panel.legend(title="prompt noun")
    return figure
