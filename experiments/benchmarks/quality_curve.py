"""Quality over cost: what sliders reached and took, and what equal quality costs either side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from rich.table import Table

from experiments.benchmarks.measuring import OurCost, ReleasedCost

VARIANTS = {
    "released": "released",
    "batched": "released, our batch size, optimizer and alpha",
    "ours": "ours, cached",
}
SHIFT, UPWARD = "shift", "upward"


@dataclass(frozen=True)
class Reached:
    """One measured slider, and what it took but for seconds.

    Args:
        variant: key of `VARIANTS`.
        budget: how long it trained, as tables print it; the same for all seeds.
        seed: of the training.
        steps: optimizer steps.
        samples: training samples, predictions that a gradient flowed through.
        cache_sample_forwards: of its teacher cache; 0 for the released algorithm.
        sample_forwards: all of its training, the cache included.
        figures: `SHIFT` of the target in standard deviations, and what else was measured.
    """

    variant: str
    budget: str
    seed: int
    steps: int
    samples: int
    cache_sample_forwards: int
    sample_forwards: int
    figures: dict[str, float]


@dataclass(frozen=True)
class Rates:
    """What everything takes on this machine, by which steps become seconds.

    Args:
        released: of the released algorithm.
        batched: of it with our batch size and learning rate.
        ours: of our default run with its cache.
    """

    released: ReleasedCost
    batched: ReleasedCost
    ours: OurCost

    def seconds(self, slider: Reached) -> float:
        """Seconds of a slider's training on an idle machine."""
        if slider.variant == "ours":
            cache = self.ours.cache.seconds / self.ours.cache.sample_forwards * slider.cache_sample_forwards
            row = self.ours.train.seconds / self.ours.train.sample_forwards
            return cache + slider.samples * row + self.ours.checks.seconds
        side = self.released if slider.variant == "released" else self.batched
        return slider.steps * side.seconds_per_step

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        sides = {"released": self.released, "batched": self.batched}
        return {
            **{name: {**asdict(cost), "seconds_per_step": cost.seconds_per_step} for name, cost in sides.items()},
            "ours": {**asdict(self.ours), "seconds_per_step": self.ours.seconds_per_step},
        }


@dataclass(frozen=True)
class CurvePoint:
    """One budget of a variant, the mean over its sliders.

    Args:
        variant: key of `VARIANTS`.
        budget: how long they trained.
        sliders: how many.
        samples: training samples.
        seconds: of one training.
        sample_forwards: of one training.
        figures: means of what was measured.
        spread: the lowest and the highest of each over the sliders.
    """

    variant: str
    budget: str
    sliders: int
    samples: float
    seconds: float
    sample_forwards: float
    figures: dict[str, float]
    spread: dict[str, tuple[float, float]]


def curve(sliders: Iterable[Reached], rates: Rates) -> list[CurvePoint]:
    """The budgets of all variants, from the cheapest to the dearest."""
    groups: dict[tuple[str, str], list[Reached]] = {}
    for slider in sliders:
        groups.setdefault((slider.variant, slider.budget), []).append(slider)
    points = [
        CurvePoint(
            variant=variant,
            budget=budget,
            sliders=len(group),
            samples=fmean(slider.samples for slider in group),
            seconds=fmean(rates.seconds(slider) for slider in group),
            sample_forwards=fmean(slider.sample_forwards for slider in group),
            figures={key: fmean(slider.figures[key] for slider in group) for key in group[0].figures},
            spread={key: extremes([slider.figures[key] for slider in group]) for key in group[0].figures},
        )
        for (variant, budget), group in groups.items()
    ]
    return sorted(points, key=lambda point: (list(VARIANTS).index(point.variant), point.sample_forwards))


def extremes(values: Sequence[float]) -> tuple[float, float]:
    """The lowest and the highest value."""
    return min(values), max(values)


