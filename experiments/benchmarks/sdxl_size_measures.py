"""Seconds, rates and memory of caching, training and the released training step on one backbone of random weights."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from experiments.benchmarks.measuring import peak_memory, reset_peak_memory
from experiments.benchmarks.released_step import ReleasedConfig, ReleasedTraining
from experiments.benchmarks.sdxl_size_model import UNetSize, random_backbone
from experiments.benchmarks.sdxl_size_operations import Operations
from experiments.benchmarks.sdxl_size_step import SliderStep
from slider_lightning.adapters import AdapterConfig
from slider_lightning.backbone import Backbone, SpeedConfig
from slider_lightning.backbone.load import DTYPES
from slider_lightning.concepts import Concept
from slider_lightning.data import RolloutConfig, TeacherBatch, TeacherStates, measured_cost
from slider_lightning.data.states import rollout_noise, rollout_states
from slider_lightning.errors import InputError
from slider_lightning.training.checks import CHECKED_BATCHES

ROLLOUTS, ROLLOUT_STEPS = 16, 25
# Trained states of a slider; each is trained at both poles.
STATES = 1000
RELEASED_STEPS = 1000
_GIB = 2**30
_MATMUL_SECONDS = 1.0


@dataclass(frozen=True)
class Case:
    """One image side and how it is trained at.

    Args:
        resolution: image side in pixels.
        states: of a training step; both poles make twice as many rows.
        frozen_rows: of a forward without gradients, even and at least 2.
        steps: training steps timed.
        warmup_steps: training steps before them, at least 1: kernels are chosen and memory is reserved in the first.
        released_steps: steps of the released algorithm timed.
        speed: how the networks run.

    Raises:
        InputError: if a count is out of range.
    """

    resolution: int
    states: int
    frozen_rows: int
    steps: int = 10
    warmup_steps: int = 2
    released_steps: int = 10
    speed: SpeedConfig = field(default_factory=SpeedConfig)

    def __post_init__(self) -> None:
        for name in ("resolution", "states", "steps", "warmup_steps", "released_steps"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"Expected size.cases {name} to be 1 or more, but got {value}; raise it.")
        if self.frozen_rows < 2 or self.frozen_rows % 2:
            raise InputError(f"Expected size.cases frozen_rows to be even, but got {self.frozen_rows}; choose 2.")


@dataclass(frozen=True)
class SizeConfig:
    """A size of SDXL and where it is measured.

    Args:
        name: of the report.
        device: "cuda" or "cpu".
        dtype: of the UNet.
        matrix: side of the square matrices whose product gives the chip's rate.
        unet: widths and depths.
        cases: what is measured.

    Raises:
        InputError: if the dtype is unknown.
    """

    name: str
    device: str
    dtype: str
    matrix: int
    unet: UNetSize
    cases: tuple[Case, ...]

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(f"Expected size.dtype to be one of {', '.join(DTYPES)}, but got {self.dtype!r}.")

    @property
    def present(self) -> bool:
        """Whether this machine has the device."""
        return self.device != "cuda" or torch.cuda.is_available()


@dataclass
class Timing:
    """What a part took: seconds, rows that passed the UNet, operations, and the peak of memory during it."""

    seconds: float = 0.0
    sample_forwards: int = 0
    operations: float = 0.0
    peak_gib: float = 0.0

    def figures(self, matmul_rate: float) -> dict[str, float]:
        """The timing with its rates; `matmul_rate` in operations per second."""
        rate = self.operations / self.seconds
        return {
            **asdict(self),
            "sample_forwards_per_second": self.sample_forwards / self.seconds,
            "tflops": rate / 1e12,
            "share_of_matmul": rate / matmul_rate,
        }


@contextmanager
def timed(backbone: Backbone) -> Iterator[Timing]:
    """Gives a `Timing` that is filled in when the device has finished what was asked for inside."""
    timing, device = Timing(), backbone.device
    reset_peak_memory()
    _wait(device)
    with measured_cost(backbone) as cost:
        yield timing
        _wait(device)
    timing.seconds, timing.sample_forwards = cost.seconds, cost.sample_forwards
    timing.peak_gib = peak_memory() / _GIB


def matmul_rate(side: int, dtype: torch.dtype, device: str) -> float:
    """Operations per second of a product of square matrices, over about a second."""
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    torch.mm(left, right)
    _wait(torch.device(device))
    started, products, seconds = time.perf_counter(), 0, 0.0
    while seconds < _MATMUL_SECONDS:
        for _ in range(4):
            torch.mm(left, right)
        products += 4
        _wait(torch.device(device))
        seconds = time.perf_counter() - started
    return products * 2 * side**3 / seconds


def measure_case(
    config: SizeConfig, case: Case, operations: Operations, concept: Concept, adapter: AdapterConfig, *, whole: bool
) -> dict[str, Any]:
    """All figures of a case, as JSON values; with `whole` a whole slider is cached and trained too."""
    backbone = random_backbone(
        config.unet, resolution=case.resolution, dtype=DTYPES[config.dtype], device=config.device, speed=case.speed
    )
    rate = matmul_rate(config.matrix, DTYPES[config.dtype], config.device)
    step = SliderStep(backbone, concept, adapter)
    with step.bank:
        cache, states = measure_cache(step, case, operations)
        training, waits = measure_training(step, case, operations, states)
        found = run_whole(step, case) if whole else None
    released = measure_released(backbone, case, operations, concept, adapter)
    data = {
        "case": asdict(case),
        "parameters": sum(parameter.numel() for parameter in backbone.unet.parameters()),
        "matmul_tflops": rate / 1e12,
        "operations_per_row": asdict(operations),
        "cache": cache.figures(rate),
        "step": training.figures(rate),
        "host_waits_per_step": waits,
        "released_step": released.figures(rate),
        "whole": found,
    }
    return data | {"projection": projection(case, len(step.embeds.positive), cache, training, released)}


def measure_cache(step: SliderStep, case: Case, operations: Operations) -> tuple[Timing, TeacherStates]:
    """Two steps of rollouts with their scores, in forwards of `frozen_rows`; also gives the states, for training."""
    config = RolloutConfig(num_inference_steps=2, rows_per_forward=case.frozen_rows)
    noise = rollout_noise(step.backbone, 0, range(case.frozen_rows // 2))
    rollout_states(step.backbone, step.embeds, noise, config)  # kernels are chosen and memory is reserved
    with timed(step.backbone) as timing:
        states = rollout_states(step.backbone, step.embeds, noise, config)
    timing.operations = timing.sample_forwards * operations.forward
    return timing, states


def measure_training(
    step: SliderStep, case: Case, operations: Operations, states: TeacherStates
) -> tuple[Timing, float | None]:
    """`case.steps` steps, and how often each waited for the device (None on a CPU)."""
    batch = step.batch(states, [number % len(states) for number in range(case.states)])
    for _ in range(case.warmup_steps):
        step.run(batch)
    with timed(step.backbone) as timing:
        for _ in range(case.steps):
            step.run(batch)
    timing.operations = timing.sample_forwards * operations.of_step(case.speed)
    waits = None
    if step.backbone.device.type == "cuda":
        waits = counted_waits(lambda: [step.run(batch) for _ in range(case.steps)]) / case.steps
    return timing, waits


def counted_waits(run: Callable[[], Any]) -> int:
    """How often a call waited for the GPU, as far as torch can tell."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(warning.message) for warning in caught)


