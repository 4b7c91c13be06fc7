"""Training of the generator: by regression, since the picture is a function of z, then against a discriminator."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.tiny_faces.dataset import CHUNK, step_generator, step_rows
from experiments.tiny_faces.fit import adamw_one_cycle, fit
from experiments.tiny_faces.render import render
from experiments.tiny_faces.stylegan.latent import faces_of, z_dim
from experiments.tiny_faces.stylegan.networks import Discriminator, Generator, GeneratorSize
from experiments.tiny_faces.vae import pixel_weights
from slider_lightning.assets import atomic_path, verify_folder, write_hashes
from slider_lightning.errors import InputError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_W_SAMPLES = 8192


@dataclass(frozen=True)
class StyleGanSettings:
    """Settings of both stages.

    Args:
        channels: the generator's feature maps, see `GeneratorSize`.
        faces: rendered faces that it learns from.
        steps: optimizer steps of the regression.
        adversarial_steps: optimizer steps against the discriminator.
        mapping_learning_rate: that of the mapping network in the regression, as a share of the others'.
        feature_weight: weight of a pixel of eyes, brows, glasses or mouth in the regression; other pixels weigh 1.
        adversarial_weight: weight of the discriminator's judgement beside the regression loss in the second stage.
        r1_gamma: weight of the gradient penalties on rendered and generated faces (R1 and R2).
        r1_every: steps between two penalties, each then weighing that much more.
        ema: decay per step of the averaged weights that are shipped.
        compute_dtype: dtype of the convolutions; the weights stay in fp32.
    """

    channels: tuple[int, ...] = (128, 128, 96, 64, 32)
    faces: int = 24000
    steps: int = 6000
    adversarial_steps: int = 2000
    batch_size: int = 32
    learning_rate: float = 3e-3
    mapping_learning_rate: float = 0.2
    adversarial_learning_rate: float = 1e-3
    feature_weight: float = 8.0
    adversarial_weight: float = 0.01
    r1_gamma: float = 1.0
    r1_every: int = 8
    ema: float = 0.998
    compute_dtype: str = "bfloat16"
    seed: int = 31

    @property
    def size(self) -> GeneratorSize:
        """The generator's sizes."""
        return GeneratorSize(z_dim=z_dim(), channels=self.channels)


@dataclass(frozen=True)
class PaintedLatents:
    """z with the faces that they stand for.

    Args:
        z: standard normal.
        images: the rendered faces, 255 is 1.0.
        labels: class of the part on each pixel.
    """

    z: Float[Tensor, "n z_dim"]
    images: UInt8[Tensor, "n 3 size size"]
    labels: UInt8[Tensor, "n size size"]

    def batch(self, rows: Tensor, feature_weight: float) -> tuple[Tensor, Tensor, Tensor]:
        """(z, images in [-1, 1], pixel weights) of some rows."""
        return self.z[rows], self.images[rows].float() / 127.5 - 1, pixel_weights(self.labels[rows], feature_weight)


def painted_latents(path: Path, count: int, seed: int, size: int) -> PaintedLatents:
    """The z of (count, seed) with their faces, read from `path` or drawn and written there."""
    z = torch.randn(count, z_dim(), generator=torch.Generator().manual_seed(seed))
    if not path.is_file():
        images, labels = [], []
        for part in track(z.split(CHUNK), description=f"drawing {count} faces for the generator"):
            drawing = render(faces_of(part), size)
            images.append((drawing.images * 255).round().to(torch.uint8))
            labels.append(drawing.labels.to(torch.uint8))
        with atomic_path(path) as temporary:
            save_file({"images": torch.cat(images), "labels": torch.cat(labels)}, temporary)
    return PaintedLatents(z, **load_file(path))


