"""Photographs of any shape, diffusers' pipelines with sliders on, and the command."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline
from PIL import Image
from torch import Tensor

from slider_lightning.adapters import AdapterConfig, Slider, SliderMetadata, save_slider
from slider_lightning.backbone import Backbone, images_to_pil, load_backbone
from slider_lightning.config import CONF, build
from slider_lightning.edit import edit
from slider_lightning.errors import InputError
from slider_lightning.generation import (
    Img2ImgEdit,
    InpaintEdit,
    Photographs,
    encode_pictures,
    fidelity,
    read_photograph,
)
from slider_lightning.generation.photographs import read_mask
from tests.conftest import composed
from tests.test_inversion import bank_of

PROMPT = "a photo of an old man"
SETTINGS: dict[str, Any] = {"strength": 0.6, "num_inference_steps": 5, "guidance_scale": 3.0, "seed": 7}
# The same operations in batches of another size; see the tests of the sampler.
SAME = 1e-3


def picture(height: int = 64, width: int = 64) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """White in a rectangle that the latents' cells of 4 pixels fill."""
    drawn = Image.new("L", (64, 64))
    drawn.paste(255, (16, 8, 48, 40))
    drawn.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def edited(
    backbone: Backbone, method: Img2ImgEdit, scales: list[list[float]], photographs: Photographs | None = None
) -> Tensor:
    photographs = photographs or encode_pictures(backbone, [picture()])
    with bank_of(backbone) as bank:
        return method.edit(backbone, bank, photographs, [PROMPT] * len(photographs), torch.tensor(scales))


# Photographs


def test_a_photograph_is_turned_flattened_and_told_its_true_size(backbone: Backbone, tmp_path: Path) -> None:
    image = picture(100, 200)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: to be turned by a quarter
    image.save(tmp_path / "turned.png", exif=exif)
    image.convert("L").save(tmp_path / "grey.png")
    Image.new("RGBA", (100, 100), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    turned, grey = (read_photograph(backbone, tmp_path / f"{name}.png") for name in ("turned", "grey"))
    clear = read_photograph(backbone, tmp_path / "clear.png", background="blue")
    assert turned.images.shape[-2] > turned.images.shape[-1]
    assert grey.images.shape[-2:] == turned.images.shape[-2:][::-1]
    assert turned.time_ids[0, :2].tolist() == [200, 100]
    assert turned.time_ids[0, 4:].tolist() == list(turned.images.shape[-2:])
    assert turned.mean.shape[-2] == turned.images.shape[-2] // backbone.vae_scale_factor
    assert torch.equal(grey.images[:, 0], grey.images[:, 2])
    assert clear.images[0, :, 5, 5].tolist() == [0, 0, 1]
    with pytest.raises(InputError, match=r"none\.png"):
        read_photograph(backbone, tmp_path / "none.png")


def test_a_mask_goes_where_the_photograph_went(backbone: Backbone, tmp_path: Path) -> None:
    image = Image.new("RGB", (150, 100))
    image.paste((255, 255, 255), (0, 0, 75, 100))
    image.save(tmp_path / "half.png")
    photograph = read_photograph(backbone, tmp_path / "half.png")
    inside = read_mask(tmp_path / "half.png", photograph)
    assert torch.equal(inside, photograph.images[0, 0] >= 0.5)
    assert 0 < int(inside.sum()) < inside.numel()
    Image.new("L", (75, 50)).save(tmp_path / "small.png")
    with pytest.raises(InputError, match="150 x 100, but it has 75 x 50"):
        read_mask(tmp_path / "small.png", photograph)


def test_fidelity_knows_equal_images_and_the_mean_squared_error() -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) / 2
    same, brighter = fidelity(torch.stack([images[0], images[1] + 0.1]), images)
    assert (same.squared_error, same.similarity) == (0, pytest.approx(1))
    assert brighter.squared_error == pytest.approx(0.01, rel=1e-3)
    assert brighter.similarity < 1


# diffusers' pipelines


@pytest.mark.parametrize("scheduler", [None, "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler"])
def test_img2img_at_scale_0_is_the_plain_pipeline(
    backbone: Backbone, pipeline_folder: Path, scheduler: str | None
) -> None:
    method = Img2ImgEdit(**SETTINGS, scheduler=scheduler)
    images = edited(backbone, method, [[0.0], [1.0]])
    plain = StableDiffusionXLImg2ImgPipeline.from_pretrained(pipeline_folder, add_watermarker=False)
    plain.scheduler = method._pipeline(backbone).scheduler
    plain.set_progress_bar_config(disable=True)
    expected = plain(PROMPT, image=picture(), output_type="pt", **call_arguments()).images
    assert (images[0, 0] - expected[0]).abs().max() < SAME
    assert (images[0, 1] - expected[0]).abs().max() > 10 * SAME
    assert backbone.sample_forwards == method.sample_forwards(backbone, 1, 2)


def test_inpainting_at_scale_0_is_the_plain_pipeline_inside_the_mask_and_the_photograph_outside(
    backbone: Backbone, pipeline_folder: Path, mask: Path
) -> None:
    photographs = encode_pictures(backbone, [picture()])
    images = edited(backbone, InpaintEdit(**SETTINGS, mask=str(mask)), [[0.0], [1.0]], photographs)
    plain = StableDiffusionXLInpaintPipeline.from_pretrained(pipeline_folder, add_watermarker=False)
    plain.set_progress_bar_config(disable=True)
    sizes = {"height": 64, "width": 64}
    expected = plain(
        PROMPT, image=picture(), mask_image=Image.open(mask), output_type="pt", **sizes, **call_arguments()
    ).images
    inside = read_mask(mask, photographs).expand(3, -1, -1)
    assert (images[0, 0] - expected[0])[inside].abs().max() < SAME
    assert (images[0, 1] - images[0, 0])[inside].abs().max() > 10 * SAME
    for column in range(2):
        assert torch.equal(images[0, column][~inside], photographs.images[0][~inside])


