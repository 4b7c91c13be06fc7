"""What the judges are trained on, their losses, and the resumable fit of all world trainings."""

from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler

from evaluation.attributes import Attribute
from experiments.tiny_faces.faces import SCHEMA, sample_faces
from experiments.tiny_faces.fit import adamw_one_cycle, fit
from experiments.tiny_faces.judges.clip import contrastive_loss
from experiments.tiny_faces.judges.parser import EYE, SKIN, parse_targets
from experiments.tiny_faces.judges.perceptual import make_triplet, roll_sideways
from experiments.tiny_faces.judges.pool import blur, label_targets, rendered_pool, vary
from experiments.tiny_faces.judges.probe import attribute_losses, standardize
from experiments.tiny_faces.judges.saving import finished_folder
from experiments.tiny_faces.render import PARSE_CLASSES
from slider_lightning.assets import verify_folder

STEPS = 12


class Regression(lightning.LightningModule):
    """A linear layer that can be cut short at a step, as a kill would."""

    def __init__(self, cut_at: int | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer = torch.nn.Linear(4, 4)
        self.cut_at = cut_at
        self.seen: list[int] = []

    def training_step(self, batch: tuple[torch.Tensor, int], batch_idx: int) -> torch.Tensor:
        rows, step = batch
        if step == self.cut_at:
            raise RuntimeError("cut short")
        self.seen.append(int(step))
        loss = (self.layer(rows) - rows.flip(1)).square().mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return adamw_one_cycle(self.parameters(), 1e-2, STEPS)


def make_batch(step: int) -> tuple[torch.Tensor, int]:
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(step)), step


def test_a_training_cut_short_goes_on_where_it_stopped_and_ends_bit_equal(tmp_path: Path) -> None:
    options = {"checkpoint_every": 3, "accelerator": "cpu", "progress": False}
    whole = Regression()
    assert fit(whole, make_batch, tmp_path / "whole", STEPS, **options) == 0
    assert whole.seen == list(range(STEPS))
    with pytest.raises(RuntimeError, match="cut short"):
        fit(Regression(cut_at=8), make_batch, tmp_path / "cut", STEPS, **options)
    resumed = Regression()
    assert fit(resumed, make_batch, tmp_path / "cut", STEPS, **options) == 6
    assert resumed.seen == list(range(6, STEPS))
    assert torch.equal(resumed.layer.weight, whole.layer.weight)
    again = Regression()
    assert fit(again, make_batch, tmp_path / "cut", STEPS, **options) == STEPS
    assert again.seen == []
    assert torch.equal(again.layer.weight, whole.layer.weight)


def test_pool_is_stored_and_an_epoch_shows_every_face_once(tmp_path: Path) -> None:
    path = tmp_path / "pool.safetensors"
    halves = rendered_pool(path, 8, seed=1, size=32, reconstruct=lambda images: images * 0, share=0.5)
    assert (halves.images[:4] == 0).all()
    assert (halves.images[4:].flatten(1).amax(1) > 0).all()
    assert torch.equal(rendered_pool(path, 8, seed=1).images, halves.images)
    epoch = torch.cat([halves.rows(2, 5, step) for step in range(4)])
    assert sorted(epoch.tolist()) == list(range(8))
    assert torch.equal(halves.rows(2, 5, 6), halves.rows(2, 5, 6))
    assert not torch.equal(epoch, torch.cat([halves.rows(2, 5, step) for step in range(4, 8)]))


def test_parse_targets_split_a_half_covered_pixel() -> None:
    labels = torch.full((1, 2, 2), PARSE_CLASSES.index("hair"))
    labels[0, 0, 0] = EYE
    mask = torch.tensor([[[0.75, 0.0], [0.25, 0.0]]])
    targets = parse_targets(labels, mask)
    assert torch.allclose(targets.sum(1), torch.ones(1, 2, 2))
    assert float(targets[0, EYE].sum()) == pytest.approx(1.0)
    assert float(targets[0, SKIN, 0, 0]) == pytest.approx(0.25)
    assert float(targets[0, PARSE_CLASSES.index("hair"), 1, 0]) == pytest.approx(0.75)


