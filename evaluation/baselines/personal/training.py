"""The training of Textual Inversion and Custom Diffusion: one step, which differs in what is trained alone.

Textual Inversion (Gal et al. 2022, eq. 2):  v* = argmin_v E || eps - eps_theta(z_t, t, c(y, v)) ||^2
Custom Diffusion (Kumari et al. 2023, sec. 3.2 and 3.3): the same over v and the keys' and values' deltas, plus the
same loss on images of the class under the class prompt (prior preservation).
"""

from __future__ import annotations

from pathlib import Path

import lightning as L
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from jaxtyping import Float
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from evaluation.baselines.personal.concept import LearnedConcept
from evaluation.baselines.personal.data import PersonalBatch
from evaluation.baselines.personal.draws import Examples
from evaluation.baselines.personal.files import ConceptMetadata, save_concept
from evaluation.baselines.personal.tokens import TokenPromptEncoder
from slider_lightning.backbone import Backbone, ddim_scheduler
from slider_lightning.errors import InputError
from slider_lightning.training import OptimizerConfig


def denoising_target(scheduler: DDIMScheduler, examples: Examples) -> Float[Tensor, "batch 4 h w"]:
    """What the UNet should predict: the noise, or v = alpha_t eps - sigma_t z where the model predicts v.

    Raises:
        InputError: if it predicts something else.
    """
    match scheduler.config.prediction_type:
        case "epsilon":
            return examples.noise
        case "v_prediction":
            return scheduler.get_velocity(examples.latents, examples.noise, examples.timestep)
        case other:
            raise InputError(f"Expected a model that predicts epsilon or v, but its scheduler says {other!r}.")


class PersonalModule(L.LightningModule):
    """Trains a learned concept; which parameters it has says which method this is.

    The backbone and the text encoders are no submodules: checkpoints and distributed training hold the concept alone.

    Args:
        backbone: the frozen model, still holding its text encoders; `setup` moves it to the process's device.
        concept: what is trained.
        optimizer: AdamW's settings.
        prior_weight: of the prior's loss.

    Raises:
        InputError: if concept and backbone do not fit, or the model predicts neither epsilon nor v.
    """

    def __init__(
        self, backbone: Backbone, concept: LearnedConcept, optimizer: OptimizerConfig, prior_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.concept = concept
        self.optimizer_config = optimizer
        self.prior_weight = prior_weight
        self.scheduler = ddim_scheduler(backbone.scheduler)
        self.prompt_encoder = TokenPromptEncoder(backbone.prompt_encoder, concept.vectors)
        if concept.deltas is not None:
            concept.deltas.check_fits(backbone.unet)

    def setup(self, stage: str) -> None:
        """Moves what Lightning does not know of."""
        self.backbone.to(self.trainer.strategy.root_device)
        self.prompt_encoder.to(self.trainer.strategy.root_device)

    def training_step(self, batch: PersonalBatch, batch_idx: int) -> Tensor:
        """Loss of the training images, plus prior_weight times that of the prior's, in one forward."""
        rows = batch.concept if batch.prior is None else Examples.cat([batch.concept, batch.prior])
        errors = self.errors(rows)
        concept, prior = errors[: len(batch.concept)], errors[len(batch.concept) :]
        loss = concept.mean()
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        if batch.prior is not None:
            self.log("train/prior_loss", prior.mean(), prog_bar=True, sync_dist=True)
            loss = loss + self.prior_weight * prior.mean()
        return loss

    def errors(self, examples: Examples) -> Float[Tensor, " batch"]:
        """Mean squared error of the prediction, per row."""
        noisy = self.scheduler.add_noise(examples.latents, examples.noise, examples.timestep)
        embeds = self.prompt_encoder.encode(examples.prompts)
        with self.concept.applied(self.backbone.unet):
            noise_pred = self.backbone.predict_noise(noisy, examples.timestep, embeds)
        target = denoising_target(self.scheduler, examples)
        return F.mse_loss(noise_pred.float(), target.float(), reduction="none").flatten(1).mean(1)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW on the fp32 parameters, fused on a GPU, with the learning rate set anew every step."""
        config = self.optimizer_config
        optimizer = torch.optim.AdamW(
            self.concept.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=self.device.type == "cuda"
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: config.lr_factor(step, self.trainer.max_steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class ConceptFile(L.Callback):
    """Writes the learned concept when training ends well.

    Args:
        path: file to write.
        metadata: what the file tells about itself.
    """

    def __init__(self, path: Path, metadata: ConceptMetadata) -> None:
        self.path = path
        self.metadata = metadata

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the file, in the first process only; also when a resumed run had nothing left to train.

        Raises:
            InputError: if training left values that are not finite, or the disk refuses.
        """
        assert isinstance(pl_module, PersonalModule)
        if not all(bool(parameter.isfinite().all()) for parameter in pl_module.concept.parameters()):
            raise InputError(
                "Expected finite values at the end of training, but they diverged, so no file was written; lower "
                "optimizer.lr."
            )
        if trainer.is_global_zero:
            save_concept(self.path, pl_module.concept, self.metadata)
