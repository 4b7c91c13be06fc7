"""What the benchmarks measure: seconds, UNet sample-forwards and peak memory of both sides' trainings."""

from __future__ import annotations

import multiprocessing
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import OmegaConf, open_dict

from experiments.benchmarks.released_step import ReleasedConfig, ReleasedTraining, draw_step
from slider_lightning.backbone import Backbone
from slider_lightning.concepts import Concept
from slider_lightning.config import build, check, plain_config
from slider_lightning.data import Cost, measured_cost
from slider_lightning.entry import quiet_libraries
from slider_lightning.errors import InputError
from slider_lightning.generation import ProgressCallback
from slider_lightning.train import train

# What a benchmark's command line decides for our trainings below it.
SHARED = ("model", "concept", "paths")
# Loading kernels and filling caches is no part of a step.
WARMUP_STEPS = 2
_STATUS = Path("/proc/self/status")
_CLEAR_PEAK = Path("/proc/self/clear_refs")


def training_config(config: dict[str, Any], *overrides: str) -> dict[str, Any]:
    """The plain, checked config of one of our trainings; model, concept and paths are the benchmark's.

    Args:
        config: the benchmark's plain config, with its `our_experiment` and `training`, values for all of its trainings.
        overrides: of this training.

    Raises:
        InputError: if the experiment trains another concept than the benchmark's.
    """
    composed = hydra.compose("train", [f"experiment={config['our_experiment']}", *config["training"], *overrides])
    if composed.concept.name != config["concept"]["name"]:
        raise InputError(
            f"Expected both sides to train one concept, but got concept={config['concept']['name']} and "
            f"our_experiment={config['our_experiment']}, which trains {composed.concept.name}; change one."
        )
    with open_dict(composed):
        for section in SHARED:
            composed[section] = OmegaConf.create(config[section])
    plain = plain_config(composed)
    check(plain)
    return plain


@dataclass(frozen=True)
class ReleasedCost:
    """What steps of the released algorithm took.

    Args:
        steps: how many were timed.
        seconds: of all of them.
        sample_forwards: of all of them.
        config: their settings.
    """

    steps: int
    seconds: float
    sample_forwards: int
    config: ReleasedConfig

    @property
    def seconds_per_step(self) -> float:
        """Of a step of mean length: the timed steps drew rollouts a little longer or shorter than the mean."""
        return self.seconds / self.sample_forwards * self.config.mean_sample_forwards


def timed_released(backbone: Backbone, concept: Concept, config: ReleasedConfig, steps: int) -> ReleasedCost:
    """Times steps of the released algorithm, warmed up, with a progress bar; the UNet carries no trace of it after."""
    training = ReleasedTraining(backbone, concept, config)
    with training.bank, ProgressCallback("released steps") as progress:
        for _ in range(WARMUP_STEPS):
            training.step()
        with measured_cost(backbone) as cost:
            for step in range(steps):
                training.step()
                progress(step + 1, steps)
    pairs = len(training.prompts.target)
    draws = [draw_step(step, pairs, config) for step in range(WARMUP_STEPS, WARMUP_STEPS + steps)]
    assert cost.sample_forwards == sum(config.batch_size * (2 * draw.rollout_steps + 8) for draw in draws)
    return ReleasedCost(steps, cost.seconds, round(cost.sample_forwards), config)


@dataclass(frozen=True)
class OurCost:
    """What one of our trainings took, its cache built in an empty folder.

    Args:
        cache: of the teacher cache.
        train: of all optimizer steps.
        checks: of the comparison with the frozen model at the end.
        steps: optimizer steps.
        states_per_step: states of a step; each may be trained at both poles.
    """

    cache: Cost
    train: Cost
    checks: Cost
    steps: int
    states_per_step: int

    @classmethod
    def of(cls, summary: dict[str, Any], config: dict[str, Any]) -> OurCost:
        """From the summary of a run and its config."""
        cache, train, checks = (
            Cost(summary[f"cost/seconds/{stage}"], round(summary[f"cost/sample_forwards/{stage}"]))
            for stage in ("cache", "train", "checks")
        )
        trainer = config["trainer"]
        states = config["data"]["batch_size"] * trainer["accumulate_grad_batches"]
        return cls(cache, train, checks, trainer["max_steps"], states)

    @property
    def samples_per_step(self) -> int:
        """Rows of a step; a gradient flows through each."""
        samples, rest = divmod(round(self.train.sample_forwards), self.steps)
        assert rest == 0
        return samples

    @property
    def seconds_per_step(self) -> float:
        """Mean over the run."""
        return self.train.seconds / self.steps

    def sample_forwards(self, steps: int, points: int = 1) -> int:
        """Of `points` runs of `steps` steps that share the cache; the checks of each at its end included."""
        once = steps * self.samples_per_step + round(self.checks.sample_forwards)
        return round(self.cache.sample_forwards) + points * once

    def seconds(self, steps: int, points: int = 1) -> float:
        """Of `points` runs of `steps` steps that share the cache; the checks of each at its end included."""
        return self.cache.seconds + points * (steps * self.seconds_per_step + self.checks.seconds)


def timed_ours(config: dict[str, Any], folder: Path) -> OurCost:
    """Trains a plain, checked config in an empty folder and says what that took."""
    places = {"outputs": str(folder), "cache": str(folder / "cache")}
    run = train({**config, "run": str(folder / "run"), "resume": False, "paths": places})
    return OurCost.of(run.read_summary(), config)


def peak_memory() -> int:
    """Bytes: the most that torch held on the GPU where it was used, else the process's largest resident size."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    return peak_host_memory()


def peak_host_memory() -> int:
    """Bytes: the process's largest resident size, since `reset_peak_memory` where the system can tell."""
    if _STATUS.is_file():
        # Of this program alone, where getrusage starts from what the process was before it was this program.
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory() -> None:
    """Count the peak from what is held now; on the host only Linux can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        _CLEAR_PEAK.write_text("5")  # proc(5): sets the largest resident size to the present one


def released_side(
    config: dict[str, Any], steps: int, memory: Callable[[], int] = peak_memory
) -> tuple[ReleasedCost, int]:
    """Cost of steps of the released algorithm, and this process's peak memory.

    Args:
        config: a benchmark's.
        steps: how many are timed.
        memory: `peak_memory` or `peak_host_memory`.
    """
    quiet_libraries()
    backbone: Backbone = build(config["model"], "model.")
    cost = timed_released(backbone, build(config["concept"], "concept."), build(config["released"], "released."), steps)
    return cost, memory()


def our_side(config: dict[str, Any], folder: Path) -> tuple[OurCost, int]:
    """Cost of one of our trainings, and this process's peak memory; `config` is a training's."""
    quiet_libraries()
    return timed_ours(config, folder), peak_memory()


@contextmanager
def new_process() -> Iterator[Executor]:
    """A process of its own that starts without memory of this one and runs what is submitted, one after another."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@dataclass(frozen=True)
class CommandCost:
    """What a command took as a process.

    Args:
        seconds: wall time, start-up included.
        peak_memory: largest resident size in bytes.
    """

    seconds: float
    peak_memory: int


def timed_command(module: str, arguments: Sequence[str]) -> CommandCost:
    """Runs `python -m module arguments` and says what that took; what it prints is shown.

    Raises:
        InputError: if it fails.
    """
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", module, *arguments]) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if process.returncode != 0:
        command = " ".join(arguments)
        raise InputError(f"Expected `python -m {module} {command}` to end well, but it ended {process.returncode}.")
    scale = 1 if sys.platform == "darwin" else 1024
    return CommandCost(seconds, usage.ru_maxrss * scale)
