"""The training of Textual Inversion and Custom Diffusion: the step, what it trains, resuming, and the command."""

from pathlib import Path

import pytest
import torch
import yaml
from diffusers import DDPMScheduler
from PIL import Image

from evaluation.baselines.personal import CONCEPT_FILE, PersonalDataModule, PersonalModule, load_concept
from evaluation.baselines.personal.data import PersonalBatch
from evaluation.baselines.personal.training import denoising_target
from evaluation.train_baseline import ensure_baseline, train_baseline
from slider_lightning.backbone import Backbone, ddim_scheduler, images_to_pil, load_backbone
from slider_lightning.errors import InputError
from slider_lightning.training import OptimizerConfig, RunFolder
from tests.conftest import composed
from tests.personal_training import (
    TOKEN,
    examples_of,
    module_of,
    random_images,
    settings,
    stir,
    train,
    training_images,
)

KINDS = ("textual_inversion", "custom_diffusion")
PRIOR = ("a person", "a person")


@pytest.fixture(scope="module", params=KINDS)
def resumed(request, pipeline_folder, tmp_path_factory):
    """An uninterrupted training, and one that was stopped after step 3 of 6 and resumed."""
    folder = tmp_path_factory.mktemp("resumed")
    runs = [RunFolder(folder / name) for name in ("whole", "cut")]
    whole = train(pipeline_folder, runs[0], request.param)
    train(pipeline_folder, runs[1], request.param, stop_at=3)
    return whole, train(pipeline_folder, runs[1], request.param, resume=True), runs


def batch_of(backbone: Backbone, prior: bool = False) -> PersonalBatch:
    latents = backbone.encode_images(random_images(2))
    return PersonalBatch(
        examples_of(latents, (f"image of {TOKEN}", TOKEN), timestep=400),
        examples_of(latents.flip(0), PRIOR, timestep=700) if prior else None,
    )


def test_the_step_is_the_denoising_loss_with_the_weights_written_in(pipeline_folder, backbone: Backbone) -> None:
    """By hand: each row alone, noised by DDPM, the token's word in a second model whose weights hold the deltas."""
    module = module_of(backbone, "custom_diffusion")
    assert module.concept.deltas is not None
    stir(module.concept.deltas)
    batch = batch_of(backbone, prior=True)
    other = load_backbone(str(pipeline_folder))
    with torch.no_grad():
        for path, delta in module.concept.deltas.weights().items():
            other.unet.get_submodule(path).weight.add_(delta)
    scheduler = DDPMScheduler.from_config(backbone.scheduler.config)
    losses = []
    for examples in (batch.concept, batch.prior):
        errors = []
        for row, prompt in enumerate(examples.prompts):
            noisy = scheduler.add_noise(examples.latents, examples.noise, examples.timestep)[[row]]
            embeds = other.encode_prompts([prompt.replace(TOKEN, "old")])
            with torch.no_grad():
                predicted = other.predict_noise(noisy, examples.timestep[row], embeds)
            errors.append((predicted[0] - examples.noise[row]).square().mean().item())
        losses.append(sum(errors) / 2)
    assert module.training_step(batch, 0).item() == pytest.approx(losses[0] + losses[1], rel=1e-4)
    module.prior_weight = 0.25
    assert module.training_step(batch, 0).item() == pytest.approx(losses[0] + losses[1] / 4, rel=1e-4)


def test_models_that_predict_v_are_trained_to_v(backbone: Backbone) -> None:
    """v = alpha eps - sigma z: alpha z + sigma eps and v determine z and eps."""
    scheduler = ddim_scheduler(backbone.scheduler)
    examples = batch_of(backbone).concept
    assert torch.equal(denoising_target(scheduler, examples), examples.noise)
    scheduler.register_to_config(prediction_type="v_prediction")
    v, noisy = (
        denoising_target(scheduler, examples),
        scheduler.add_noise(examples.latents, examples.noise, examples.timestep),
    )
    alpha = scheduler.alphas_cumprod[400].sqrt()
    torch.testing.assert_close(alpha * noisy - (1 - alpha**2).sqrt() * v, examples.latents)
    scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(InputError, match="epsilon or v"):
        denoising_target(scheduler, examples)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_trains_the_intended_parameters_alone(backbone: Backbone, kind: str) -> None:
    module = module_of(backbone, kind)
    module.training_step(batch_of(backbone, prior=kind == "custom_diffusion"), 0).backward()
    names = {"concept.vectors.clip_l", "concept.vectors.clip_g"}
    if kind == "custom_diffusion":
        cross_attentions = [n for n, _ in backbone.unet.named_modules() if n.endswith("attn2")]
        names |= {f"concept.deltas.deltas.{i}" for i in range(2 * len(cross_attentions))}
    assert set(module.state_dict()) == names == {name for name, _ in module.named_parameters()}
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    frozen = [*backbone.unet.parameters(), *backbone.vae.parameters()]
    frozen += [p for e in backbone.prompt_encoder.text_encoders or () for p in e.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in frozen)


