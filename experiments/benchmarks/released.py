"""The released trainer as a command: `python -m experiments.benchmarks.released [seed=1 ...]`.

Trains in outputs/benchmarks/released/<hash of the settings>, where other benchmarks find what is trained already.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.benchmarks.released_step import ReleasedConfig, ReleasedTraining
from slider_lightning.assets import atomic_path, locked
from slider_lightning.backbone import Backbone
from slider_lightning.concepts import Concept
from slider_lightning.config import build, canonical_text, typed
from slider_lightning.data import measured_cost
from slider_lightning.entry import entry_point
from slider_lightning.errors import InputError
from slider_lightning.generation import ProgressCallback
from slider_lightning.training.run_folder import read_json_lines, write_json

logger = logging.getLogger(__name__)

CHECKPOINTS = (125, 250, 500, 750, 1000)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ReleasedRun:
    """The folder of one training: sliders of some steps, a log, and what a killed training goes on from.

    Args:
        path: the folder.
    """

    path: Path

    @property
    def log(self) -> Path:
        """One JSON object per step: step, seconds and sample_forwards so far, loss."""
        return self.path / "log.jsonl"

    @property
    def checkpoint(self) -> Path:
        """State of the training."""
        return self.path / "last.ckpt"

    @property
    def settings(self) -> Path:
        """What the folder's name is the hash of."""
        return self.path / "settings.json"

    def slider(self, step: int) -> Path:
        """The slider after a step."""
        return self.path / f"step-{step:05d}.safetensors"

    def read_log(self) -> list[dict[str, Any]]:
        """The steps in order; InputError if the log is missing or damaged."""
        return read_json_lines(self.log)


def train_released(
    backbone: Backbone,
    concept: Concept,
    config: ReleasedConfig,
    folder: Path,
    checkpoints: Sequence[int] = CHECKPOINTS,
    progress: Progress | None = None,
    save_every: int = 25,
) -> ReleasedRun:
    """Trains in a folder, from where a killed training stood; sliders that lie there already are kept.

    Args:
        backbone: the frozen model.
        concept: the prompts.
        config: the settings.
        folder: of this training alone.
        checkpoints: steps after which a slider is written, the last one at most `config.max_steps`; training ends
            with the last of them.
        progress: called as (steps done, steps in all).
        save_every: steps between two states that a killed training goes on from.

    Raises:
        InputError: if the disk refuses, what lies in the folder is damaged, or a checkpoint is out of range.
    """
    run, steps = ReleasedRun(folder), sorted(checkpoints)
    if not steps or steps[0] < 1 or steps[-1] > config.max_steps:
        raise InputError(
            f"Expected checkpoints within the {config.max_steps} steps of the training, but got {steps}; change one."
        )
    with locked(folder, "released training"):
        if not all(run.slider(step).is_file() for step in steps):
            _train(ReleasedTraining(backbone, concept, config), run, steps, progress, save_every)
    return run


def _train(
    training: ReleasedTraining, run: ReleasedRun, steps: Sequence[int], progress: Progress | None, save_every: int
) -> None:
    seconds, forwards = _resume(training, run, steps)
    with training.bank:
        while training.global_step < steps[-1]:
            with measured_cost(training.backbone) as cost:
                loss = training.step()
            step = training.global_step
            seconds, forwards = seconds + cost.seconds, forwards + round(cost.sample_forwards)
            row = {"step": step, "seconds": round(seconds, 4), "sample_forwards": forwards, "loss": loss}
            with run.log.open("a") as file:
                file.write(json.dumps(row) + "\n")
            if step in steps:
                training.write_slider(run.slider(step))
            if step in steps or step % save_every == 0:
                training.save(run.checkpoint, seconds=seconds, sample_forwards=forwards)
            if progress is not None:
                progress(step, steps[-1])


def _resume(training: ReleasedTraining, run: ReleasedRun, steps: Sequence[int]) -> tuple[float, int]:
    """Seconds and sample-forwards so far, with the training brought to where it stood and the log cut back to that."""
    seconds, forwards = 0.0, 0
    if run.checkpoint.is_file():
        state = training.load(run.checkpoint)
        seconds, forwards = state["seconds"], state["sample_forwards"]
        passed = [step for step in steps if step <= training.global_step and not run.slider(step).is_file()]
        if passed:
            raise InputError(
                f"Expected {run.slider(passed[0])}, but the training in that folder is past that step; delete the "
                "folder to train again."
            )
    rows = run.read_log() if run.log.is_file() else []
    with atomic_path(run.log) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows if row["step"] <= training.global_step))
    return seconds, forwards


def settings_of(backbone: Backbone, concept: Concept, config: ReleasedConfig) -> dict[str, Any]:
    """All that decides a training's result, as JSON values."""
    return {
        "model": backbone.fingerprint,
        "resolution": backbone.resolution,
        "dtype": str(backbone.dtype),
        "device": backbone.device.type,
        "concept": asdict(concept),
        "adapter": {name: getattr(config.adapter, name) for name in ("rank", "alpha", "layers")},
        "optimizer": {
            name: getattr(config.optimizer, name) for name in ("lr", "weight_decay", "warmup_steps", "decay")
        },
        **{key: value for key, value in asdict(config).items() if key not in ("adapter", "optimizer")},
    }


def released_run(backbone: Backbone, concept: Concept, config: ReleasedConfig, outputs: Path) -> ReleasedRun:
    """The folder that a training of these settings has below outputs/."""
    content = canonical_text(settings_of(backbone, concept, config)).encode()
    return ReleasedRun(outputs / "benchmarks" / "released" / hashlib.sha256(content).hexdigest()[:8])


def ensure_released(
    backbone: Backbone, concept: Concept, config: ReleasedConfig, outputs: Path, checkpoints: Sequence[int]
) -> ReleasedRun:
    """The training of these settings, found in its folder or made there now, with a progress bar."""
    run = released_run(backbone, concept, config, outputs)
    write_json(run.settings, settings_of(backbone, concept, config))
    with ProgressCallback(f"released training, seed {config.seed}, steps") as progress:
        return train_released(backbone, concept, config, run.path, checkpoints, progress)


@entry_point("benchmark/released")
def main(config: dict[str, Any]) -> None:
    """Train from the command line."""
    backbone: Backbone = build(config["model"], "model.")
    checkpoints = typed(config["checkpoints"], tuple[int, ...], "checkpoints")
    run = ensure_released(
        backbone,
        build(config["concept"], "concept."),
        build(config["released"], "released."),
        Path(config["paths"]["outputs"]),
        checkpoints,
    )
    last = run.read_log()[-1]
    logger.info(
        "%d steps, %.0f s, %d sample-forwards: %s", last["step"], last["seconds"], last["sample_forwards"], run.path
    )


if __name__ == "__main__":
    main()
