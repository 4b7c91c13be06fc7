"""A slider that learned nothing or harm is refused with an error, not written to a file."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from slider_lightning.adapters import SliderBase
from slider_lightning.data import Cost, StepDataModule, measured_cost
from slider_lightning.data.steps import of_all_processes
from slider_lightning.errors import InputError
from slider_lightning.training.slider_module import SliderModule

# Squared norm of the slider's change against that of the weights it changes: fp32 rounds to 1e-7 of a number.
_NOTHING = 1e-14
# Standard errors that the loss must have risen by, so that noise does not end a good training.
_CLEARLY = 3.0
# How many of the last batches are compared.
CHECKED_BATCHES = 8


class TrainingChecks(L.Callback):
    """Refuses sliders whose loss is not finite, whose weights did not move, or whose loss rose.

    Whether it rose is told on the last batches of the whole run, once with the slider and once without it: the same
    noise on both sides leaves only what was learned. A run that was finished before is looked at again. Of several
    sliders trained together the good ones are kept; training ends with an error when none is left.

    Args:
        every_n_steps: optimizer steps between two looks at the losses, each of which waits for the device.
        batches: how many of the last batches are compared, at least 2; each costs its rows twice.
    """

    def __init__(self, every_n_steps: int, batches: int = CHECKED_BATCHES) -> None:
        self.failures: dict[int, str] = {}
        """Number of a slider to what is wrong with it."""
        self.cost = Cost()
        """What the comparison took."""
        self._every_n_steps = every_n_steps
        self._batches = batches
        self._seen: deque[Any] = deque(maxlen=batches)
        self._figures: list[dict[str, float]] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the batch, and from time to time looks at the losses.

        Raises:
            InputError: if no slider's loss is finite any more.
        """
        self._seen.append(batch)
        if trainer.global_step % self._every_n_steps:
            return
        # Of all processes together: one that ended alone would leave the others waiting for it.
        lost = not bool(outputs["losses"].isfinite().any())
        if trainer.strategy.reduce_boolean_decision(lost, all=False):
            raise InputError(
                f"Expected a finite loss, but at optimizer step {trainer.global_step} it is none, so training ends "
                "without a slider; lower optimizer.lr."
            )

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Looks at weights and losses, before the sliders are written.

        Raises:
            InputError: if every slider's weights are not finite or change nothing, or its loss rose.
        """
        assert isinstance(pl_module, SliderModule)
        # Lightning has moved the module to main memory by now; the backbone, no part of it, stayed.
        pl_module.to(pl_module.backbone.device)
        with measured_cost(pl_module.backbone) as self.cost:
            on, off = self._compare(pl_module, self._last_batches(trainer, pl_module))
        self.cost = of_all_processes(self.cost, trainer)
        count = len(pl_module.tasks)
        self._figures = [
            {
                "train/last_loss": float(on[:, number].mean()),
                "train/last_loss_without_slider": float(off[:, number].mean()),
                **self.cost.summary("checks", sharers=count),
            }
            for number in range(count)
        ]
        for number in range(count):
            try:
                check_weights(pl_module, number)
                check_loss(on[:, number], off[:, number])
            except InputError as error:
                self.failures[number] = str(error)
        if len(self.failures) == count:
            raise InputError(" ".join(dict.fromkeys(self.failures.values())))

    def summary(self, number: int) -> dict[str, float]:
        """A slider's mean loss of the last batches with it and without it, and its share of what it cost to know."""
        return self._figures[number]

    def _last_batches(self, trainer: L.Trainer, module: SliderModule) -> list[Any]:
        """The last batches of the run: those seen now, and before them those that an earlier process trained on."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, StepDataModule)
        loader = data.train_dataloader()
        first = max(0, len(loader) - self._batches)
        earlier = [loader.batch(step) for step in range(first, len(loader) - len(self._seen))]
        return [*(tuple(part.to(module.device) for part in batch) for batch in earlier), *self._seen]

    @torch.no_grad()
    def _compare(self, module: SliderModule, batches: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Losses (batches of all processes x sliders) with the sliders and without."""
        losses = [torch.stack([module.losses(batch), module.losses(batch, slider_on=False)]) for batch in batches]
        gathered = module.all_gather(torch.stack(losses))
        assert isinstance(gathered, Tensor)
        on, off = gathered.reshape(-1, 2, len(module.tasks)).cpu().double().unbind(1)
        return on, off


def check_weights(module: SliderModule, number: int) -> None:
    """Raise InputError unless a slider of the module holds finite weights that change the UNet's."""
    slider = module.bank.sliders[number]
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
    """Raise InputError if a loss is not finite, or those with the slider are clearly above those without it."""
    if not bool((on.isfinite() & off.isfinite()).all()):
        raise InputError(
            "Expected finite losses at the end of training, but some are not, so no slider was written; lower "
            "optimizer.lr."
        )
    rise = on - off
    error = rise.std() / len(rise) ** 0.5 if len(rise) > 1 else torch.zeros(())
    if float(rise.mean()) > max(_CLEARLY * float(error), 1e-6 * float(off.mean())):
        raise InputError(
            f"Expected training to lower the loss, but on the last {len(rise)} batches it is {float(on.mean()):.4g} "
            f"with the slider and {float(off.mean()):.4g} without it, so no slider was written; lower optimizer.lr."
        )