def equal_quality(sliders: Sequence[Reached], rates: Rates, variant: str, figure: str = SHIFT) -> dict[str, Any]:
    """What the released algorithm reaches at its end, and the fastest budget of a variant that reaches as much.

    Args:
        sliders: of all variants and seeds.
        rates: by which steps become seconds.
        variant: key of `VARIANTS`.
        figure: in which as much is reached, at an interference that is no higher: `SHIFT` over the whole range of
            scales, or `UPWARD`, on the side that the released algorithm trains.

    Returns:
        "released" and "reached", each with budget, figures and cost, and the ratios of "seconds" and
        "sample_forwards"; "reached" and the ratios are None where no budget reaches it.
    """
    points = curve(sliders, rates)
    released = [point for point in points if point.variant == "released"][-1]
    end = released.figures
    enough = [
        point
        for point in points
        if point.variant == variant
        and point.figures[figure] >= end[figure]
        and point.figures["interference"] <= end["interference"]
    ]
    reached = min(enough, key=lambda point: point.seconds) if enough else None
    return {
        "variant": variant,
        "figure": figure,
        "released": asdict(released),
        "reached": asdict(reached) if reached else None,
        "seconds_ratio": released.seconds / reached.seconds if reached else None,
        "sample_forwards_ratio": released.sample_forwards / reached.sample_forwards if reached else None,
    }


def comparisons(sliders: Sequence[Reached], rates: Rates) -> list[dict[str, Any]]:
    """`equal_quality` of both other variants over the means of all seeds, then of ours seed by seed.

    Of ours also on the side that the released algorithm trains.
    """
    wanted = (("ours", SHIFT), ("ours", UPWARD), ("batched", SHIFT))
    rows = [{"seed": None, **equal_quality(sliders, rates, *each)} for each in wanted]
    for seed in sorted({slider.seed for slider in sliders}):
        own = [slider for slider in sliders if slider.seed == seed]
        rows.append({"seed": seed, **equal_quality(own, rates, "ours")})
    return rows


def curve_table(points: Sequence[CurvePoint]) -> Table:
    """Every budget with what it reached."""
    drawn = Table(
        title="Quality over cost, means over seeds",
        caption="Shift: of the target attribute from the lowest to the highest scale, in standard deviations. Seconds: "
        "steps times seconds per step, timed variant after variant in this process; ours with cache and checks. "
        "Without start-up, loading and prompts on either side, and without the strip of ours. Upward: the shift from 0 "
        "to the highest scale alone; the released algorithm trains no other side. In brackets: lowest, highest seed.",
    )
    drawn.add_column("variant")
    drawn.add_column("budget")
    names = list(points[0].figures)
    for column in ("seeds", "samples", "sample-forwards", "seconds", *names):
        drawn.add_column(column, justify="right")
    for point in points:
        cost = (f"{point.sliders}", f"{point.samples:,.0f}", f"{point.sample_forwards:,.0f}", f"{point.seconds:,.1f}")
        figures = (f"{point.figures[name]:.3f} [{low:.3f}, {high:.3f}]" for name, (low, high) in point.spread.items())
        drawn.add_row(VARIANTS[point.variant], point.budget, *cost, *figures)
    return drawn


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What the quality of the whole released training costs the others."""
    drawn = Table(
        title="At the quality that the released algorithm reaches at its end",
        caption="The fastest of the budgets above that moves the target at least as far at no more interference.",
    )
    drawn.add_column("seeds")
    drawn.add_column("variant")
    for column in (
        "to reach",
        "reached by",
        "reached",
        "interference",
        "released",
        "times less time",
        "times fewer",
    ):
        drawn.add_column(column, justify="right")
    for row in rows:
        seeds = "mean" if row["seed"] is None else str(row["seed"])
        released, reached = row["released"]["figures"], row["reached"]
        figure = row["figure"]
        start = (seeds, VARIANTS[row["variant"]], f"{figure} {released[figure]:.2f}")
        if reached is None:
            drawn.add_row(*start, "not reached", "", "", f"{released['interference']:.3f}", "", "")
            continue
        figures = reached["figures"]
        drawn.add_row(
            *start,
            reached["budget"],
            f"{figures[figure]:.2f}",
            f"{figures['interference']:.3f}",
            f"{released['interference']:.3f}",
            f"{row['seconds_ratio']:.1f}",
            f"{row['sample_forwards_ratio']:.1f}",
        )
    return drawn
