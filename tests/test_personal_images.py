"""Training images, their draws, and the images of a prior."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.baselines.personal import PriorConfig, folder_digest, prior_images, read_training_images
from evaluation.baselines.personal.data import ExampleLoader, PersonalImages
from evaluation.baselines.personal.draws import Examples, ImageSet, draw_examples
from evaluation.baselines.personal.images import fit_square
from slider_lightning.backbone import Backbone, SamplerConfig, images_to_pil
from slider_lightning.data import Share
from slider_lightning.errors import InputError
from slider_lightning.generation import generate_images
from tests.personal_training import random_images, settings

SAMPLER = SamplerConfig(num_inference_steps=2, guidance_scale=1.0)


def test_images_keep_their_proportions_and_lose_what_sticks_out() -> None:
    """Stripes of 16 px in an image twice as wide as high: the middle half is kept, at half its size."""
    wide = torch.zeros(1, 3, 128, 256)
    wide[..., 64:192] = 1.0
    wide[..., 120:136] = 0.5
    square = fit_square(wide, 64)
    assert square.shape == (1, 3, 64, 64)
    column = square[0, 0, 32]
    assert column[4:26].min() > 0.99
    assert column[30:34] == pytest.approx(torch.full((4,), 0.5), abs=0.02)
    torch.testing.assert_close(fit_square(wide.mT, 64), square.mT)


def test_an_image_of_the_right_height_is_only_cut() -> None:
    images = random_images(1)
    assert torch.equal(fit_square(images, 64), images)
    wide = torch.cat([torch.zeros(1, 3, 64, 9), images, torch.zeros(1, 3, 64, 9)], dim=-1)
    assert torch.equal(fit_square(wide, 64), images)


def test_small_images_are_enlarged() -> None:
    small = torch.full((1, 3, 20, 30), 0.25)
    torch.testing.assert_close(fit_square(small, 64), torch.full((1, 3, 64, 64), 0.25))


def test_a_folder_of_any_sizes_and_modes_is_read_in_order(tmp_path: Path) -> None:
    Image.new("L", (70, 90), 51).save(tmp_path / "b.png")
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(tmp_path / "c.png")
    Image.new("P", (200, 100)).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("not an image")
    images = read_training_images(tmp_path, 64)
    assert images.shape == (3, 3, 64, 64)
    assert images.mean((1, 2, 3)).tolist() == pytest.approx([0.0, 0.2, 1.0], abs=1e-6)


def test_bad_folders_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is none"):
        read_training_images(tmp_path / "nowhere", 64)
    with pytest.raises(InputError, match="it holds none"):
        read_training_images(tmp_path, 64)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"broken\.png to be an image.*no format that Pillow knows"):
        read_training_images(tmp_path, 64)
    Image.new("F", (64, 64), 0.5).save(tmp_path / "broken.png", format="TIFF")
    with pytest.raises(InputError, match=r"broken\.png to be an image.*32 bits a channel"):
        read_training_images(tmp_path, 64)


def test_the_digest_of_a_folder_follows_names_and_bytes(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    first = folder_digest(tmp_path)
    assert first == folder_digest(tmp_path)
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    second = folder_digest(tmp_path)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "b.png")
    assert len({first, second, folder_digest(tmp_path)}) == 3


def image_set(count: int, variants: int = 1) -> ImageSet:
    """Latents whose values tell image and variant."""
    index = torch.arange(count)[:, None] + torch.arange(variants) / 10
    return ImageSet(index[..., None, None, None].expand(count, variants, 4, 8, 8), ("a", "b"))


def draw(images: ImageSet, step: int, rows: range, seed: int = 0, global_batch: int = 4) -> Examples:
    return draw_examples(images, step, seed=seed, rows=rows, global_batch=global_batch, num_train_timesteps=1000)


def test_draws_follow_seed_step_and_row_alone() -> None:
    images = image_set(5)
    whole = draw(images, 7, range(4))
    halves = Examples.cat([draw(images, 7, range(2)), draw(images, 7, range(2, 4))])
    for name in ("latents", "noise", "timestep", "prompts"):
        first, second = getattr(whole, name), getattr(halves, name)
        assert first == second if name == "prompts" else torch.equal(first, second)
    for other in (draw(images, 8, range(4)), draw(images, 7, range(4), seed=1)):
        assert not torch.equal(other.noise, whole.noise)
        assert not torch.equal(other.timestep, whole.timestep)
    assert len({tuple(row.flatten().tolist()) for row in whole.noise}) == 4
    prior = ImageSet(images.latents, images.prompts, stream=1)
    assert not torch.equal(draw(prior, 7, range(4)).noise, whole.noise)


def test_every_image_is_used_once_an_epoch_and_everything_is_drawn_evenly() -> None:
    images = image_set(5, variants=2)
    steps = [draw(images, step, range(4)) for step in range(200)]
    used = torch.cat([step.latents[:, 0, 0, 0] for step in steps])
    epochs = used.floor().int().view(-1, 5)
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 20
    mirrored = (used % 1 > 0.05).float().mean()
    prompts = np.mean([prompt == "a" for step in steps for prompt in step.prompts])
    timesteps = torch.cat([step.timestep for step in steps]).double()
    noise = torch.cat([step.noise for step in steps])
    assert mirrored == pytest.approx(0.5, abs=0.06)
    assert prompts == pytest.approx(0.5, abs=0.06)
    assert timesteps.mean() == pytest.approx(499.5, abs=40)
    assert (int(timesteps.min()), int(timesteps.max())) < (20, 1000)
    assert timesteps.max() > 980
    assert (noise.mean(), noise.std()) == (pytest.approx(0, abs=0.01), pytest.approx(1, abs=0.01))


def test_a_loader_goes_on_where_it_was_left() -> None:
    loaders = [
        ExampleLoader([image_set(3)], num_steps=5, share=Share(2), seed=0, num_train_timesteps=1000) for _ in range(2)
    ]
    batches = list(loaders[0])
    assert len(batches) == len(loaders[0]) == 5
    loaders[1].load_state_dict({"next_step": 3})
    rest = list(loaders[1])
    assert [torch.equal(a.concept.noise, b.concept.noise) for a, b in zip(rest, batches[3:], strict=True)] == [True] * 2
    assert loaders[1].state_dict() == {"next_step": 5}


def test_latents_are_encoded_once_with_a_mirrored_variant_where_wanted(backbone: Backbone) -> None:
    images = random_images(3)
    (plain,) = PersonalImages(images, ("a",)).encode(backbone)
    both, prior = PersonalImages(images, ("a",), flip=True, prior=images[:2], prior_prompt="b").encode(backbone)
    assert torch.equal(plain.latents[:, 0], backbone.encode_images(images))
    assert torch.equal(both.latents[:, 1], backbone.encode_images(images.flip(-1)))
    assert torch.equal(prior.latents[:, 0], plain.latents[:2, 0])
    assert (both.prompts, prior.prompts, both.stream, prior.stream) == (("a",), ("b",), 0, 1)


def test_the_prior_is_made_once_by_the_frozen_model(backbone: Backbone, tmp_path: Path) -> None:
    prior = PriorConfig("a person", num_images=3, batch_size=2)
    made = prior_images(backbone, prior, SAMPLER, tmp_path)
    forwards = backbone.sample_forwards
    assert torch.equal(prior_images(backbone, prior, SAMPLER, tmp_path), made)
    assert backbone.sample_forwards == forwards
    expected = generate_images(backbone, None, "a person", [500_000, 500_001, 500_002], [0.0], SAMPLER)[:, 0]
    torch.testing.assert_close(made, expected, atol=0.51 / 255, rtol=0)
    assert not torch.equal(made[0], made[1])


def test_a_prior_may_come_from_a_folder(backbone: Backbone, tmp_path: Path) -> None:
    images_to_pil(random_images(1))[0].save(tmp_path / "a.png")
    prior = PriorConfig("a person", folder=str(tmp_path))
    assert torch.equal(prior_images(backbone, prior, SAMPLER, tmp_path), read_training_images(tmp_path, 64))
    assert backbone.sample_forwards == 0


@pytest.mark.parametrize(
    ("kind", "change", "word"),
    [
        ("textual_inversion", {"templates": ("a person",)}, "templates"),
        ("textual_inversion", {"templates": ()}, "templates"),
        ("textual_inversion", {"batch_size": 0}, "batch_size"),
        ("textual_inversion", {"token": "eyes"}, "angle brackets"),
        ("textual_inversion", {"num_vectors": 0}, "num_vectors"),
        ("textual_inversion", {"prior": PriorConfig("a person")}, "no prior"),
        ("dreambooth", {}, "kind"),
    ],
)
def test_settings_out_of_range_are_refused(kind: str, change: dict, word: str) -> None:
    with pytest.raises(InputError, match=word):
        settings(kind, **change)


@pytest.mark.parametrize("change", [{"num_images": 0}, {"weight": 0.0}, {"batch_size": 0}])
def test_a_prior_out_of_range_is_refused(change: dict) -> None:
    with pytest.raises(InputError, match="prior's"):
        PriorConfig("a person", **change)
