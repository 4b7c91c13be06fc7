"""The world's StyleGAN generator: its networks, what z means, its training."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kstest
from torch import Tensor, nn

from experiments.tiny_faces.faces import SCHEMA, sample_faces
from experiments.tiny_faces.fit import METRICS, fit
from experiments.tiny_faces.render import CLOTHES, render
from experiments.tiny_faces.stylegan.latent import CONTINUOUS, faces_of, z_dim
from experiments.tiny_faces.stylegan.networks import (
    Discriminator,
    Generator,
    GeneratorSize,
    ModulatedConv,
    SynthesisLayer,
)
from experiments.tiny_faces.stylegan.training import (
    Adversarial,
    Regression,
    StyleGanSettings,
    batches,
    load_generator,
    painted_latents,
    regression_loss,
    save_generator,
    train_stylegan,
)
from slider_lightning.assets import write_hashes
from slider_lightning.errors import InputError

SIZE = GeneratorSize(z_dim=z_dim(), w_dim=16, mapping_width=16, mapping_layers=2, channels=(8, 8, 6))
SHORT = StyleGanSettings(
    channels=(8, 8, 8),
    faces=24,
    steps=6,
    adversarial_steps=6,
    batch_size=4,
    r1_every=2,
    ema=0.5,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def generator() -> Generator:
    """An untrained generator of 16 px whose noise can be seen."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = Generator(SIZE).eval().requires_grad_(False)
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            parameter.fill_(0.5)
    return generator


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
    assert kstest(ours.hidden["phase"][:, 2:].flatten() / (2 * torch.pi), "uniform").statistic < 0.02
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


# training


def test_regression_loss_in_closed_form() -> None:
    error, weights = torch.tensor([[0.5, -2.0]]), torch.tensor([[1.0, 4.0]])
    shape = (1, 1, 1, 2)
    loss = regression_loss(error.view(shape) + 0.25, torch.full(shape, 0.25), weights.view(shape))
    assert float(loss) == pytest.approx((0.75 * 1 + 6.0 * 4) / 2)


def test_painted_latents_are_the_faces_of_their_z_and_are_drawn_once(tmp_path: Path) -> None:
    path = tmp_path / "faces.safetensors"
    first = painted_latents(path, 6, 5, 16)
    written = path.stat().st_mtime_ns
    again = painted_latents(path, 6, 5, 16)
    assert path.stat().st_mtime_ns == written
    assert torch.equal(first.z, again.z)
    drawing = render(faces_of(first.z), 16)
    rows = torch.tensor([4, 1])
    z, images, weights = again.batch(rows, 3.0)
    assert torch.equal(z, first.z[rows])
    assert torch.allclose((images + 1) / 2, drawing.images[rows], atol=0.5 / 255 + 1e-6)
    assert set(weights.unique().tolist()) == {1.0, 3.0}


@pytest.fixture(scope="module")
def make_batch(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Any]:
    data = painted_latents(tmp_path_factory.mktemp("faces") / "faces.safetensors", SHORT.faces, 0, 16)
    return batches(data, SHORT, 0)


def stage(kind: type[Regression] | type[Adversarial], settings: StyleGanSettings = SHORT) -> lightning.LightningModule:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(Generator(settings.size), settings)


@pytest.mark.parametrize("kind", [Regression, Adversarial])
def test_a_stage_cut_short_ends_as_an_uninterrupted_one(
    kind: type[Regression] | type[Adversarial], make_batch: Callable[[int], Any], tmp_path: Path
) -> None:
    def cut_short(step: int) -> Any:
        if step == 5:
            raise RuntimeError("cut short")
        return make_batch(step)

    options = {"checkpoint_every": 2, "log_every": 1, "accelerator": "cpu", "progress": False}
    whole = stage(kind)
    begun = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    fit(whole, make_batch, tmp_path / "whole", 6, **options)
    with pytest.raises(RuntimeError, match="cut short"):
        fit(stage(kind), cut_short, tmp_path / "cut", 6, **options)
    torch.rand(7)  # another process would stand elsewhere in the global stream
    resumed = stage(kind)
    assert fit(resumed, make_batch, tmp_path / "cut", 6, **options) == 4
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    moved = [name for name, tensor in whole.state_dict().items() if not torch.equal(begun[name], tensor)]
    assert {name.split(".")[0] for name in moved} == {name.split(".")[0] for name in begun}, "a network did not train"


