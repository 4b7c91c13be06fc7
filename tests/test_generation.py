"""Seeds x scales, the strip, and pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from slider_lightning.adapters import AdapterConfig, Slider, SliderBank
from slider_lightning.backbone import Backbone, SamplerConfig, images_to_pil, initial_noise, pil_to_images, sample
from slider_lightning.errors import InputError
from slider_lightning.generation import draw_strip, format_scales, generate_images, save_image, strip_title

CONFIG = SamplerConfig(num_inference_steps=4, guidance_scale=3.0, start_timestep=600)


@pytest.fixture
def bank(backbone: Backbone) -> SliderBank:
    sliders = [Slider(backbone.unet, AdapterConfig(rank=2, alpha=2.0), seed=seed) for seed in (0, 1)]
    generator = torch.Generator().manual_seed(0)
    for slider in sliders:
        for parameter in slider.parameters():
            torch.nn.init.normal_(parameter.data, std=0.2, generator=generator)
    return SliderBank(backbone.unet, sliders)


def test_every_seed_has_its_prompt_and_every_column_its_scales(backbone: Backbone, bank: SliderBank) -> None:
    prompts, seeds, scales = ["a man", "a woman", "a man"], [5, 5, 9], [[0.0, 0.0], [1.0, -1.0]]
    progress: list[tuple[int, int]] = []
    images = generate_images(
        backbone, bank, prompts, seeds, scales, CONFIG, batch_size=2, on_batch=lambda *counts: progress.append(counts)
    )
    assert images.shape == (3, 2, 3, 64, 64)
    assert 0 <= images.min() < images.max() <= 1
    for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        for column, scale_row in enumerate(scales):
            noise, embeds = initial_noise(backbone.latent_shape, [seed]), backbone.encode_prompts([prompt])
            negative_embeds, rows = backbone.encode_negative_prompt(), torch.tensor([scale_row])
            alone = backbone.decode(sample(backbone, bank, embeds, negative_embeds, noise, rows, CONFIG))
            assert (images[row, column] - alone[0]).abs().max() < 1e-3
    assert (images[:, 0] - images[:, 1]).abs().amax(dim=(1, 2, 3)).min() > 0.01
    assert (images[0] - images[1]).abs().max() > 0.01
    # Two steps above 600, two below; a group of two seeds takes 1 call above and 2 below, a single seed 1 and 1.
    assert progress == [(done, 10) for done in range(1, 11)]


def test_cost_is_counted_to_the_row(backbone: Backbone, bank: SliderBank) -> None:
    generate_images(backbone, bank, "a person", [1, 2, 3], [[0, 0], [1, 0], [2, 0]], CONFIG, batch_size=4)
    assert backbone.sample_forwards == 2 * (2 * 3 + 2 * 9)


def test_without_a_bank_the_model_itself_is_sampled(backbone: Backbone, bank: SliderBank) -> None:
    bare = generate_images(backbone, None, "a person", [1, 2], [0.0], CONFIG)
    zero = generate_images(backbone, bank, "a person", [1, 2], [[0.0, 0.0]], CONFIG, batch_size=1)
    assert bare.shape == (2, 1, 3, 64, 64)
    assert torch.allclose(bare, zero, atol=1e-4)
    negative = generate_images(backbone, None, "a person", [1, 2], [0.0], CONFIG, negative_prompt="a man")
    assert (negative - bare).abs().max() > 1e-3


def test_plain_numbers_are_scales_of_one_slider(backbone: Backbone) -> None:
    bank = SliderBank(backbone.unet, [Slider(backbone.unet, AdapterConfig())])
    assert generate_images(backbone, bank, "a person", [1], (-1, 0, 1), CONFIG).shape[:2] == (1, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": ["a man"]}, "2 seeds, 1 prompts"),
        ({"seeds": []}, "0 seeds"),
        ({"batch_size": 0}, "a batch of 0"),
        ({"scales": [0.0, 1.0]}, "2 per column of images"),
        ({"scales": "old"}, "scales as numbers"),
        ({"scales": []}, "2 per column of images"),
        ({"bank": None, "scales": [1.0]}, "zeros, since no slider is given"),
    ],
)
def test_requests_that_do_not_fit_are_refused(
    backbone: Backbone, bank: SliderBank, arguments: dict, message: str
) -> None:
    request = {
        "bank": bank,
        "prompts": "a person",
        "seeds": [1, 2],
        "scales": [[0.0, 1.0]],
        "config": CONFIG,
    } | arguments
    with pytest.raises(InputError, match=message):
        generate_images(backbone, **request)


# The strip


def test_the_strip_shows_every_image_enlarged_and_unsmoothed() -> None:
    images = torch.linspace(0.1, 0.8, 6).view(2, 3, 1, 1, 1).expand(2, 3, 3, 64, 64)
    title = strip_title("age", "a photo of a person with a prompt that is far too long for one line of this strip", 750)
    strip = np.asarray(draw_strip(images, [0, 1234567], [-2, 0.0, [1, -0.5]], title))
    for value in (images[:, :, 0, 0, 0] * 255).round().flatten().tolist():
        mask = (strip == int(value)).all(axis=-1)
        rows, columns = np.where(mask.sum(1) >= 128)[0], np.where(mask.sum(0) >= 128)[0]
        assert (len(rows), len(columns)) == (128, 128)
    assert (strip[:20] < 128).any()
    assert (strip[20:40] < 128).any()
    assert (strip[:, :3] == 255).all()
    assert (strip[:, -3:] == 255).all()


def test_large_images_are_not_enlarged() -> None:
    strip = draw_strip(torch.zeros(1, 2, 3, 128, 128), ["seed"], ["-1", "+1"], "title")
    assert (np.asarray(strip) == 0).all(axis=-1).sum() >= 2 * 128 * 128
    assert strip.width < 400


def test_labels_must_match() -> None:
    with pytest.raises(ValueError, match="1 row and 2 column labels"):
        draw_strip(torch.zeros(1, 2, 3, 64, 64), ["a"], ["b"], "title")


@pytest.mark.parametrize(
    ("label", "text"), [(-2, "-2"), (0.0, "0"), (0.5, "+0.5"), ((1, -2), "+1, -2"), ("base", "base")]
)
def test_format_scales(label: object, text: str) -> None:
    assert format_scales(label) == text


def test_an_image_is_saved_whole(tmp_path: Path) -> None:
    strip = draw_strip(torch.rand(1, 1, 3, 64, 64), ["a"], [1], "title")
    path = save_image(strip, tmp_path / "run" / "strip.png")
    assert (np.asarray(Image.open(path)) == np.asarray(strip)).all()
    assert list(path.parent.iterdir()) == [path]


# Pixels


def test_pixels_round_trip() -> None:
    images = torch.randint(0, 256, (4, 3, 8, 10)) / 255
    assert torch.equal(pil_to_images(images_to_pil(images)), images)
    outside = images_to_pil(torch.tensor([-1.0, 0.4999, 2.0]).view(3, 1, 1, 1).expand(3, 3, 1, 1))
    assert [image.getpixel((0, 0))[0] for image in outside] == [0, 127, 255]


def test_every_mode_of_image_is_read() -> None:
    grey = Image.fromarray(np.full((2, 3), 51, np.uint8))
    deep = Image.fromarray(np.full((2, 3), 51 * 257, np.uint16))
    colour = Image.new("RGB", (3, 2), (255, 0, 51))
    clear = Image.new("RGBA", (3, 2), (0, 0, 0, 0))
    images = pil_to_images([grey, deep, colour, colour.convert("P", palette=Image.Palette.ADAPTIVE), clear])
    expected = torch.tensor([[0.2] * 3, [0.2] * 3, [1, 0, 0.2], [1, 0, 0.2], [1] * 3])
    assert torch.allclose(images, expected[:, :, None, None].expand(5, 3, 2, 3))
    with pytest.raises(ValueError, match="one size"):
        pil_to_images([grey, Image.new("L", (9, 9))])


def test_scales_can_be_given_image_by_image(backbone: Backbone, bank: SliderBank) -> None:
    scales = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[-1.0, 0.0], [0.5, 0.5]]])
    images = generate_images(backbone, bank, "a man", [5, 9], scales, CONFIG)
    for row, seed in enumerate([5, 9]):
        alone = generate_images(backbone, bank, "a man", [seed], scales[row], CONFIG)
        assert (images[row] - alone[0]).abs().max() < 1e-3
    with pytest.raises(InputError, match="for each of 3"):
        generate_images(backbone, bank, "a man", [5, 9, 1], scales, CONFIG)