def test_label_targets_and_losses_vanish_at_the_truth() -> None:
    faces = sample_faces(64, 2)
    targets = label_targets(faces, SCHEMA)
    mean, std = targets.mean(0), targets.std(0)
    standard = standardize(targets, SCHEMA, mean, std)
    assert torch.allclose(standard[:, 0] * std[0] + mean[0], faces.values["age"], atol=1e-6)
    assert set(targets[:, 1:3].unique().tolist()) == {0.0, 1.0}
    perfect = torch.where(torch.arange(targets.shape[1]) == 0, standard, 1e3 * standard)
    continuous = torch.tensor([a.kind == "continuous" for a in SCHEMA for _ in range(a.width)])
    perfect = torch.where(continuous, standard, perfect)
    assert torch.allclose(attribute_losses(perfect, standard, SCHEMA), torch.zeros(len(SCHEMA)), atol=1e-6)
    schema = (Attribute("a", "continuous"), Attribute("b", "class", ("x", "y")))
    losses = attribute_losses(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.5, 1.0, 0.0]]), schema)
    assert losses.tolist() == pytest.approx([2.25, 0.693147], abs=1e-5)


def test_contrastive_loss_is_clips_and_shares_equal_captions() -> None:
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.nn.functional.normalize(torch.randn(4, 8, generator=generator)) for _ in range(2))
    scale, ids = torch.tensor(10.0), torch.arange(8).view(4, 2)
    logits, labels = 10.0 * image @ text.T, torch.arange(4)
    cross_entropy = torch.nn.functional.cross_entropy
    expected = (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
    assert float(contrastive_loss(image, text, scale, ids)) == pytest.approx(float(expected), rel=1e-5)
    equal = contrastive_loss(image[:1].expand(4, -1), text[:1].expand(4, -1), scale, ids[:1].expand(4, -1))
    assert float(equal) == pytest.approx(float(torch.log(torch.tensor(4.0))), rel=1e-5)


def test_variation_is_small_reproducible_and_stays_in_range() -> None:
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    smooth = blur(blur(images, 2.0), 2.0)
    first, second = (vary(smooth, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert float((first - smooth).abs().mean()) < 0.05
    assert first.amin() >= 0
    assert first.amax() <= 1


def test_blur_keeps_the_mean_and_a_constant() -> None:
    assert torch.allclose(blur(torch.full((1, 3, 9, 9), 0.3), 1.0), torch.full((1, 3, 9, 9), 0.3), atol=1e-6)
    point = torch.zeros(1, 1, 21, 21)
    point[..., 10, 10] = 1
    spread = blur(point, 1.0)
    assert float(spread.sum()) == pytest.approx(1.0, abs=1e-5)
    axis = torch.arange(21) - 10.0
    assert float((spread.sum((0, 1, 2)) * axis**2).sum()) == pytest.approx(1.0, abs=0.05)


def test_triplets_go_further_along_one_path() -> None:
    generator = torch.Generator().manual_seed(4)
    images = blur(torch.rand(64, 3, 16, 16, generator=generator), 1.0)
    triplet = make_triplet(images, images.roll(1, 0), torch.zeros(64, 1), generator)
    near = (triplet.near - triplet.reference).square().mean((1, 2, 3))
    far = (triplet.far - triplet.reference).square().mean((1, 2, 3))
    assert float((near <= far).float().mean()) > 0.95
    moved = roll_sideways(images, torch.full((64,), 1.0), reach=2 / 16)
    assert torch.allclose(moved[..., 2:], images[..., :-2], atol=1e-4)


def write_half(out: Path) -> None:
    with finished_folder(out) as folder:
        (folder / "half").write_text("half")
        (folder / "nothing").read_text()


def test_a_finished_folder_is_whole_or_absent(tmp_path: Path) -> None:
    out = tmp_path / "judge"
    with pytest.raises(FileNotFoundError):
        write_half(out)
    assert list(tmp_path.iterdir()) == []
    for content in ("first", "second"):
        with finished_folder(out) as folder:
            (folder / "weights").write_text(content)
    verify_folder(out)
    assert (out / "weights").read_text() == "second"
    assert list(tmp_path.iterdir()) == [out]
