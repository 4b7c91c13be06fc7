"""The world's StyleGAN generator: its networks, and what z means."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kstest
from torch import Tensor, nn

from experiments.tiny_faces.faces import SCHEMA, sample_faces
from experiments.tiny_faces.render import CLOTHES, render
from experiments.tiny_faces.stylegan.latent import CONTINUOUS, faces_of, z_dim
from experiments.tiny_faces.stylegan.networks import (
    Discriminator,
    Generator,
    ModulatedConv,
    SynthesisLayer,
)
from tests.small_generator import WORLDS as SIZE
from tests.small_generator import new_generator, normal


@pytest.fixture
def generator() -> Generator:
    return new_generator(SIZE, noise=0.5).eval().requires_grad_(False)


# networks


def test_the_generator_has_the_official_interface_and_its_names(generator: Generator) -> None:
    z = normal(5, z_dim())
    ws = generator.mapping(z, None, truncation_psi=0.7)
    assert ws.shape == (5, generator.num_ws, SIZE.w_dim) == (5, 3, 16)
    assert generator.c_dim == 0
    assert generator.img_resolution == SIZE.image_size == 16
    images = generator.synthesis(ws, noise_mode="const")
    assert images.shape == (5, 3, 16, 16)
    assert torch.equal(generator(z, None, truncation_psi=0.7, noise_mode="const"), images)
    affines = [name for name, module in generator.named_modules() if name.split(".")[-1] == "affine"]
    layers = ["b4.conv1", "b4.torgb", *(f"b{side}.{part}" for side in (8, 16) for part in ("conv0", "conv1", "torgb"))]
    assert affines == [f"synthesis.{layer}.affine" for layer in layers]
    with pytest.raises(ValueError, match="classes"):
        generator.mapping(z, torch.ones(5, 2))


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize(("kernel", "demodulate"), [(3, True), (3, False), (1, False)])
def test_a_modulated_convolution_is_one_with_modulated_weights(kernel: int, demodulate: bool, up: bool) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layer = ModulatedConv(5, 7, kernel, 6, demodulate).requires_grad_(False)
    x, w = normal(3, 5, 8, 8), normal(3, 6, seed=1)
    expected = []
    for image, style in zip(x, layer.affine(w), strict=True):
        weight = layer.weight * style[None, :, None, None]
        if demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        image = image[None]
        if up:
            image = F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
        expected.append(F.conv2d(image, weight, padding=kernel // 2))
    assert torch.allclose(layer.modulated(x, w, up), torch.cat(expected), atol=1e-5)


def test_every_style_layer_moves_the_image(generator: Generator) -> None:
    ws = generator.mapping(normal(2, z_dim()))
    before = generator.synthesis(ws, noise_mode="const")
    for name, module in generator.named_modules():
        if name.endswith("affine"):
            assert isinstance(module, nn.Linear)
            module.bias[0] += 1.0
            assert not torch.equal(generator.synthesis(ws, noise_mode="const"), before), name
            module.bias[0] -= 1.0


def test_noise_is_stored_fresh_or_absent(generator: Generator) -> None:
    z = normal(2, z_dim())
    stored, fresh, none = (generator(z, noise_mode=mode) for mode in ("const", "random", "none"))
    assert torch.equal(generator(z, noise_mode="const"), stored)
    assert torch.equal(generator(z, noise_mode="none"), none)
    assert len({tuple(images.flatten().tolist()) for images in (stored, fresh, none)}) == 3
    assert not torch.equal(generator(z, noise_mode="random"), fresh)
    with pytest.raises(ValueError, match="noise_mode"):
        generator(z, noise_mode="loud")
    layer = generator.synthesis.b4.conv1
    assert isinstance(layer, SynthesisLayer)
    x, w = normal(2, 8, 4, 4), normal(2, SIZE.w_dim)
    before_noise = layer.modulated(x, w)
    expected = F.leaky_relu(before_noise + 0.5 * layer.noise_const + layer.bias[:, None, None], 0.2) * math.sqrt(2)
    assert torch.allclose(layer(x, w, "const"), expected, atol=1e-6)


def test_truncation_draws_to_the_mean_w(generator: Generator) -> None:
    generator.mapping.w_avg.copy_(normal(SIZE.w_dim, seed=3))
    z = normal(4, z_dim())
    none, half, full = (generator.mapping(z, truncation_psi=psi) for psi in (0.0, 0.5, 1.0))
    assert torch.equal(none, generator.mapping.w_avg.expand_as(none))
    assert torch.allclose(half, (none + full) / 2, atol=1e-6)
    images = generator(z, truncation_psi=0.0, noise_mode="const")
    assert torch.allclose(images, images[:1].expand_as(images), atol=1e-6)
    assert not torch.allclose(full, none)


def test_the_discriminator_scores_images_and_sees_whether_they_differ() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        discriminator = Discriminator((4, 6, 8)).requires_grad_(False)
    images = normal(4, 3, 16, 16)
    scores, order = discriminator(images), torch.tensor([2, 0, 3, 1])
    assert scores.shape == (4,)
    assert len(set(scores.tolist())) == 4
    assert torch.allclose(discriminator(images[order]), scores[order], atol=1e-5)
    assert not torch.allclose(discriminator(images[:1].expand(4, -1, -1, -1))[0], scores[0], atol=1e-5)


# what z means


def test_a_face_is_a_function_of_its_own_z() -> None:
    z = normal(8, z_dim())
    whole, again, row = faces_of(z), faces_of(z), faces_of(z[3:4])
    for part, other, one in ((whole.values, again.values, row.values), (whole.hidden, again.hidden, row.hidden)):
        for name, tensor in part.items():
            assert torch.equal(tensor, other[name]), name
            assert torch.equal(tensor[3:4], one[name]), name


def test_faces_of_random_z_have_the_distribution_of_the_worlds_faces() -> None:
    n = 20_000
    ours, worlds = faces_of(normal(n, z_dim())), sample_faces(n, 1, held_out=True)
    assert ours.values.keys() == worlds.values.keys()
    assert {name: t.shape for name, t in ours.hidden.items()} == {name: t.shape for name, t in worlds.hidden.items()}
    # Five deviations of a share, or of a Kolmogorov distance, between two samples of this size.
    for attribute in SCHEMA:
        mine, theirs = ours.values[attribute.name], worlds.values[attribute.name]
        if attribute.kind == "continuous":
            assert kstest(mine.numpy(), "uniform").statistic < 2.5 / math.sqrt(n), attribute.name
        elif attribute.name != "quality":
            shares = [torch.bincount(rows, minlength=attribute.width) / n for rows in (mine, theirs)]
            assert (shares[0] - shares[1]).abs().max() < 0.025, attribute.name
    continuous = {a.name for a in SCHEMA if a.kind == "continuous"}
    assert set(CONTINUOUS) == continuous
    for name in ("grey_blend", "curl_amount", "shift", "turn"):
        assert kstest(ours.hidden[name].flatten(), worlds.hidden[name].flatten()).statistic < 0.025, name
    assert not ours.hidden["phase"].any(), "locks of hair always lie alike"
    assert kstest((ours.hidden["color_jitter"][:, :3].flatten() + 1) / 2, "uniform").statistic < 0.02
    clothes = (ours.hidden["clothes"][:, 0] * len(CLOTHES)).long()
    assert (torch.bincount(clothes) / n - 1 / len(CLOTHES)).abs().max() < 0.025


def test_age_goes_with_gender_glasses_and_grey_as_in_the_world_and_nothing_else_does() -> None:
    def table(values: dict[str, Tensor]) -> Tensor:
        grey = (values["hair_color"] == 4).float()
        columns = [values[a.name].float() for a in SCHEMA if a.name not in ("hair_color", "quality")]
        return torch.corrcoef(torch.stack([*columns, grey]))

    ours = table(faces_of(normal(20_000, z_dim(), seed=1)).values)
    worlds = table(sample_faces(20_000, 2, held_out=True).values)
    assert worlds[0].abs().sort().values[-4] > 0.15, "age goes with three attributes"
    assert (ours - worlds).abs().max() < 0.05


def test_all_faces_are_well_drawn() -> None:
    faces = faces_of(normal(64, z_dim()))
    assert not faces.values["quality"].any()
    assert not faces.hidden["poor_amount"].any()
    assert not faces.hidden["poor_shift"].any()


def test_every_element_of_z_shows_and_small_changes_stay_small() -> None:
    z = normal(48, z_dim())
    base, before = faces_of(z), render(faces_of(z), 32).images
    for element in range(z_dim()):
        moved = z.clone()
        moved[:, element] += 2.0
        assert (render(faces_of(moved), 32).images - before).abs().max() > 0.01, element
    near = faces_of(z + 1e-4 * normal(48, z_dim(), seed=1))
    classes = [a.name for a in SCHEMA if a.kind == "class"]
    same = torch.stack([near.values[name] == base.values[name] for name in classes]).all(0)
    assert same.sum() > 40
    assert (render(near, 32).images - before)[same].abs().max() < 0.05