def measure_released(
    backbone: Backbone, case: Case, operations: Operations, concept: Concept, adapter: AdapterConfig
) -> Timing:
    """`case.released_steps` steps of the released algorithm with its released settings, on the same backbone."""
    training = ReleasedTraining(backbone, concept, ReleasedConfig(adapter=adapter))
    trained_rows = 2
    with training.bank:
        training.step()
        with timed(backbone) as timing:
            for _ in range(case.released_steps):
                training.step()
    frozen = timing.sample_forwards - trained_rows * case.released_steps
    trained = trained_rows * case.released_steps * operations.of_step(case.speed)
    timing.operations = frozen * operations.forward + trained
    return timing


def projection(case: Case, preserved: int, cache: Timing, step: Timing, released: Timing) -> dict[str, float]:
    """Seconds of a whole slider, ours and released, from measured parts.

    A released step's rollout has a random length: its seconds are taken per sample-forward, times the expected 58.
    """
    cached_forwards = ROLLOUTS * ROLLOUT_STEPS * (2 + 2 * preserved) - ROLLOUTS
    checks_forwards = CHECKED_BATCHES * 2 * (2 * case.states)
    frozen_seconds = cache.seconds / cache.sample_forwards
    cache_seconds, checks_seconds = frozen_seconds * cached_forwards, frozen_seconds * checks_forwards
    step_seconds = step.seconds / case.steps
    train_seconds = step_seconds * STATES / case.states
    released_step = released.seconds / released.sample_forwards * ReleasedConfig().mean_sample_forwards
    seconds = cache_seconds + train_seconds + checks_seconds
    forwards = cached_forwards + 2 * STATES + checks_forwards
    return {
        "cache_sample_forwards": cached_forwards,
        "cache_seconds": cache_seconds,
        "step_seconds": step_seconds,
        "train_seconds": train_seconds,
        "checks_seconds": checks_seconds,
        "seconds": seconds,
        "sample_forwards": forwards,
        "sample_forwards_per_sample": forwards / (2 * STATES),
        "released_step_seconds": released_step,
        "released_seconds": released_step * RELEASED_STEPS,
        "released_sample_forwards_per_sample": ReleasedConfig().mean_sample_forwards,
        "ratio": released_step * RELEASED_STEPS / seconds,
    }


def run_whole(
    step: SliderStep, case: Case, rollouts: int = ROLLOUTS, rollout_steps: int = ROLLOUT_STEPS, trained: int = STATES
) -> dict[str, float]:
    """Really scores the states of a whole slider, trains it and compares it with the frozen model at the end.

    The states stay on the device: writing them to disk and reading them back is not in it.

    Returns:
        Seconds of each part and of all, sample-forwards of all, and the peak of memory in GiB.
    """
    config = RolloutConfig(num_inference_steps=rollout_steps, rows_per_forward=case.frozen_rows)
    with timed(step.backbone) as cache:
        noise = rollout_noise(step.backbone, 1, range(rollouts))
        states = rollout_states(step.backbone, step.embeds, noise, config)

    def batch(first: int) -> TeacherBatch:
        return step.batch(states, [(first + row) % len(states) for row in range(case.states)])

    with timed(step.backbone) as training:
        for first in range(0, trained, case.states):
            step.run(batch(first))
    with timed(step.backbone) as checks, torch.no_grad():
        for number in range(CHECKED_BATCHES):
            for slider_on in (True, False):
                step.module.losses((batch(number * case.states),), slider_on=slider_on)
    parts = (cache, training, checks)
    return {
        "cache_seconds": cache.seconds,
        "train_seconds": training.seconds,
        "checks_seconds": checks.seconds,
        "seconds": sum(part.seconds for part in parts),
        "sample_forwards": sum(part.sample_forwards for part in parts),
        "peak_gib": max(part.peak_gib for part in parts),
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
