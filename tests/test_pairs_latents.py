"""Encoded twins: what the VAE makes of the images at their buckets, kept on disk, and never made twice."""

import dataclasses
import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from slider_lightning.backbone import Backbone, load_backbone, pil_to_images
from slider_lightning.data.pairs import LatentTwins, Twins, bucket_for, encode_twins, open_picture, place
from slider_lightning.data.pairs.latents import size_multiple
from slider_lightning.errors import InputError

SCALES = (-1.0, 1.0)


def twins_of(
    folder: Path, name: str, size: tuple[int, int] = (64, 64), scales: Sequence[float] = SCALES, mode: str = "RGB"
) -> Twins:
    """Random images of (width, height), one per scale."""
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for number, scale in enumerate(scales):
        generator = np.random.default_rng([number, *name.encode()])
        path = folder / f"{name}-{number}.png"
        Image.fromarray(generator.integers(0, 256, (size[1], size[0], len(mode)), np.uint8), mode).save(path)
        images.append((scale, path))
    return Twins(name, tuple(images))


def encoded(backbone: Backbone, twins: Sequence[Twins], cache: Path, **options: str) -> tuple[list, list]:
    """The latents, and what was reported of encoding."""
    reports: list[tuple[int, int]] = []
    latents = encode_twins(backbone, twins, cache, on_progress=lambda *done: reports.append(done), **options)
    return list(latents), reports