@pytest.mark.parametrize(("kind", "share"), [("textual_inversion", 0.999), ("custom_diffusion", 0.97)])
def test_the_loss_falls_on_a_repeated_batch(backbone: Backbone, kind: str, share: float) -> None:
    module = module_of(backbone, kind)
    batch = batch_of(backbone, prior=kind == "custom_diffusion")
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-2, weight_decay=0.0)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = module.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < share * losses[0]


def test_the_step_works_on_a_bf16_model_with_fp32_masters(pipeline_folder) -> None:
    gradients = []
    for dtype in ("float32", "bfloat16"):
        backbone = load_backbone(str(pipeline_folder), dtype=dtype)
        module = module_of(backbone, "custom_diffusion")
        loss = module.training_step(batch_of(backbone), 0)
        loss.backward()
        assert loss.dtype == torch.float32
        assert all(parameter.dtype == torch.float32 for parameter in module.parameters())
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in module.parameters()]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.95


def test_a_resumed_training_is_bit_equal(resumed) -> None:
    whole, cut, runs = resumed
    for name, tensor in whole.weights().items():
        assert torch.equal(cut.weights()[name], tensor), name
    files = [load_concept(run.path)[0].named_tensors() for run in runs]
    assert all(torch.equal(files[1][name], tensor) for name, tensor in files[0].items())
    losses = [[(row["step"], row["train/loss"]) for row in run.read_metrics()] for run in runs]
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[0]] == list(range(6))


def test_a_training_moves_the_concept_and_leaves_the_model(resumed, pipeline_folder) -> None:
    whole, _, runs = resumed
    backbone = load_backbone(str(pipeline_folder))
    start = settings(whole.module.concept.kind).initial_concept(backbone).state_dict()
    assert all(not torch.equal(start[name], tensor) for name, tensor in whole.weights().items())
    for part in ("unet", "vae"):
        trained = getattr(whole.module.backbone, part).state_dict()
        assert all(torch.equal(trained[n], tensor) for n, tensor in getattr(backbone, part).state_dict().items())
    encoders = zip(
        whole.module.backbone.prompt_encoder.text_encoders, backbone.prompt_encoder.text_encoders or (), strict=True
    )
    for trained, untouched in encoders:
        assert all(torch.equal(trained.state_dict()[n], tensor) for n, tensor in untouched.state_dict().items())
    checkpoint = torch.load(runs[0].checkpoints / "last.ckpt", weights_only=True)
    assert all(name.startswith("concept.") for name in checkpoint["state_dict"])


def test_costs_are_exact(resumed) -> None:
    whole, cut, _ = resumed
    rows = 2 if whole.module.concept.kind == "textual_inversion" else 4
    # The cut run lost the steps since its last checkpoint, if any; they are not counted twice.
    assert whole.cost.cost.sample_forwards == cut.cost.cost.sample_forwards == 6 * rows
    assert whole.data.cost.seconds > 0


