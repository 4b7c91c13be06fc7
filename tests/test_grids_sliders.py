"""Sliders as a method of a grid, on the smallest real SDXL."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from evaluation.grids import GridSpec, PromptSet, SliderMethod, base_grid, make_grid
from slider_lightning.adapters import AdapterConfig, Slider, SliderBank, SliderMetadata, load_slider, save_slider
from slider_lightning.backbone import Backbone, SamplerConfig, images_to_pil, pil_to_images
from slider_lightning.errors import InputError
from slider_lightning.generation import generate_images

SPEC = GridSpec(PromptSet("two", ("a man", "a woman"), ("image of {}",)), seeds_per_prompt=2, first_seed=5)
SAMPLER = SamplerConfig(num_inference_steps=3, guidance_scale=3.0)


def slider_file(backbone: Backbone, path: Path, seed: int = 0) -> str:
    slider = Slider(backbone.unet, AdapterConfig(rank=2, alpha=2.0), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in slider.parameters():
        torch.nn.init.normal_(parameter.data, std=0.2, generator=generator)
    save_slider(path, slider, SliderMetadata(rank=2, alpha=2.0, layers="noxattn"))
    return str(path)


def rounded(images: Tensor) -> Tensor:
    return pil_to_images(images_to_pil(images))


def test_a_slider_grid_shows_what_the_slider_does(tmp_path: Path, backbone: Backbone) -> None:
    method = SliderMethod("concept_slider", (slider_file(backbone, tmp_path / "age.safetensors"),))
    grid = make_grid(tmp_path, backbone, method, SPEC, (-1, 1.5), SAMPLER, batch_size=3)
    base = base_grid(tmp_path, backbone, SPEC, SAMPLER, batch_size=3)
    bank = SliderBank(backbone.unet, [load_slider(method.files[0])[0]])
    prompts, seeds = [row.prompt for row in SPEC.rows], [row.seed for row in SPEC.rows]
    expected = generate_images(backbone, bank, prompts, seeds, (-1, 0, 1.5), SAMPLER, batch_size=1)
    for column, (found, scale) in enumerate([(grid, -1.0), (base, 0.0), (grid, 1.5)]):
        assert (found.images(scale) - rounded(expected[:, column])).abs().max() <= 1.01 / 255
    assert (grid.images(-1.0) - grid.images(1.5)).abs().max() > 0.05
    lost = grid.folder / "images" / "000-000006--1.png"
    content = lost.read_bytes()
    lost.unlink()
    make_grid(tmp_path, backbone, method, SPEC, (-1, 1.5), SAMPLER, batch_size=3)
    assert lost.read_bytes() == content


def test_several_sliders_turn_together(tmp_path: Path, backbone: Backbone) -> None:
    files = tuple(slider_file(backbone, tmp_path / f"{seed}.safetensors", seed) for seed in (0, 1))
    images = SliderMethod("both", files).generate(backbone, SPEC.rows[:1], (0.5, 1.0), SAMPLER, batch_size=4)
    bank = SliderBank(backbone.unet, [load_slider(file)[0] for file in files])
    row = SPEC.rows[0]
    expected = generate_images(backbone, bank, row.prompt, [row.seed], [[0.5, 0.5], [1, 1]], SAMPLER)
    assert torch.equal(images, expected)
    alone = generate_images(backbone, bank, row.prompt, [row.seed], [[0.5, 0], [1, 0]], SAMPLER)
    assert (images - alone).abs().max() > 1e-2


def test_weights_make_scales_of_their_own_and_another_grid(tmp_path: Path, backbone: Backbone) -> None:
    files = tuple(slider_file(backbone, tmp_path / f"{seed}.safetensors", seed) for seed in (0, 1))
    weighted = SliderMethod("both", files, (1.0, -0.5))
    images = weighted.generate(backbone, SPEC.rows[:1], (2.0,), SAMPLER, batch_size=4)
    bank = SliderBank(backbone.unet, [load_slider(file)[0] for file in files])
    row = SPEC.rows[0]
    assert torch.equal(images, generate_images(backbone, bank, row.prompt, [row.seed], [[2.0, -1.0]], SAMPLER))
    assert weighted.depends_on() != SliderMethod("both", files).depends_on()
    with pytest.raises(InputError, match="weight for each of 2"):
        SliderMethod("both", files, (1.0,))


def test_the_key_follows_the_weights_and_nothing_else(tmp_path: Path, backbone: Backbone) -> None:
    first, same = (slider_file(backbone, tmp_path / f"{name}.safetensors") for name in ("first", "same"))
    slider, metadata = load_slider(same)
    save_slider(same, slider, replace(metadata, useful_scales=(-1, 1)))
    other = slider_file(backbone, tmp_path / "other.safetensors", seed=1)
    keys = [SliderMethod("s", files).depends_on() for files in ((first,), (same,), (other,), (first, other))]
    slider.config = AdapterConfig(rank=2, alpha=3.0)
    save_slider(same, slider, replace(metadata, alpha=3.0))
    keys.append(SliderMethod("s", (same,)).depends_on())
    assert keys[0] == keys[1]
    assert len({str(key) for key in keys}) == 4


def test_the_unet_is_left_as_it_was_found_even_after_a_failure(tmp_path: Path, backbone: Backbone) -> None:
    method = SliderMethod("concept_slider", (slider_file(backbone, tmp_path / "age.safetensors"),))
    before = {key: value.clone() for key, value in backbone.unet.state_dict().items()}
    method.generate(backbone, SPEC.rows[:1], (1.0,), SAMPLER, batch_size=2)
    with pytest.raises(InputError, match="finite"):
        method.generate(backbone, SPEC.rows[:1], (1.0, float("nan")), SAMPLER, batch_size=2)
    assert not any(module._forward_hooks for module in backbone.unet.modules())
    assert all(torch.equal(value, before[key]) for key, value in backbone.unet.state_dict().items())


@pytest.mark.parametrize(("place", "message"), [("none.safetensors", "there is none"), ("", "config.yaml")])
def test_a_slider_that_is_not_there_is_named(tmp_path: Path, backbone: Backbone, place: str, message: str) -> None:
    method = SliderMethod("concept_slider", (str(tmp_path / place),))
    with pytest.raises(InputError, match=message):
        make_grid(tmp_path / "grids", backbone, method, SPEC, (1,), SAMPLER, batch_size=3)
    with pytest.raises(InputError, match="at least one slider"):
        SliderMethod("concept_slider", ())
