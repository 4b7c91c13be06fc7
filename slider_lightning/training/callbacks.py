"""What happens around training: the slider file at its end, and what it cost."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L

from slider_lightning.adapters import SliderBase, SliderMetadata, save_slider
from slider_lightning.backbone import Backbone
from slider_lightning.data import Cost
from slider_lightning.training.checks import TrainingChecks
from slider_lightning.training.slider_module import SliderModule


class SliderFiles(L.Callback):
    """Writes the trained sliders when training ends well, but those that `TrainingChecks` refused.

    Args:
        files: number of a slider in the bank to the file to write, and what it tells about itself.
        checks: the callback that ran before this one.
    """

    def __init__(self, files: Mapping[int, tuple[Path, SliderMetadata]], checks: TrainingChecks) -> None:
        self.files = dict(files)
        self.checks = checks

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the files, in the first process only; also when a resumed run had nothing left to train.

        A file that an earlier training left for a slider refused now is removed.

        Raises:
            InputError: if the disk refuses.
        """
        assert isinstance(pl_module, SliderModule)
        if not trainer.is_global_zero:
            return
        for number, (path, metadata) in self.files.items():
            slider = pl_module.bank.sliders[number]
            assert isinstance(slider, SliderBase)
            if number in self.checks.failures:
                path.unlink(missing_ok=True)
            else:
                save_slider(path, slider, metadata)


class TrainingCost(L.Callback):
    """Adds up seconds and UNet sample-forwards of training, all processes together, over resumed runs too.

    The count is stored with every checkpoint; work lost between the last checkpoint and a kill is not in it.
    """

    def __init__(self) -> None:
        self._before = Cost()
        self._started: tuple[float, int] | None = None
        self._backbone: Backbone | None = None
        self._world_size = 1

    @property
    def cost(self) -> Cost:
        """What training cost so far."""
        if self._started is None or self._backbone is None:
            return self._before
        forwards = (self._backbone.sample_forwards - self._started[1]) * self._world_size
        return Cost(
            self._before.seconds + time.perf_counter() - self._started[0], self._before.sample_forwards + forwards
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts to count what the module's backbone does."""
        backbone = pl_module.backbone
        assert isinstance(backbone, Backbone)
        self._backbone, self._world_size = backbone, trainer.world_size
        self._started = (time.perf_counter(), backbone.sample_forwards)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops counting."""
        self._before, self._started = self.cost, None

    def state_dict(self) -> dict[str, Any]:
        """The count, for the checkpoint."""
        cost = self.cost
        return {"seconds": cost.seconds, "sample_forwards": cost.sample_forwards}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting from a checkpoint."""
        self._before = Cost(state_dict["seconds"], state_dict["sample_forwards"])
