"""The training of the world's StyleGAN generator, and its files."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn

from experiments.tiny_faces.fit import METRICS, fit
from experiments.tiny_faces.render import render
from experiments.tiny_faces.stylegan.latent import faces_of, z_dim
from experiments.tiny_faces.stylegan.networks import (
    Generator,
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
from tests.small_generator import WORLDS as SIZE
from tests.small_generator import new_generator, normal

SHORT = StyleGanSettings(
    channels=(8, 8, 8),
    faces=24,
    steps=6,
    adversarial_steps=6,
    batch_size=4,
    r1_every=2,
    ema=0.5,
)


@pytest.fixture
def generator() -> Generator:
    return new_generator(SIZE, noise=0.5).eval().requires_grad_(False)


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
