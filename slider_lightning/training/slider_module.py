"""The LightningModule of every training: the sliders of a bank, each with a task of its own, on one frozen model."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from slider_lightning.adapters import SliderBank
from slider_lightning.backbone import Backbone, PromptEmbeds
from slider_lightning.config.training import OptimizerConfig
from slider_lightning.training.tasks import SliderTask, TrainRows, joint_forwards


class SliderModule(L.LightningModule):
    """Trains the K sliders of a bank at once: one forward holds the rows of all, each row under its own slider.

    Nothing is shared between the sliders but the frozen model: each has its loss, its learning rate and its clipped
    gradient, so that it learns what it would learn alone. The backbone is no submodule: checkpoints and distributed
    training hold the sliders alone.

    Args:
        backbone: the frozen model; `setup` moves it to the process's device.
        bank: bank of the sliders to train, attached to the backbone's UNet.
        tasks: what each of them learns, in their order.

    Raises:
        ValueError: unless there is one task per slider.
    """

    def __init__(self, backbone: Backbone, bank: SliderBank, tasks: Sequence[SliderTask]) -> None:
        super().__init__()
        if len(tasks) != len(bank.sliders) or not tasks:
            raise ValueError(f"Expected one task per slider, but got {len(tasks)} for {len(bank.sliders)}.")
        self.backbone = backbone
        self.bank = bank
        self.tasks = tuple(tasks)

    def setup(self, stage: str) -> None:
        """Moves what Lightning does not know of."""
        self.backbone.to(self.trainer.strategy.root_device)
        for task in self.tasks:
            task.move()

    def training_step(self, batch: Sequence[Any], batch_idx: int) -> dict[str, Tensor]:
        """The sum of the sliders' losses, and the losses of each under "losses"; logged are their mean and each."""
        losses = self.losses(batch)
        told = self.trainer.strategy.reduce(losses.detach(), reduce_op="mean")
        assert isinstance(told, Tensor)
        self.log("train/loss", told.mean(), prog_bar=True)
        if len(self.tasks) > 1:
            self.log_dict({loss_key(number): loss for number, loss in enumerate(told)})
        return {"loss": losses.sum(), "losses": losses.detach()}

    def losses(self, batch: Sequence[Any], *, slider_on: bool = True) -> Float[Tensor, " sliders"]:
        """The loss of every slider; with the sliders off those of the frozen model, which training must beat.

        Args:
            batch: what each task is fed, in their order.
            slider_on: False runs the same rows at scale 0.
        """
        both = zip(self.tasks, batch, strict=True)
        parts = [(number, rows) for number, (task, mine) in enumerate(both) for rows in task.rows(mine)]
        found: list[list[Tensor]] = [[] for _ in self.tasks]
        for group in joint_forwards(parts):
            predicted = self._predict(group, slider_on).split([len(rows) for _, rows in group])
            for (number, rows), noise_pred in zip(group, predicted, strict=True):
                found[number].append(rows.loss(noise_pred))
        return torch.stack([torch.stack(terms).sum() for terms in found])

    def _predict(self, group: Sequence[tuple[int, TrainRows]], slider_on: bool) -> Float[Tensor, "rows 4 h w"]:
        """One forward for the rows of several sliders, every row under its own."""
        rows = [each for _, each in group]
        time_ids = [each.time_ids for each in rows if each.time_ids is not None]
        with self.bank.scales(one_hot_scales(group, len(self.tasks)) * slider_on):
            return self.backbone.predict_noise(
                torch.cat([each.latents for each in rows]),
                torch.cat([each.timestep for each in rows]),
                PromptEmbeds.cat([each.embeds for each in rows]),
                torch.cat(time_ids) if time_ids else None,
            )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW on the sliders' fp32 weights, fused on a GPU; the learning rate of each is set anew every step."""
        configs = [task.optimizer for task in self.tasks]
        groups = [
            {"params": list(slider.parameters()), "lr": config.lr, "weight_decay": config.weight_decay}
            for slider, config in zip(self.bank.sliders, configs, strict=True)
        ]
        # Lightning leaves scaled gradients to a fused optimizer, which would be clipped as they are.
        fused = self.device.type == "cuda" and self.trainer.precision != "16-mixed"
        optimizer = torch.optim.AdamW(groups, fused=fused)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [self._lr_factor(config) for config in configs])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _lr_factor(self, config: OptimizerConfig) -> Callable[[int], float]:
        return lambda step: config.lr_factor(step, self.trainer.max_steps)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's step; a fused one changes weights unseen."""
        super().optimizer_step(*args, **kwargs)
        self.bank.weights_changed()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the norm of each slider's gradient by itself."""
        if gradient_clip_val is not None:
            for group in optimizer.param_groups:
                torch.nn.utils.clip_grad_norm_(group["params"], gradient_clip_val)


def one_hot_scales(group: Sequence[tuple[int, TrainRows]], num_sliders: int) -> Float[Tensor, "rows sliders"]:
    """The scale of every row in its own slider's column, zeros elsewhere."""
    scales = torch.zeros(sum(len(rows) for _, rows in group), num_sliders)
    first = 0
    for number, rows in group:
        scales[first : first + len(rows), number] = rows.scale
        first += len(rows)
    return scales


def loss_key(number: int) -> str:
    """Under which key the loss of one of several sliders is logged."""
    return f"train/loss/{number}"
