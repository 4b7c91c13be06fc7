"""Images of prompts, seeds and slider scales: seeds x scales in full batches, the common start computed once."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from slider_lightning.adapters.bank import SliderBank
from slider_lightning.backbone import Backbone, SamplerConfig, count_unet_calls, initial_noise, sample, step_generators
from slider_lightning.errors import InputError

Scales = Tensor | Sequence[float] | Sequence[Sequence[float]] | Sequence[Sequence[Sequence[float]]]


def generate_images(
    backbone: Backbone,
    bank: SliderBank | None,
    prompts: str | Sequence[str],
    seeds: Sequence[int],
    scales: Scales,
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
        scales: for each column of images the scales of the K sliders; plain numbers do for one slider. With a
            dimension in front they are given image by image, (seeds, columns, K). Without a bank they are zeros.
        config: steps, guidance, scheduler, and when sliders act.
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
    of_images = _scales_of_images(scales, len(seeds), 0 if bank is None else len(bank.sliders))
    branches = of_images.shape[1]
    embeds = backbone.encode_prompts(prompts)
    negative_embeds = backbone.encode_negative_prompt(negative_prompt)
    groups = [list(range(len(seeds)))[start : start + batch_size] for start in range(0, len(seeds), batch_size)]
    rows_of = [None if bank is None else of_images[group].flatten(0, 1) for group in groups]
    total = sum(
        count_unet_calls(backbone, config, rows, len(group) * branches, branches, batch_size)
        for group, rows in zip(groups, rows_of, strict=True)
    )
    count = _counter(on_batch, total)
    images = []
    for group, rows in zip(groups, rows_of, strict=True):
        row_seeds = [seeds[position] for position in group for _ in range(branches)]
        latents = sample(
            backbone,
            bank,
            embeds[group].repeat_interleave(branches),
            negative_embeds,
            initial_noise(backbone.latent_shape, row_seeds),
            rows,
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


def _scales_of_images(scales: Scales, num_seeds: int, num_sliders: int) -> Float[Tensor, "seeds scales sliders"]:
    try:
        given = torch.as_tensor(scales, dtype=torch.float32).cpu()
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Expected scales as numbers, or as rows of one number per slider, but got {scales!r}."
        ) from error
    columns = given[:, None] if given.ndim == 1 else given
    fits = not bool(columns.any()) if num_sliders == 0 else columns.shape[-1:] == (num_sliders,)
    of_images = columns if columns.ndim == 3 else columns.expand(num_seeds, *columns.shape)
    if of_images.ndim != 3 or len(of_images) != num_seeds or not of_images.numel() or not fits:
        wanted = f"{num_sliders} per column of images" if num_sliders else "zeros, since no slider is given"
        raise InputError(
            f"Expected slider scales to be {wanted}, for all seeds or for each of {num_seeds}, but got "
            f"{given.tolist()}; change scales or sliders."
        )
    return of_images
