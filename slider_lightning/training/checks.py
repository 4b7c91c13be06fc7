"""A training that did nothing or harm ends with an error, not with a slider file."""

from collections import deque
from typing import Any

import lightning as L
import torch
from torch import Tensor

from slider_lightning.adapters import SliderBase
from slider_lightning.errors import InputError
from slider_lightning.training.slider_module import SliderModule

# Squared norm of the slider's change against that of the weights it changes: fp32 rounds to 1e-7 of a number.
_NOTHING = 1e-14
# Standard errors that the loss must have risen by, so that noise does not end a good training.
_CLEARLY = 3.0


class TrainingChecks(L.Callback):
    """Ends a training whose loss is not finite, whose weights did not move, or whose loss rose.

    Whether it rose is told on the last batches, once with the slider and once without it: the same noise on both sides
    leaves only what was learned.

    Args:
        every_n_steps: optimizer steps between two looks at the loss, each of which waits for the device.
        batches: how many of the last batches are compared, at least 2; each costs its rows twice.
    """

    def __init__(self, every_n_steps: int, batches: int = 16) -> None:
        self._every_n_steps = every_n_steps
        self._last: deque[Any] = deque(maxlen=batches)
        self._losses: tuple[float, float] | None = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the batch, and from time to time looks at the loss.

        Raises:
            InputError: if the loss is not finite.
        """
        self._last.append(batch)
        if trainer.global_step % self._every_n_steps == 0 and not bool(outputs["loss"].isfinite()):
            raise InputError(
                f"Expected a finite loss, but at optimizer step {trainer.global_step} it is "
                f"{float(outputs['loss'])}, so training ends without a slider; lower optimizer.lr."
            )

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Looks at weights and loss, before the slider is written.

        Raises:
            InputError: if the weights are not finite or change nothing, or the loss rose.
        """
        assert isinstance(pl_module, SliderModule)
        check_weights(pl_module)
        if len(self._last) > 1:
            on, off = self._compare(pl_module)
            self._losses = (float(on.mean()), float(off.mean()))
            check_loss(on, off)

    def summary(self) -> dict[str, float]:
        """The mean loss of the last batches with the slider and without it; empty where nothing was trained."""
        if self._losses is None:
            return {}
        return {"train/last_loss": self._losses[0], "train/last_loss_without_slider": self._losses[1]}

    @torch.no_grad()
    def _compare(self, module: SliderModule) -> tuple[Tensor, Tensor]:
        """Losses of the last batches of all processes, with the slider and without."""
        losses = [[module.loss(batch), module.loss(batch, slider_on=False)] for batch in self._last]
        gathered = module.all_gather(torch.stack([torch.stack(pair) for pair in losses]))
        assert isinstance(gathered, Tensor)
        on, off = gathered.reshape(-1, 2).double().cpu().unbind(1)
        return on, off


def check_weights(module: SliderModule) -> None:
    """Raise InputError unless the module's slider holds finite weights that change the UNet's."""
    slider = module.bank.sliders[0]
    assert isinstance(slider, SliderBase)
    if not all(bool(parameter.isfinite().all()) for parameter in slider.parameters()):
        raise InputError(
            "Expected finite slider weights at the end of training, but they diverged, so no slider was written; "
            "lower optimizer.lr or objective.eta."
        )
    layers = dict(module.backbone.unet.named_modules())
    with torch.no_grad():
        change = sum(float(slider.delta_weight(path).square().sum()) for path in slider.layer_paths)
        weight = sum(float(layers[path].weight.float().square().sum()) for path in slider.layer_paths)
    if change <= _NOTHING * weight:
        raise InputError(
            "Expected training to move the slider's weights, but they change nothing, so no slider was written; "
            "raise optimizer.lr or trainer.max_steps."
        )


def check_loss(on: Tensor, off: Tensor) -> None:
    """Raise InputError if the losses with the slider are clearly above those without it, batch by batch."""
    rise = on - off
    error = rise.std() / len(rise) ** 0.5
    if float(rise.mean()) > max(_CLEARLY * float(error), 1e-6 * float(off.mean())):
        raise InputError(
            f"Expected training to lower the loss, but on the last {len(rise)} batches it is {float(on.mean()):.4g} "
            f"with the slider and {float(off.mean()):.4g} without it, so no slider was written; lower optimizer.lr."
        )
