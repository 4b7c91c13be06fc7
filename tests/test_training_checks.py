"""What ends a training with an error instead of a slider file."""

import pytest
import torch
import yaml

from slider_lightning.adapters import AdapterConfig, Slider, SliderBank
from slider_lightning.assembly import PAIRS_DIGEST
from slider_lightning.backbone import Backbone
from slider_lightning.errors import InputError
from slider_lightning.objectives import ImagePairObjective
from slider_lightning.runs import prepare_run
from slider_lightning.training import OptimizerConfig, PairEmbeds, PairTask, RunFolder, SliderModule
from slider_lightning.training.checks import check_loss, check_weights
from tests.short_training import train


def pair_module(backbone: Backbone, moved: float) -> SliderModule:
    slider = Slider(backbone.unet, AdapterConfig(rank=2, alpha=2.0), seed=0)
    for name, parameter in slider.named_parameters():
        if "lora_up" in name:
            torch.nn.init.constant_(parameter, moved)
    embeds = PairEmbeds(backbone.encode_negative_prompt(None))
    task = PairTask(backbone, embeds, ImagePairObjective(), OptimizerConfig())
    return SliderModule(backbone, SliderBank(backbone.unet, [slider]), [task])


def test_a_slider_that_did_not_move_ends_the_training(backbone, pipeline_folder, tmp_path, monkeypatch) -> None:
    with pytest.raises(InputError, match="change nothing"):
        check_weights(pair_module(backbone, moved=0.0), 0)
    check_weights(pair_module(backbone, moved=1e-3), 0)
    monkeypatch.setattr(OptimizerConfig, "lr_factor", lambda *args: 0.0)
    run = RunFolder(tmp_path / "run")
    with pytest.raises(InputError, match="change nothing"):
        train(pipeline_folder, run, data="pairs", max_steps=2)
    assert not run.slider.exists()


def test_a_loss_that_rose_ends_the_training_and_noise_does_not(pipeline_folder, tmp_path, monkeypatch) -> None:
    off = torch.rand(16, generator=torch.Generator().manual_seed(0)).double() + 1
    noise = 1e-2 * torch.randn(16, generator=torch.Generator().manual_seed(1)).double()
    check_loss(off + noise, off)
    check_loss(off - 0.1 + noise, off)
    with pytest.raises(InputError, match="lower the loss"):
        check_loss(off + 0.1 + noise, off)
    with pytest.raises(InputError, match="finite"):
        check_loss(off * float("nan"), off)
    monkeypatch.setattr(OptimizerConfig, "lr_factor", lambda *args: -40.0)
    run = RunFolder(tmp_path / "run")
    with pytest.raises(InputError, match="lower the loss"):
        train(pipeline_folder, run, data="pairs", max_steps=6)
    assert not run.slider.exists()
    # Its checkpoints are whole: gone on from them, nothing is left to train, and the check must not be skipped.
    assert run.resume_checkpoint() is not None
    with pytest.raises(InputError, match="lower the loss"):
        train(pipeline_folder, run, data="pairs", max_steps=6, resume=True)
    assert not run.slider.exists()


def test_a_loss_that_is_not_finite_ends_the_training_at_once(pipeline_folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(OptimizerConfig, "lr_factor", lambda *args: float("nan"))
    run = RunFolder(tmp_path / "run")
    with pytest.raises(InputError, match="finite loss, but at optimizer step 2"):
        train(pipeline_folder, run, data="pairs", max_steps=9)
    assert not run.slider.exists()


def test_a_run_is_not_resumed_on_other_images(tmp_path) -> None:
    run = RunFolder(tmp_path / "run")
    prepare_run(run, {"pairs": {}, PAIRS_DIGEST: "a"}, resume=True)
    prepare_run(run, {"pairs": {}, PAIRS_DIGEST: "a"}, resume=True)
    with pytest.raises(InputError, match="resume=false"):
        prepare_run(run, {"pairs": {}, PAIRS_DIGEST: "b"}, resume=True)
    run.slider.write_bytes(b"of the images before")
    prepare_run(run, {"pairs": {}, PAIRS_DIGEST: "b"}, resume=False)
    assert not run.slider.exists()
    assert yaml.safe_load(run.config.read_text())[PAIRS_DIGEST] == "b"
