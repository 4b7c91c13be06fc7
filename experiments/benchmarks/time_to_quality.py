"""What a good slider costs, released against ours: `python -m experiments.benchmarks.time_to_quality`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evaluation.grids import SliderMethod
from evaluation.measures import slider_measures
from evaluation.report import save_figure
from evaluation.setup import Setup, build_setup
from experiments.benchmarks.measuring import OurCost, timed_ours, timed_released, training_config
from experiments.benchmarks.quality_curve import (
    SHIFT,
    UPWARD,
    Rates,
    Reached,
    comparison_table,
    comparisons,
    curve,
    curve_table,
)
from experiments.benchmarks.quality_figure import quality_figure
from experiments.benchmarks.released import ensure_released
from experiments.benchmarks.released_step import ReleasedConfig
from experiments.benchmarks.reporting import write_report
from slider_lightning.adapters import AdapterConfig
from slider_lightning.backbone import Backbone
from slider_lightning.concepts import Concept
from slider_lightning.config import build, typed
from slider_lightning.entry import entry_point
from slider_lightning.errors import InputError
from slider_lightning.train import ensure_trained
from slider_lightning.training import OptimizerConfig, RunFolder

# What the name of a budget tells anyway.
BUDGET_KEYS = ("trainer.max_steps=", "data.source.num_rollouts=")


def time_to_quality(config: dict[str, Any]) -> Path:
    """Trains and measures what is not there yet, times all variants, prints the tables and returns the JSON file.

    Args:
        config: the plain, checked config of conf/benchmark/time_to_quality.yaml.

    Raises:
        InputError: for a config, model, judge or disk that this cannot work with.
    """
    outputs = Path(config["paths"]["outputs"])
    stage = Stage(config)
    ours = list(stage.ours())
    settings: ReleasedConfig = build(config["released"], "released.")
    batched = stage.batched(settings, rows=ours[-1].samples // ours[-1].steps)
    sliders = [*stage.released("released", settings), *stage.released("batched", batched), *ours]
    rates = stage.rates(settings, batched)
    points, compared = curve(sliders, rates), comparisons(sliders, rates)
    data = {
        "at_equal_quality": compared,
        "curve": [asdict(point) for point in points],
        "sliders": [{**asdict(slider), "seconds": rates.seconds(slider)} for slider in sliders],
        "rates": rates.record(),
        "settings": {
            key: config[key]
            for key in ("released", "our_experiment", "training", "ours", "evaluation", "seeds", "batched_seeds")
        },
    }
    save_figure(outputs / "benchmarks", "time_to_quality", quality_figure(sliders, rates))
    return write_report("time_to_quality", outputs, data, [curve_table(points), comparison_table(compared)])


class Stage:
    """The trainings, measurements and timings of all variants, each found again where it was made before.

    Args:
        config: the plain, checked config of conf/benchmark/time_to_quality.yaml.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.folder = Path(config["paths"]["outputs"]) / "benchmarks" / "time_to_quality"
        self.seeds = typed(config["seeds"], tuple[int, ...], "seeds")
        self.batched_seeds = typed(config["batched_seeds"], tuple[int, ...], "batched_seeds")
        self.backbone: Backbone = build(config["model"], "model.")
        self.concept: Concept = build(config["concept"], "concept.")
        self.default = training_config(config)
        sections = {key: self.default[key] for key in ("concept", "model", "sampler", "judges")}
        evaluation = {**self.default["evaluation"], "scales": config["evaluation"]["scales"]}
        prompts = {**evaluation["prompts"], "seeds_per_prompt": config["evaluation"]["seeds_per_prompt"]}
        if not evaluation["target"] or not evaluation["protected"]:
            raise InputError(
                f"Expected our_experiment={config['our_experiment']} to name evaluation.target and "
                "evaluation.protected, but one is empty; choose another."
            )
        self.setup: Setup = build_setup({**sections, "evaluation": {**evaluation, "prompts": prompts}})

    def batched(self, released: ReleasedConfig, rows: int) -> ReleasedConfig:
        """The released algorithm with our optimizer, alpha and rows of a step, for the samples of our default run."""
        adapter: AdapterConfig = build(self.default["adapter"], "adapter.")
        optimizer: OptimizerConfig = build(self.default["optimizer"], "optimizer.")
        trainer = self.default["trainer"]
        return replace(
            released,
            adapter=adapter,
            optimizer=optimizer,
            max_steps=trainer["max_steps"],
            batch_size=rows,
            gradient_clip_val=trainer["gradient_clip_val"],
        )

    def released(self, variant: str, settings: ReleasedConfig) -> Iterator[Reached]:
        """The checkpoints of the released algorithm with the settings of a variant, all its seeds."""
        steps = checkpoint_steps(self.config[f"{variant}_checkpoints"], settings.max_steps)
        outputs = Path(self.config["paths"]["outputs"])
        for seed in self.batched_seeds if variant == "batched" else self.seeds:
            run = ensure_released(self.backbone, self.concept, replace(settings, seed=seed), outputs, steps)
            forwards = {row["step"]: row["sample_forwards"] for row in run.read_log()}
            for step in steps:
                samples, figures = step * settings.batch_size, self.figures(run.slider(step))
                yield Reached(variant, f"{step} steps", seed, step, samples, 0, forwards[step], figures)

    def ours(self) -> Iterator[Reached]:
        """Our runs at every budget, all seeds, each with a cache of its own: its summary then holds its whole cost."""
        budgets = typed(self.config["ours"], tuple[tuple[str, ...], ...], "ours")
        if not budgets:
            raise InputError("Expected budgets of our training in ours, but got none; give at least [[]].")
        for overrides in budgets:
            for seed in self.seeds:
                seeded = (text.format(seed) for text in typed(self.config["seeded"], tuple[str, ...], "seeded"))
                config = training_config(self.config, *overrides, *seeded)
                run = self.trained(config, self.folder / Path(config["run"]).name)
                cost = OurCost.of(run.read_summary(), config)
                others = [each for each in overrides if not each.startswith(BUDGET_KEYS)]
                rollouts = config["data"]["source"]["num_rollouts"]
                budget = ", ".join([f"{cost.steps} steps, {rollouts} rollouts", *others])
                samples = cost.steps * cost.samples_per_step
                total, cache = cost.sample_forwards(cost.steps), round(cost.cache.sample_forwards)
                yield Reached("ours", budget, seed, cost.steps, samples, cache, total, self.figures(run.slider))

    def trained(self, config: dict[str, Any], folder: Path) -> RunFolder:
        """The finished run of a config; one that was killed starts again, so that its cost is counted whole."""
        run = RunFolder(folder / "run")
        if not run.manifest.is_file():
            shutil.rmtree(folder, ignore_errors=True)
        return ensure_trained(
            {**config, "run": str(run.path), "paths": {**config["paths"], "cache": str(folder / "cache")}}
        )

    def figures(self, slider: Path) -> dict[str, float]:
        """Shift of the target over the whole range, interferences and selectivity of a slider."""
        settings = self.setup.settings
        measurements = self.setup.measure(SliderMethod("concept_slider", (str(slider),)))
        measures = slider_measures(measurements, settings.target, settings.protected)
        highest = f"{settings.scales[-1]:+g}"
        names = {SHIFT: f"eval/attribute_range/{settings.target}"}
        names |= {UPWARD: f"eval/attribute_shift/{settings.target}/{highest}", "interference": "eval/interference"}
        names |= {f"interference/{name}": f"eval/interference/{name}" for name in settings.protected}
        names |= {"selectivity": "eval/selectivity"}
        return {name: measures[key].mean for name, key in names.items()}

    def rates(self, released: ReleasedConfig, batched: ReleasedConfig) -> Rates:
        """Times all variants one after another in this process, the cache of ours built in an empty folder."""
        timed = self.config["timed_steps"]
        first, second = (
            timed_released(self.backbone, self.concept, settings, typed(timed[variant], int, f"timed_steps.{variant}"))
            for variant, settings in (("released", released), ("batched", batched))
        )
        with tempfile.TemporaryDirectory() as folder:
            return Rates(first, second, timed_ours(self.default, Path(folder)))


def checkpoint_steps(shares: Sequence[float], max_steps: int) -> tuple[int, ...]:
    """Optimizer steps at shares of a training, each at least 1."""
    return tuple(
        sorted({max(1, round(share * max_steps)) for share in typed(shares, tuple[float, ...], "checkpoints")})
    )


@entry_point("benchmark/time_to_quality")
def main(config: dict[str, Any]) -> None:
    """Measure from the command line."""
    time_to_quality(config)


if __name__ == "__main__":
    main()
