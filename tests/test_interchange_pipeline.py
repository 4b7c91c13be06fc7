"""The same seed gives the same image through our sampler and through diffusers' pipeline with the exported files."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from slider_lightning.adapters import AdapterConfig, Slider, SliderBank, SliderMetadata, save_slider
from slider_lightning.adapters.layouts import SUFFIXES
from slider_lightning.backbone import Backbone, SamplerConfig, initial_noise, load_backbone
from slider_lightning.generation import generate_images

PROMPT, SEED = "image of a person", 3
# A pipeline has no delayed start: the slider acts from the first step.
SAMPLER = SamplerConfig(num_inference_steps=3, guidance_scale=4.0, start_timestep=1000)
# Other ranks, alphas and layer sets side by side; noxattn and full hold every kind of convolution.
CONFIGS = (AdapterConfig(3, 1.5, "full"), AdapterConfig(4, 4.0, "noxattn"), AdapterConfig(2, 0.7, "xattn"))
SCALES = {"up": [2.0], "down": [-1.5], "three": [1.0, -2.0, 1.5]}
# Of the pixel range: the two ways add up the same terms in another order, in fp32.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def frozen(pipeline_folder: Path) -> Backbone:
    return load_backbone(str(pipeline_folder), dtype="float32")


@pytest.fixture(scope="module")
def sliders(frozen: Backbone) -> list[Slider]:
    made = [Slider(frozen.unet, config, seed=seed) for seed, config in enumerate(CONFIGS)]
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for slider in made:
            for path in slider.layer_paths:
                slider.adapter(path).lora_up.normal_(std=0.1, generator=generator)
    return made


@pytest.fixture(scope="module")
def ours(frozen: Backbone, sliders: list[Slider]) -> dict[str, Tensor]:
    """The images of our sampler, and the one without sliders."""
    images = {}
    for name, scales in SCALES.items():
        with SliderBank(frozen.unet, sliders[: len(scales)]) as bank:
            images[name] = generate_images(frozen, bank, PROMPT, [SEED], [scales], SAMPLER)[0, 0]
    images["none"] = generate_images(frozen, None, PROMPT, [SEED], [0.0], SAMPLER)[0, 0]
    return images


def theirs(folder: Path, latents: Tensor, files: Sequence[Path], scales: Sequence[float]) -> Tensor:
    """The image of diffusers' own pipeline with the files loaded as its users load them."""
    pipe = StableDiffusionXLPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    names = [f"slider{number}" for number in range(len(files))]
    for name, file in zip(names, files, strict=True):
        pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name=name)
    pipe.set_adapters(names, list(scales))
    result = pipe(
        PROMPT,
        latents=latents,
        num_inference_steps=SAMPLER.num_inference_steps,
        guidance_scale=SAMPLER.guidance_scale,
        height=64,
        width=64,
        output_type="pt",
    )
    return result.images[0]


@pytest.mark.parametrize("case", SCALES)
@pytest.mark.parametrize("layout", ["peft", "native", "kohya", "released"])
def test_diffusers_draws_our_image(
    tmp_path: Path,
    pipeline_folder: Path,
    frozen: Backbone,
    sliders: list[Slider],
    ours: dict[str, Tensor],
    layout: str,
    case: str,
) -> None:
    scales, files = SCALES[case], []
    for number, slider in enumerate(sliders[: len(scales)]):
        files.append(tmp_path / f"{number}{SUFFIXES[layout]}")
        save_slider(files[-1], slider, SliderMetadata.of(slider.config), layout=layout)
    image = theirs(pipeline_folder, initial_noise(frozen.latent_shape, [SEED]), files, scales)
    assert (image - ours[case]).abs().max() < TOLERANCE
    assert (ours[case] - ours["none"]).abs().max() > 100 * TOLERANCE
