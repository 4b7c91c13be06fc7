"""The released text trainer's algorithm on our classes, one optimizer step after the other.

Slow only where the algorithm is, and with the faults that decide its result: see REFERENCE.md, "Published settings",
"What the released training step costs" and "Faults of the released code".
"""

from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from jaxtyping import Float
from torch import Tensor

from slider_lightning.adapters import AdapterConfig, SliderBank, SliderMetadata, new_slider, save_slider
from slider_lightning.assets import atomic_path
from slider_lightning.backbone import Backbone, PromptEmbeds, classifier_free_guidance, ddim_scheduler, initial_noise
from slider_lightning.concepts import Concept
from slider_lightning.config import portable_path
from slider_lightning.errors import InputError
from slider_lightning.training import OptimizerConfig
from slider_lightning.training.checkpoints import check_checkpoint

TRAIN_TIMESTEPS = 1000
PREDICTIONS = 4  # positive, neutral, negative and the trained one, each with its unconditional half
# Keeps these draws apart from others of the same (seed, step).
_STREAM = 58

RolloutNegative = Literal["unconditional", "opposite"]


@dataclass(frozen=True)
class ReleasedConfig:
    """Settings of the released trainer; the defaults are the released ones.

    Args:
        adapter: rank, alpha and layers.
        optimizer: AdamW and its learning rate; AdamW's own weight decay was left as torch has it.
        eta: strength of the edit, above 0.
        max_steps: optimizer steps.
        batch_size: samples of a step; they share its prompts and its timestep.
        num_inference_steps: DDIM steps of a whole rollout, at least 2 and a divisor of 1000.
        guidance_scale: of the rollout.
        rollout_negative: what the rollout's guidance steers away from: the opposite pole's prompt, as released,
            or the unconditional row.
        gradient_clip_val: largest norm of the gradient; None does not clip.
        seed: of adapter, prompts, timesteps and noise.

    Raises:
        InputError: if a value is out of range.
    """

    adapter: AdapterConfig = field(default_factory=lambda: AdapterConfig(alpha=1.0))
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(lr=2e-4, weight_decay=1e-2, warmup_steps=0, decay="constant")
    )
    eta: float = 4.0
    max_steps: int = 1000
    batch_size: int = 1
    num_inference_steps: int = 50
    guidance_scale: float = 3.0
    rollout_negative: RolloutNegative = "opposite"
    gradient_clip_val: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("max_steps", 1), ("batch_size", 1), ("num_inference_steps", 2), ("seed", 0)):
            if (value := getattr(self, name)) < least:
                raise InputError(f"Expected released.{name} to be {least} or more, but got {value}; raise it.")
        if TRAIN_TIMESTEPS % self.num_inference_steps:
            raise InputError(
                f"Expected released.num_inference_steps to divide {TRAIN_TIMESTEPS}, but got "
                f"{self.num_inference_steps}; choose 50."
            )
        if not self.eta > 0:
            raise InputError(f"Expected released.eta to be above 0, but got {self.eta}; raise it.")
        if self.rollout_negative not in (known := get_args(RolloutNegative)):
            names = ", ".join(known)
            raise InputError(
                f"Expected released.rollout_negative to be one of {names}, but got {self.rollout_negative!r}."
            )

    @property
    def mean_sample_forwards(self) -> float:
        """Expected sample-forwards of one step: 2kB + 8B with k uniform in 1..num_inference_steps - 1."""
        return self.batch_size * (self.num_inference_steps + 2 * PREDICTIONS)


@dataclass(frozen=True)
class Draw:
    """What one step draws.

    Args:
        pair: number of the preserved phrase.
        rollout_steps: k, the steps that the rollout takes.
        noise_seeds: of every sample's initial noise.
    """

    pair: int
    rollout_steps: int
    noise_seeds: tuple[int, ...]


def draw_step(step: int, pairs: int, config: ReleasedConfig) -> Draw:
    """The draws of a step, a pure function of (seed, step)."""
    sequence = np.random.SeedSequence([config.seed, _STREAM, step])
    generator = np.random.default_rng(sequence)
    noise_seeds = sequence.spawn(1)[0].generate_state(config.batch_size).tolist()
    return Draw(
        pair=int(generator.integers(pairs)),
        rollout_steps=int(generator.integers(1, config.num_inference_steps)),
        noise_seeds=tuple(noise_seeds),
    )


@dataclass(frozen=True)
class PairPrompts:
    """The embedded prompts of every preserved phrase, one row each.

    The released prompts carry the preserved attribute in all of target, positive and negative. A concept's own poles
    are "positive, phrase" and "negative, phrase", so the target is "target, phrase" here.
    """

    target: PromptEmbeds
    positive: PromptEmbeds
    negative: PromptEmbeds
    unconditional: PromptEmbeds

    @classmethod
    def encode(cls, backbone: Backbone, concept: Concept) -> "PairPrompts":
        """Encodes all prompts."""
        targets = [f"{concept.target}, {phrase}" for phrase in concept.preserve] or [concept.target]
        return cls(
            target=backbone.encode_prompts(targets),
            positive=backbone.encode_prompts(concept.positive_prompts()),
            negative=backbone.encode_prompts(concept.negative_prompts()),
            unconditional=backbone.encode_negative_prompt(None),
        )