def assert_equal(one: Sequence[LatentTwins], other: Sequence[LatentTwins]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.name == b.name
        for field in ("scales", "mean", "std", "time_ids"):
            assert torch.equal(getattr(a, field), getattr(b, field)), field
            assert getattr(a, field).dtype == torch.float32


def files(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.safetensors"))


# Values


def test_latents_are_the_posterior_of_each_image(backbone, tmp_path) -> None:
    """Against diffusers' own distribution: shifting and scaling apart, sampling mean + std * noise is its sample."""
    twins = twins_of(tmp_path, "a")
    ((latents,), _) = encoded(backbone, [twins], tmp_path / "cache")
    images = pil_to_images([Image.open(path) for _, path in twins.images])
    with torch.no_grad():
        posterior = backbone.vae.encode(images * 2 - 1).latent_dist
    shift, divisor = backbone._latent_statistics()
    sample = (posterior.sample(torch.Generator().manual_seed(3)) - shift) * divisor
    noise = torch.randn(sample.shape, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(latents.mean + latents.std * noise, sample, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(latents.mean, backbone.encode_images(images))
    assert latents.mean.shape == latents.std.shape == (2, *backbone.latent_shape)
    assert latents.scales.tolist() == [-1, 1]
    assert latents.std.min() > 0


def test_time_ids_of_whole_squares_are_the_backbones(backbone, tmp_path) -> None:
    ((latents,), _) = encoded(backbone, [twins_of(tmp_path, "a")], tmp_path / "cache")
    assert torch.equal(latents.time_ids, backbone._add_time_ids(backbone.device)[0])


@pytest.mark.parametrize(
    ("size", "latent", "time_ids"),
    [
        ((64, 64), (16, 16), (64, 64, 0, 0, 64, 64)),
        ((200, 200), (16, 16), (200, 200, 0, 0, 64, 64)),
        ((31, 31), (16, 16), (31, 31, 0, 0, 64, 64)),
        ((300, 75), (8, 32), (75, 300, 0, 0, 32, 128)),
        ((75, 301), (32, 8), (301, 75, 0, 0, 128, 32)),
        ((97, 61), None, None),
    ],
)
def test_odd_sizes_and_ratios_are_encoded_at_their_bucket(backbone, tmp_path, size, latent, time_ids) -> None:
    twins = twins_of(tmp_path, "a", size)
    ((latents,), _) = encoded(backbone, [twins], tmp_path / "cache")
    assert latents.mean.shape == latents.std.shape
    assert all(side % (size_multiple(backbone) // backbone.vae_scale_factor) == 0 for side in latents.mean.shape[2:])
    if latent is not None:
        assert latents.mean.shape[2:] == latent
        assert tuple(latents.time_ids.tolist()) == time_ids
    bucket = bucket_for(size[::-1], backbone.resolution, size_multiple(backbone))
    placed = [place(open_picture(path), bucket) for _, path in twins.images]
    assert placed[0][1] == placed[1][1], "the same crop for both twins"
    torch.testing.assert_close(latents.mean, backbone.encode_images(pil_to_images([image for image, _ in placed])))
    assert tuple(latents.time_ids.tolist()) == placed[0][1].time_ids()


@pytest.mark.parametrize("size", [(300, 75), (61, 97), (64, 64)])
def test_the_unet_takes_latents_of_every_bucket(backbone, tmp_path, size) -> None:
    ((latents,), _) = encoded(backbone, [twins_of(tmp_path, "a", size)], tmp_path / "cache")
    embeds = backbone.encode_prompts(["", ""])
    assert backbone.predict_noise(latents.mean, 500, embeds).shape == latents.mean.shape


def test_levels_and_sets_of_any_make_keep_their_order(backbone, tmp_path) -> None:
    four = (-2.0, -0.5, 0.25, 3.0)
    twins = [twins_of(tmp_path, "b", scales=four), twins_of(tmp_path, "a", (50, 80)), twins_of(tmp_path, "c")]
    latents, reports = encoded(backbone, twins, tmp_path / "cache")
    assert [each.name for each in latents] == ["b", "a", "c"]
    assert reports == [(1, 3), (2, 3), (3, 3)]
    assert latents[0].scales.tolist() == list(four)
    assert len(latents[0].mean) == 4
    for level, (_, path) in enumerate(twins[0].images):
        alone = backbone.encode_images(pil_to_images([Image.open(path)]))
        torch.testing.assert_close(latents[0].mean[[level]], alone, atol=1e-5, rtol=1e-4)


def test_whole_numbers_as_scales_are_floats_too(backbone, tmp_path) -> None:
    ((latents,), _) = encoded(backbone, [twins_of(tmp_path, "a", scales=(-1, 2))], tmp_path / "cache")
    assert latents.scales.dtype == torch.float32


def test_transparency_is_laid_on_the_background(backbone, tmp_path) -> None:
    clear = twins_of(tmp_path, "a", mode="RGBA")
    opaque = []
    for scale, path in clear.images:
        flat = Image.new("RGBA", (64, 64), "blue")
        flat.alpha_composite(Image.open(path))
        flat.convert("RGB").save(tmp_path / f"opaque-{path.name}")
        opaque.append((scale, tmp_path / f"opaque-{path.name}"))
    ((blue,), _) = encoded(backbone, [clear], tmp_path / "cache", background="blue")
    ((white,), reports) = encoded(backbone, [clear], tmp_path / "cache")
    ((expected,), _) = encoded(backbone, [Twins("a", tuple(opaque))], tmp_path / "cache")
    assert_equal([blue], [expected])
    assert reports == [(1, 1)], "another background is another key"
    assert not torch.equal(white.mean, blue.mean)


# The cache


def test_a_second_use_encodes_nothing_and_reads_the_same_bits(backbone, tmp_path) -> None:
    twins = [twins_of(tmp_path, "a"), twins_of(tmp_path, "b", (40, 90))]
    first, _ = encoded(backbone, twins, tmp_path / "cache")
    backbone.vae = backbone.vae.to("meta")  # it holds no numbers any more: nothing can be encoded
    again, reports = encoded(backbone, twins, tmp_path / "cache")
    assert reports == []
    assert_equal(again, first)


def test_one_more_pair_is_encoded_alone_and_other_scales_are_the_same_files(backbone, tmp_path) -> None:
    a, b = twins_of(tmp_path, "a"), twins_of(tmp_path, "b")
    encoded(backbone, [a], tmp_path / "cache")
    assert encoded(backbone, [b, a], tmp_path / "cache")[1] == [(1, 1)]
    moved = Twins("renamed", tuple((3 * scale, path) for scale, path in a.images))
    (latents,), reports = encoded(backbone, [moved], tmp_path / "cache")
    assert reports == []
    assert latents.name == "renamed"
    assert latents.scales.tolist() == [-3, 3]
    assert len(files(tmp_path / "cache")) == 2


def test_a_changed_image_is_encoded_again(backbone, tmp_path) -> None:
    twins = twins_of(tmp_path, "a")
    before, _ = encoded(backbone, [twins], tmp_path / "cache")
    path = twins.images[1][1]
    image = Image.open(path).convert("RGB")
    image.putpixel((0, 0), (1, 2, 3))
    image.save(path)
    after, reports = encoded(backbone, [twins], tmp_path / "cache")
    assert reports == [(1, 1)]
    assert torch.equal(after[0].mean[0], before[0].mean[0])
    assert not torch.equal(after[0].mean[1], before[0].mean[1])


def test_another_model_resolution_or_dtype_is_another_file(backbone, pipeline_folder, tmp_path) -> None:
    twins = [twins_of(tmp_path, "a")]
    encoded(backbone, twins, tmp_path / "cache")
    larger = load_backbone(str(pipeline_folder), dtype="float32", resolution=128)
    (latents,), reports = encoded(larger, twins, tmp_path / "cache")
    assert reports == [(1, 1)]
    assert latents.mean.shape[2:] == (32, 32)
    assert latents.time_ids.tolist() == [64, 64, 0, 0, 128, 128]
    backbone.fingerprint = "another model"
    assert encoded(backbone, twins, tmp_path / "cache")[1] == [(1, 1)]
    backbone.vae.to(torch.bfloat16)
    assert encoded(backbone, twins, tmp_path / "cache")[1] == [(1, 1)]
    assert len(files(tmp_path / "cache")) == 4


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "header", "foreign"])
def test_a_damaged_file_is_named_and_encoded_again_alone(backbone, tmp_path, caplog, harm) -> None:
    twins = [twins_of(tmp_path, "a"), twins_of(tmp_path, "b")]
    first, _ = encoded(backbone, twins, tmp_path / "cache")
    victim = files(tmp_path / "cache")[0]
    content = bytearray(victim.read_bytes())
    harmed = {
        "flip": content[:-100] + bytes([content[-100] ^ 1]) + content[-99:],
        "cut": content[:-100],
        "empty": b"",
        "header": content[:20] + b"\xff\xff" + content[22:],
        "foreign": b"no safetensors file at all",
    }[harm]
    victim.write_bytes(harmed)
    with caplog.at_level(logging.WARNING):
        again, reports = encoded(backbone, twins, tmp_path / "cache")
    assert victim.name in caplog.text
    assert reports == [(1, 1)]
    assert_equal(again, first)
    assert encoded(backbone, twins, tmp_path / "cache")[1] == []


def test_a_file_says_what_it_was_made_from(backbone, tmp_path) -> None:
    encoded(backbone, [twins_of(tmp_path, "a")], tmp_path / "cache")
    (path,) = files(tmp_path / "cache")
    with safe_open(path, "pt") as file:
        depends_on = json.loads(file.metadata()["depends_on"])
    assert depends_on["model"] == backbone.fingerprint
    assert depends_on["resolution"] == 64
    assert len(depends_on["images"]) == 2


def test_what_a_killed_job_left_is_removed(backbone, tmp_path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ".0123-half.safetensors").write_bytes(b"left by a kill")
    encoded(backbone, [twins_of(tmp_path, "a")], tmp_path / "cache")
    (path,) = files(tmp_path / "cache")
    assert sorted(each.name for each in (tmp_path / "cache").iterdir()) == sorted([".lock", path.name])


def test_a_job_that_was_stopped_goes_on_where_it_stopped(backbone, tmp_path) -> None:
    twins = [twins_of(tmp_path, name) for name in "abc"]

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_twins(backbone, twins, tmp_path / "cache", on_progress=stop)
    assert encoded(backbone, twins, tmp_path / "cache")[1] == [(1, 1)]


def test_concurrent_jobs_encode_once(pipeline_folder, tmp_path) -> None:
    twins = [twins_of(tmp_path, name) for name in "abc"]
    backbones = [load_backbone(str(pipeline_folder), dtype="float32") for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda each: encoded(each, twins, tmp_path / "cache"), backbones))
    assert_equal(results[0][0], results[1][0])
    assert sorted(len(reports) for _, reports in results) == [0, 3]


# Wrong input


def test_nothing_is_encoded_where_any_image_is_wrong(backbone, tmp_path) -> None:
    good, cut, gone, same = (twins_of(tmp_path, name) for name in ("good", "cut", "gone", "same"))
    other = dataclasses.replace(
        twins_of(tmp_path, "other"),
        images=(good.images[0], (1.0, twins_of(tmp_path / "wide", "wide", (65, 64)).images[0][1])),
    )
    cut.images[1][1].write_bytes(cut.images[1][1].read_bytes()[:500])
    gone.images[0][1].unlink()
    same.images[1][1].write_bytes(same.images[0][1].read_bytes())
    with pytest.raises(InputError) as caught:
        encode_twins(backbone, [good, cut, gone, same, other], tmp_path / "cache")
    for name in ("cut-1.png cannot be read", "gone-0.png cannot be read", "same-1.png shows", "wide-0.png has 65 x 64"):
        assert name in str(caught.value)
    assert files(tmp_path / "cache") == []


def test_wrong_arguments_are_one_sentence(backbone, tmp_path) -> None:
    with pytest.raises(InputError, match="at least one pair"):
        encode_twins(backbone, [], tmp_path / "cache")
    with pytest.raises(InputError, match="background to be a colour, but got 'whit'"):
        encode_twins(backbone, [twins_of(tmp_path, "a")], tmp_path / "cache", background="whit")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match="choose another folder"):
        encode_twins(backbone, [twins_of(tmp_path, "a")], tmp_path / "file")


def test_a_vae_that_overflows_is_an_error_and_no_file(backbone, tmp_path) -> None:
    next(backbone.vae.encoder.parameters()).data.fill_(float("nan"))
    with pytest.raises(InputError, match=r"finite latents of a, but the VAE overflows in torch\.float32"):
        encode_twins(backbone, [twins_of(tmp_path, "a")], tmp_path / "cache")
    assert files(tmp_path / "cache") == []