class Regression(lightning.LightningModule):
    """Weighted L1 + squared error between G(z) and the face that z stands for.

    Args:
        generator: trained in place.
        settings: of the stage.
    """

    def __init__(self, generator: Generator, settings: StyleGanSettings) -> None:
        super().__init__()
        self.generator, self.settings = generator, settings

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        z, images, weights = batch
        with step_noise(self.settings.seed, self.global_step):
            generated = generate(self.generator, z, self.settings, "random")
        loss = regression_loss(generated, images, weights)
        self.log("train/regression", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        s = self.settings
        # The mapping network's rate is lower, as in StyleGAN: else fine parts such as brows drown in its noise.
        groups: list[dict[str, Any]] = [
            {"params": list(self.generator.synthesis.parameters())},
            {"params": list(self.generator.mapping.parameters()), "lr": s.learning_rate * s.mapping_learning_rate},
        ]
        return adamw_one_cycle(groups, s.learning_rate, s.steps, weight_decay=1e-4)


class Adversarial(lightning.LightningModule):
    """Regression and a discriminator that compares G(z) with the face that the same z stands for.

    The relativistic logistic loss of the pairs with gradient penalties on both sides (R3GAN, Huang et al. 2024). Both
    networks step at once, each on gradients of its own loss.

    Args:
        generator: trained in place.
        settings: of the stage.
    """

    def __init__(self, generator: Generator, settings: StyleGanSettings) -> None:
        super().__init__()
        self.generator, self.settings = generator, settings
        self.discriminator = Discriminator()
        self.averaged = copy.deepcopy(generator).requires_grad_(False)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        s, (z, images, weights) = self.settings, batch
        with step_noise(s.seed + 1, self.global_step):
            fake = generate(self.generator, z, s, "random")
        fixed = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        judge = self.judged
        with torch.no_grad():
            real_score = judge(images, fixed)
        fooled = F.softplus(real_score - judge(fake, fixed)).mean()
        regression = regression_loss(fake, images, weights)
        told_apart = F.softplus(judge(fake.detach()) - judge(images)).mean()
        loss = regression + s.adversarial_weight * fooled + told_apart
        if self.global_step % s.r1_every == 0:
            penalty = self.gradient_penalty(images) + self.gradient_penalty(fake.detach())
            loss = loss + 0.5 * s.r1_gamma * s.r1_every * penalty
            self.log("train/penalty", penalty)
        self.log_dict({"train/regression": regression, "train/fooled": fooled, "train/told_apart": told_apart})
        return loss

    def judged(self, images: Tensor, parameters: dict[str, Tensor] | None = None) -> Float[Tensor, " n"]:
        """The discriminator's score, with other parameters where given."""
        with torch.autocast("cpu", getattr(torch, self.settings.compute_dtype)):
            images = images.contiguous(memory_format=torch.channels_last)
            if parameters is None:
                score: Tensor = self.discriminator(images)
            else:
                score = torch.func.functional_call(self.discriminator, parameters, (images,))
        return score

    def gradient_penalty(self, images: Tensor) -> Float[Tensor, ""]:
        """Mean squared norm of the score's gradient by the image; fp32, since it is differentiated twice."""
        images = images.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(self.discriminator(images).sum(), images, create_graph=True)
        return gradient.square().sum((1, 2, 3)).mean()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Steps, then averages the generator: on_train_batch_end comes after the checkpoint of the step is written."""
        super().optimizer_step(*args, **kwargs)
        self.average()

    def average(self) -> None:
        """Moves the averaged weights towards the generator's."""
        with torch.no_grad():
            for mean, now in zip(self.averaged.parameters(), self.generator.parameters(), strict=True):
                mean.lerp_(now, 1 - self.settings.ema)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        s = self.settings
        parameters = [*self.generator.parameters(), *self.discriminator.parameters()]
        return adamw_one_cycle(parameters, s.adversarial_learning_rate, s.adversarial_steps, weight_decay=1e-4)


@contextmanager
def step_noise(seed: int, step: int) -> Iterator[None]:
    """The noise of a step as a function of (seed, step): a resumed training then equals an uninterrupted one."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(step_generator(seed, step).get_state())
        yield


def generate(
    generator: Generator, z: Float[Tensor, "n z_dim"], settings: StyleGanSettings, noise_mode: str
) -> Float[Tensor, "n 3 h w"]:
    """G(z) with the convolutions in the settings' dtype; z -> w stays in fp32, where classes change abruptly."""
    w = generator.mapping(z)
    with torch.autocast("cpu", getattr(torch, settings.compute_dtype)):
        images: Tensor = generator.synthesis(w, noise_mode=noise_mode)
    return images


def regression_loss(
    generated: Float[Tensor, "n 3 h w"], images: Float[Tensor, "n 3 h w"], weights: Float[Tensor, "n 1 h w"]
) -> Float[Tensor, ""]:
    """Mean of (|error| + error^2) by pixel weight."""
    error = generated - images
    return ((error.abs() + error.square()) * weights).mean()


def train_stylegan(settings: StyleGanSettings, out_dir: Path, work_dir: Path) -> None:
    """Trains both stages and saves the averaged generator in fp16; resumes in `work_dir`."""
    size = settings.size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        generator = Generator(size).to(memory_format=torch.channels_last)
    data = painted_latents(work_dir / "faces.safetensors", settings.faces, settings.seed, size.image_size)
    regression = Regression(generator, settings)
    fit(regression, batches(data, settings, settings.seed), work_dir / "regression", settings.steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        adversarial = Adversarial(generator, settings)
    fit(adversarial, batches(data, settings, settings.seed + 1), work_dir, settings.adversarial_steps)
    save_generator(adversarial.averaged, size, out_dir)


def batches(
    data: PaintedLatents, settings: StyleGanSettings, seed: int
) -> Callable[[int], tuple[Tensor, Tensor, Tensor]]:
    """The batch of a step, a function of (seed, step)."""
    return lambda step: data.batch(step_rows(seed, step, settings.batch_size, len(data.z)), settings.feature_weight)


@torch.no_grad()
def save_generator(generator: Generator, size: GeneratorSize, folder: Path) -> None:
    """Writes a folder that `load_generator` opens; the mean w is measured here."""
    mapping = generator.mapping
    z = torch.randn(_W_SAMPLES, size.z_dim, generator=step_generator(0, 0))
    mapping.w_avg.copy_(mapping(z)[:, 0].mean(0))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(asdict(size), indent=2) + "\n")
    save_file({name: tensor.half().contiguous() for name, tensor in generator.state_dict().items()}, folder / WEIGHTS)
    write_hashes(folder)


def load_generator(folder: str | Path) -> Generator:
    """Opens a saved generator in fp32, frozen.

    Raises:
        InputError: if the folder is missing or damaged.
    """
    folder = Path(folder)
    verify_folder(folder)
    try:
        generator = Generator(GeneratorSize(**json.loads((folder / CONFIG).read_text())))
        generator.load_state_dict({name: t.float() for name, t in load_file(folder / WEIGHTS).items()})
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"Expected a generator in {folder}, but it is another ({error}); rebuild it.") from error
    return generator.eval().requires_grad_(False)