class Plane(nn.Module):
    """A discriminator whose gradient is known."""

    def __init__(self, slope: Tensor) -> None:
        super().__init__()
        self.slope = nn.Parameter(slope)

    def forward(self, images: Tensor) -> Tensor:
        return (images * self.slope).sum((1, 2, 3))


def test_the_gradient_penalty_is_the_squared_slope_and_trains_the_discriminator() -> None:
    module = stage(Adversarial)
    assert isinstance(module, Adversarial)
    slope = normal(3, 16, 16)
    module.discriminator = Plane(slope)
    penalty = module.gradient_penalty(normal(4, 3, 16, 16, seed=2))
    assert penalty.item() == pytest.approx(float(slope.square().sum()), rel=1e-5)
    penalty.backward()
    assert torch.allclose(module.discriminator.slope.grad, 2 * slope, rtol=1e-4)


def test_each_network_learns_from_its_own_loss_alone(make_batch: Callable[[int], Any]) -> None:
    def gradients(weight: float) -> dict[str, Tensor]:
        module = stage(Adversarial, replace(SHORT, adversarial_weight=weight))
        with torch.random.fork_rng():
            torch.manual_seed(2)
            module.training_step(make_batch(0), 0).backward()
        return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}

    without, strong = gradients(0.0), gradients(10.0)
    changed = {name for name, gradient in without.items() if not torch.equal(gradient, strong[name])}
    assert {name.split(".")[0] for name in without} == {"generator", "discriminator"}
    assert {name.split(".")[0] for name in changed} == {"generator"}


def test_the_shipped_weights_are_a_moving_average(make_batch: Callable[[int], Any], tmp_path: Path) -> None:
    module = stage(Adversarial)
    assert isinstance(module, Adversarial)
    before = [p.clone() for p in module.generator.parameters()]
    fit(module, make_batch, tmp_path, 1, accelerator="cpu", progress=False)
    for mean, old, new in zip(module.averaged.parameters(), before, module.generator.parameters(), strict=True):
        assert torch.allclose(mean, SHORT.ema * old + (1 - SHORT.ema) * new, atol=1e-6)


def test_both_stages_train_are_logged_and_go_on_where_they_stopped(tmp_path: Path) -> None:
    out, work = tmp_path / "out", tmp_path / "work"
    train_stylegan(SHORT, out, work)
    for path in (work / METRICS, work / "regression" / METRICS):
        assert json.loads(path.read_text().splitlines()[-1])["step"] == 6
    trained = load_generator(out)
    train_stylegan(SHORT, tmp_path / "again", work)
    again = load_generator(tmp_path / "again")
    for name, tensor in trained.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert trained.img_resolution == 16


def test_a_saved_generator_opens_within_fp16(generator: Generator, tmp_path: Path) -> None:
    save_generator(generator, SIZE, tmp_path / "saved")
    loaded = load_generator(tmp_path / "saved")
    for name, tensor in generator.state_dict().items():
        assert torch.allclose(loaded.state_dict()[name], tensor, rtol=2**-10, atol=1e-6), name
    z = normal(4, z_dim())
    images = [g(z, truncation_psi=0.7, noise_mode="const") for g in (generator, loaded)]
    assert torch.allclose(*images, atol=0.02)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    w = generator.mapping(normal(20_000, z_dim(), seed=9))[:, 0]
    assert ((loaded.mapping.w_avg - w.mean(0)).abs() < 6 * w.std(0) / math.sqrt(8192)).all()


@pytest.mark.parametrize("harm", ["flip", "missing", "foreign", "other size"])
def test_a_damaged_generator_is_refused(generator: Generator, tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "saved"
    save_generator(generator, SIZE, folder)
    weights, config = folder / "model.safetensors", folder / "config.json"
    if harm == "flip":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif harm == "missing":
        weights.unlink()
    else:
        other = {"widths": [4]} if harm == "foreign" else {**json.loads(config.read_text()), "w_dim": 8}
        config.write_text(json.dumps(other))
        write_hashes(folder)
    with pytest.raises(InputError, match="saved"):
        load_generator(folder)
    with pytest.raises(InputError, match="nowhere"):
        load_generator(tmp_path / "nowhere")