def test_a_diverged_training_writes_no_file(pipeline_folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(OptimizerConfig, "lr_factor", lambda *args: float("nan"))
    with pytest.raises(InputError, match="diverged"):
        train(pipeline_folder, RunFolder(tmp_path), "textual_inversion", max_steps=2)
    assert not (tmp_path / CONCEPT_FILE).exists()


def test_bad_parts_are_refused(backbone: Backbone) -> None:
    config = settings("textual_inversion")
    for change in ({"batch_size": 0, "seed": 0}, {"batch_size": 1, "seed": -1}):
        with pytest.raises(InputError, match="or more"):
            PersonalDataModule(backbone, training_images(config), **change)
    concept = config.initial_concept(backbone)
    backbone.free_text_encoders()
    with pytest.raises(InputError, match="freed"):
        PersonalModule(backbone, concept, OptimizerConfig())


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number, image in enumerate(images_to_pil(random_images(2))):
        image.resize((80 + 16 * number, 64)).save(folder / f"{number}.png")
    return folder


def command(pipeline_folder: Path, baseline: str, images: Path, run: Path, *overrides: str) -> dict:
    quick = (
        "trainer.max_steps=3",
        "trainer.log_every_n_steps=1",
        "trainer.progress_bar=false",
        "sampler.num_inference_steps=2",
    )
    if baseline == "custom_diffusion":
        quick += ("personal.prior.num_images=2",)
    places = (f"model.path={pipeline_folder}", f"images={images}", f"run={run}", f"paths.cache={run.parent}/cache")
    return composed("train_baseline", f"baseline={baseline}", *quick, "strip.seeds=[0]", *places, *overrides)


@pytest.mark.parametrize("baseline", KINDS)
def test_the_command_fills_a_run_folder(pipeline_folder, image_folder, tmp_path, baseline) -> None:
    config = command(pipeline_folder, baseline, image_folder, tmp_path / "run")
    run = train_baseline(config)
    for path in (run.config, run.checkpoints, run.metrics, run.summary, run.strip, run.manifest):
        assert path.exists(), path.name
    concept, metadata = load_concept(run.path)
    assert concept.kind == metadata.kind == baseline
    assert metadata.base_model_hash in run.read_manifest()["assets"].values()
    assert len(run.read_manifest()["assets"]) == 2
    rows = 4 if baseline == "textual_inversion" else 8
    assert run.read_summary()["cost/sample_forwards/train"] == 3 * rows
    assert yaml.safe_load(run.config.read_text())["personal"]["kind"] == baseline
    (run.path / CONCEPT_FILE).unlink()
    train_baseline({**config, "resume": True})
    # The tensors, not the bytes: safetensors writes its header in any order.
    again, metadata_again = load_concept(run.path)
    assert metadata_again == metadata
    for name, tensor in concept.named_tensors().items():
        torch.testing.assert_close(again.named_tensors()[name], tensor, rtol=0, atol=0)


def test_a_finished_training_is_found_again_unless_the_images_changed(pipeline_folder, tmp_path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    image = images_to_pil(random_images(1))[0]
    image.save(images / "a.png")
    config = command(pipeline_folder, "textual_inversion", images, tmp_path / "run", "trainer.max_steps=1")
    run = ensure_baseline(config)
    written = run.manifest.stat().st_mtime_ns
    assert ensure_baseline(config).manifest.stat().st_mtime_ns == written
    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(images / "a.png")
    with pytest.raises(InputError, match="they changed"):
        train_baseline({**config, "resume": True})
    before = load_concept(run.path)[0].named_tensors()["clip_l"]
    assert ensure_baseline(config).manifest.stat().st_mtime_ns != written
    assert not torch.equal(load_concept(run.path)[0].named_tensors()["clip_l"], before)


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("personal.initializer=xyzzy", "xyzzy"),
        ("personal.token='<|endoftext|>'", "vocabulary already"),
        ("personal.templates=['" + "person " * 80 + "{}']", "at most 77 tokens"),
        ("trainer.accelerator=nonsense", "nonsense"),
    ],
)
def test_bad_input_leaves_nothing_behind(pipeline_folder, image_folder, tmp_path, override, word) -> None:
    config = command(pipeline_folder, "textual_inversion", image_folder, tmp_path / "run", override)
    with pytest.raises(InputError, match=word.replace("|", r"\|")):
        train_baseline(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model", ["tiny_faces", "sdxl"])
@pytest.mark.parametrize("baseline", KINDS)
def test_shipped_configs_compose(model: str, baseline: str) -> None:
    config = composed("train_baseline", f"model={model}", f"baseline={baseline}", "images=somewhere")
    assert config["personal"]["kind"] == baseline == config["name"]
    assert config["baseline"]["source"] == config["run"]
    assert config["run"].startswith(f"outputs/{baseline}/")