class ReleasedTraining:
    """One slider in training as the released code trains it, one optimizer step after the other.

    Everything is computed in the backbone's dtype: on a half-precision backbone adapter weights, Adam's moments and
    the loss are half precision too, as released.

    Args:
        backbone: the frozen model; its prompts are encoded here, afterwards it may free its text encoders.
        concept: the prompts.
        config: the settings.
    """

    def __init__(self, backbone: Backbone, concept: Concept, config: ReleasedConfig) -> None:
        self.backbone = backbone
        self.concept = concept
        self.config = config
        self.prompts = PairPrompts.encode(backbone, concept)
        self.slider = new_slider(config.adapter, backbone.unet, seed=config.seed)
        self.bank = SliderBank(backbone.unet, [self.slider]).to(backbone.dtype)
        settings = config.optimizer
        self.optimizer = torch.optim.AdamW(self.bank.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        self.global_step = 0

    def step(self) -> float:
        """One optimizer step, at a cost of 2kB + 8B sample-forwards; returns its loss."""
        draw = draw_step(self.global_step, len(self.prompts.target), self.config)
        loss = self.loss(draw)
        self.optimizer.zero_grad()
        loss.backward()
        if self.config.gradient_clip_val is not None:
            torch.nn.utils.clip_grad_norm_(self.bank.parameters(), self.config.gradient_clip_val)
        for group in self.optimizer.param_groups:
            factor = self.config.optimizer.lr_factor(self.global_step, self.config.max_steps)
            group["lr"] = self.config.optimizer.lr * factor
        self.optimizer.step()
        self.global_step += 1
        return loss.item()

    def loss(self, draw: Draw) -> Tensor:
        """MSE(trained, neutral + eta (positive - negative)) at the state that the rollout reaches.

        The UNet is told 999 - 20k (for 50 steps) although the latents are at 980 - 20k, as released.
        """
        latents = self.rollout(draw)
        timestep = TRAIN_TIMESTEPS - 1 - draw.rollout_steps * (TRAIN_TIMESTEPS // self.config.num_inference_steps)
        prompts, pair = self.prompts, draw.pair
        with torch.no_grad():
            positive, neutral, negative = (
                self._guided(latents, timestep, embeds[pair], prompts.unconditional, 1.0, slider_on=False)
                for embeds in (prompts.positive, prompts.target, prompts.negative)
            )
            target = neutral + self.config.eta * (positive - negative)
        trained = self._guided(latents, timestep, prompts.target[pair], prompts.unconditional, 1.0, slider_on=True)
        return F.mse_loss(trained, target)

    @torch.no_grad()
    def rollout(self, draw: Draw) -> Float[Tensor, "batch 4 h w"]:
        """The latents after k DDIM steps from pure noise with the slider at +1, 2 rows per sample and step."""
        scheduler: Any = released_scheduler(self.backbone)
        scheduler.set_timesteps(self.config.num_inference_steps)
        noise = initial_noise(self.backbone.latent_shape, draw.noise_seeds)
        latents = noise.to(self.backbone.device, self.backbone.dtype) * scheduler.init_noise_sigma
        target = self.prompts.target[draw.pair]
        opposite = self.config.rollout_negative == "opposite"
        away = self.prompts.negative[draw.pair] if opposite else self.prompts.unconditional
        for timestep in scheduler.timesteps[: draw.rollout_steps].tolist():
            guided = self._guided(latents, timestep, target, away, self.config.guidance_scale, slider_on=True)
            latents = scheduler.step(guided, timestep, latents).prev_sample
        return latents

    def state_dict(self) -> dict[str, Any]:
        """All that the following steps depend on."""
        return {
            "global_step": self.global_step,
            "bank": self.bank.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken."""
        self.global_step = state_dict["global_step"]
        self.bank.load_state_dict(state_dict["bank"])
        self.optimizer.load_state_dict(state_dict["optimizer"])

    def save(self, path: Path, **beside: Any) -> None:
        """Writes the state, and plain values `beside` it, whole or not at all; InputError if the disk refuses."""
        with atomic_path(path) as temporary:
            torch.save({**self.state_dict(), **beside}, temporary)

    def load(self, path: Path) -> dict[str, Any]:
        """Goes on from a file of `save`; returns what it holds.

        Raises:
            InputError: if the file is missing or damaged.
        """
        check_checkpoint(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        self.load_state_dict(state)
        return state

    def write_slider(self, path: Path) -> None:
        """Writes the slider as it is now; InputError if the disk refuses."""
        metadata = SliderMetadata.of(
            self.config.adapter,
            objective="text_enhance",
            concept=asdict(self.concept),
            eta=self.config.eta,
            base_model=portable_path(self.backbone.name),
            base_model_hash=self.backbone.fingerprint,
        )
        save_slider(path, self.slider, metadata)

    def _guided(
        self,
        latents: Float[Tensor, "batch 4 h w"],
        timestep: int,
        embeds: PromptEmbeds,
        away: PromptEmbeds,
        guidance_scale: float,
        *,
        slider_on: bool,
    ) -> Float[Tensor, "batch 4 h w"]:
        """A guided prediction, both halves in one forward also where the scale leaves nothing of the first."""
        rows = PromptEmbeds.cat([away, embeds]).repeat_interleave(len(latents))
        scales = torch.ones(2 * len(latents), 1)
        with self.bank.scales(scales) if slider_on else nullcontext():
            noise_uncond, noise_cond = self.backbone.predict_noise(latents.repeat(2, 1, 1, 1), timestep, rows).chunk(2)
        return classifier_free_guidance(noise_uncond, noise_cond, guidance_scale)


def released_scheduler(backbone: Backbone) -> DDIMScheduler:
    """DDIM at 980, 960, ..., 0 for 50 steps, with the checkpoint's own betas and prediction type."""
    scheduler = ddim_scheduler(backbone.scheduler)
    return DDIMScheduler.from_config(scheduler.config, timestep_spacing="leading", steps_offset=0)
