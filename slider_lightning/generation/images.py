"""Images of prompts, seeds and slider scales: seeds x scales in full batches, the common start computed once."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from slider_lightning.adapters.bank import SliderBank
from slider_lightning.backbone import Backbone, SamplerConfig, count_unet_calls, initial_noise, sample, step_generators
from slider_lightning.errors import InputError


def generate_images(
    backbone: Backbone,
    bank: SliderBank | None,
    prompts: str | Sequence[str],
    seeds: Sequence[int],
    scales: Tensor | Sequence[float] | Sequence[Sequence[float]],
    config: SamplerConfig,
    *,
    negative_prompt: str | None = None,
    batch_size: int = 32,
    on_batch: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "seeds scales 3 height width"]:
    """Every seed at every scale.

    `batch_size` seeds at a time take every step together, so that both the common start (seeds) and the rest (seeds x
    scales) fill their batches; the steps above start_timestep are computed once per seed.

    Args:
        backbone: the frozen model.
        bank: the sliders on its UNet, attached; None for images of the model itself.
        prompts: one for all seeds, or one per seed. An evaluation of prompts x seeds repeats both.
        seeds: the same seed starts from the same noise under any prompt, scale and batch.
        scales: for each column of images the scales of the K sliders; plain numbers do for one slider. Without a bank
            they are zeros.
        config: steps, guidance and start_timestep.
        negative_prompt: for guidance; None is the pipeline's default.
        batch_size: images per UNet call; guidance doubles the rows of the call.
        on_batch: called as (done, total) after every UNet call, for a progress bar.

    Returns:
        Images in [0, 1], float32, in main memory.

    Raises:
        InputError: if prompts and seeds differ in number, scales do not fit the bank, or a prompt is too long.
    """
    prompts = [prompts] * len(seeds) if isinstance(prompts, str) else list(prompts)
    if len(prompts) != len(seeds) or not seeds or batch_size < 1:
        raise InputError(
            f"Expected at least one seed, one prompt or one per seed, and a batch of 1 or more, but got {len(seeds)} "
            f"seeds, {len(prompts)} prompts and a batch of {batch_size}."
        )
    scale_rows = _scale_rows(scales, 0 if bank is None else len(bank.sliders))
    branches = len(scale_rows)
    embeds = backbone.encode_prompts(prompts)
    negative_embeds = backbone.encode_negative_prompt(negative_prompt)
    groups = [list(range(len(seeds)))[start : start + batch_size] for start in range(0, len(seeds), batch_size)]
    total = sum(count_unet_calls(backbone, config, len(group) * branches, branches, batch_size) for group in groups)
    count = _counter(on_batch, total)
    images = []
    for group in groups:
        row_seeds = [seeds[position] for position in group for _ in range(branches)]
        latents = sample(
            backbone,
            bank,
            embeds[group].repeat_interleave(branches),
            negative_embeds,
            initial_noise(backbone.latent_shape, row_seeds),
            None if bank is None else scale_rows.repeat(len(group), 1),
            config,
            branches=branches,
            batch_size=batch_size,
            generators=step_generators(backbone.latent_shape, row_seeds),
            on_batch=count,
        )
        images.append(backbone.decode(latents).cpu().unflatten(0, (len(group), branches)))
    return torch.cat(images)


def _counter(on_batch: Callable[[int, int], None] | None, total: int) -> Callable[[], None] | None:
    """A callback without arguments that counts its calls for `on_batch`."""
    if on_batch is None:
        return None
    numbers = iter(range(1, total + 1))
    return lambda: on_batch(next(numbers), total)


def _scale_rows(
    scales: Tensor | Sequence[float] | Sequence[Sequence[float]], num_sliders: int
) -> Float[Tensor, "scales sliders"]:
    try:
        rows = torch.as_tensor(scales, dtype=torch.float32).cpu()
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Expected scales as numbers, or as rows of one number per slider, but got {scales!r}."
        ) from error
    rows = rows.unsqueeze(1) if rows.ndim == 1 else rows
    fits = not bool(rows.any()) if num_sliders == 0 else rows.shape[-1] == num_sliders
    if rows.ndim != 2 or not len(rows) or not fits:
        wanted = f"{num_sliders} per column of images" if num_sliders else "zeros, since no slider is given"
        raise InputError(f"Expected slider scales to be {wanted}, but got {rows.tolist()}; change scales or sliders.")
    return rows