def call_arguments() -> dict[str, Any]:
    seed = SETTINGS["seed"]
    return {
        **{name: value for name, value in SETTINGS.items() if name != "seed"},
        "generator": torch.Generator().manual_seed(seed),
    }


def test_sliders_of_a_pipeline_start_late_and_end_with_the_call(backbone: Backbone) -> None:
    timesteps = Img2ImgEdit(**SETTINGS)._timesteps(Img2ImgEdit(**SETTINGS)._pipeline(backbone))
    between = int(sum(timesteps[:2]) / 2)
    on, late, never = (
        edited(backbone, Img2ImgEdit(**SETTINGS, start_timestep=start), [[1.0]]) for start in (1000, between, 0)
    )
    off = edited(backbone, Img2ImgEdit(**SETTINGS), [[0.0]])
    assert torch.allclose(never, off, atol=SAME)
    assert (late - off).abs().max() > 5 * SAME
    assert (late - on).abs().max() > 5 * SAME


def test_an_error_in_a_call_takes_its_sliders_off(backbone: Backbone) -> None:
    method = Img2ImgEdit(**SETTINGS, start_timestep=1000)
    photographs = encode_pictures(backbone, [picture()])

    def stop(_: int) -> None:
        raise RuntimeError("interrupted")

    with bank_of(backbone) as bank:
        with pytest.raises(RuntimeError, match="interrupted"):
            method.edit(backbone, bank, photographs, [PROMPT], torch.tensor([[1.0]]), on_forwards=stop)
        assert bank._plan is None


def test_half_precision_leaves_the_vae_as_it_was(pipeline_folder: Path) -> None:
    backbone = load_backbone(str(pipeline_folder), dtype="bfloat16")
    before = backbone.vae.dtype
    images = edited(backbone, Img2ImgEdit(**SETTINGS), [[0.0], [1.0]])
    assert images.isfinite().all()
    assert backbone.vae.dtype == before


def test_photographs_of_other_sizes_and_prompts_keep_to_their_own(backbone: Backbone) -> None:
    parts = [encode_pictures(backbone, [picture(side, side)]) for side in (64, 96, 64)]
    together = edited(backbone, Img2ImgEdit(**SETTINGS), [[0.0], [1.0]], Photographs.cat(parts))
    for number, part in enumerate(parts):
        alone = edited(backbone, Img2ImgEdit(**SETTINGS), [[0.0], [1.0]], part)
        assert (together[number] - alone[0]).abs().max() < SAME


@pytest.mark.parametrize("settings", [{"strength": 0.0}, {"strength": 0.1}, {"start_timestep": 2000}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Img2ImgEdit(**{**SETTINGS, **settings})


# The command


@pytest.mark.parametrize("method", sorted(path.stem for path in (CONF / "method").glob("*.yaml")))
def test_every_method_is_built(method: str) -> None:
    given = ["method.mask=FILE"] if method == "inpaint" else []
    build(composed("edit", "image=FILE", "sliders=[FILE]", f"method={method}", *given)["method"], "method.")


@pytest.fixture
def command(backbone: Backbone, pipeline_folder: Path, tmp_path: Path) -> list[str]:
    """A command on two photographs of other shapes and a slider with random weights."""
    slider = Slider(backbone.unet, AdapterConfig(rank=2, alpha=2.0), seed=0)
    for parameter in slider.parameters():
        torch.nn.init.normal_(parameter.data, std=0.2)
    save_slider(
        tmp_path / "slider.safetensors", slider, SliderMetadata(layers=AdapterConfig().layers, rank=2, alpha=2.0)
    )
    picture(100, 100).save(tmp_path / "a.png")
    picture(100, 180).convert("L").save(tmp_path / "b.jpg")
    return [
        f"image=[{tmp_path}/a.png,{tmp_path}/b.jpg]",
        f"sliders=[{tmp_path}/slider.safetensors]",
        f"model.path={pipeline_folder}",
        f"out={tmp_path}/out",
        "scales=[-1,0,[2]]",
        "method.num_inference_steps=4",
    ]


def test_the_command_writes_strips_images_and_how_near_they_are(command: list[str], backbone: Backbone) -> None:
    folder = edit(composed("edit", *command))
    told = json.loads((folder / "fidelity.json").read_text())
    assert list(told) == ["00_a", "01_b"]
    for name, found in told.items():
        files = sorted(path.stem for path in (folder / name).iterdir())
        assert files == sorted(["original", "round_trip", "-1", "0", "+2"])
        assert found["0"]["squared_error"] == pytest.approx(found["round trip"]["squared_error"], rel=0.01)
    assert len(list(folder.glob("strip_*.png"))) == 2
    assert Image.open(folder / "01_b" / "0.png").width > Image.open(folder / "01_b" / "0.png").height
    original = images_to_pil(read_photograph(backbone, folder / "00_a" / "original.png").images)[0]
    assert np.array_equal(np.asarray(original), np.asarray(Image.open(folder / "00_a" / "original.png")))


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("prompt=[a man]", "one for each of 2"),
        ("image=[]", "at least one file"),
        ("scales=[[1,2]]", "scales"),
        ("background=nocolour", "colour"),
    ],
)
def test_requests_that_do_not_fit_are_refused(command: list[str], override: str, word: str) -> None:
    with pytest.raises(InputError, match=word):
        edit(composed("edit", *command, override))
