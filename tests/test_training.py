"""The training step, what it trains, what it costs, and that two processes train as one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch

from slider_lightning.adapters import (
    AdapterConfig,
    DenseConfig,
    DenseSlider,
    Slider,
    SliderBank,
    SliderMetadata,
    load_slider,
)
from slider_lightning.backbone import Backbone, load_backbone
from slider_lightning.data import (
    ConceptEmbeds,
    ScaleRange,
    TeacherBatch,
    TeacherConfig,
    TeacherDataModule,
    measured_cost,
)
from slider_lightning.data.batches import CachedStates, StateLoader
from slider_lightning.data.states import rollout_noise, rollout_states
from slider_lightning.data.steps import JointDataModule, JointLoader, Share
from slider_lightning.errors import InputError
from slider_lightning.objectives import Projection, TextObjective
from slider_lightning.training import LastCheckpoint, OptimizerConfig, RunFolder, SliderModule, TextTask
from tests.short_training import CONCEPT, ROLLOUT, ShortTraining, train

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def trained(pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ShortTraining, RunFolder]:
    """Eight steps of a batch of four states."""
    run = RunFolder(tmp_path_factory.mktemp("training") / "run")
    return train(pipeline_folder, run, batch_size=4), run


OBJECTIVE = TextObjective(eta=3.0, reduction="sum")


def module_and_loader(backbone: Backbone, objective: TextObjective = OBJECTIVE) -> tuple[SliderModule, JointLoader]:
    """A module whose slider already changes something, and batches for it; no trainer."""
    embeds = ConceptEmbeds.encode(backbone, CONCEPT, objective.contrasts)
    states = rollout_states(backbone, embeds, rollout_noise(backbone, 1, [0, 1]), ROLLOUT)
    slider = Slider(backbone.unet, AdapterConfig(rank=2, alpha=2.0), seed=0)
    for name, parameter in slider.named_parameters():
        if "lora_up" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    bank = SliderBank(backbone.unet, [slider])
    module = SliderModule(backbone, bank, [TextTask(backbone, embeds.target, objective, OptimizerConfig())])
    draws = {"share": Share(3), "scale_range": ScaleRange(0.5, 2.0), "seed": 0}
    return module, JointLoader([StateLoader(CachedStates(states), num_steps=1000, **draws)])


def loss_by_hand(module: SliderModule, batches: tuple[TeacherBatch]) -> float:
    """Every pole of every state by itself, with the slider folded into the weights."""
    (task,), (batch,) = module.tasks, batches
    assert isinstance(task, TextTask)
    errors = []
    for row in range(len(batch.latents)):
        direction = (batch.eps_positive[row] - batch.eps_negative[row]).sum(0)
        for contrast in batch.eps_contrast_positive[row] - batch.eps_contrast_negative[row]:
            direction = direction - (direction * contrast).sum() / contrast.square().sum() * contrast
        for scale in (batch.scale[row], -batch.scale[row]):
            target = batch.eps_target[row] + scale * task.objective.eta * direction
            with module.bank.folded(scale[None]), torch.no_grad():
                latents, timestep = batch.latents[[row]], batch.timestep[row]
                predicted = module.backbone.predict_noise(latents, timestep, task.target_embeds)[0]
            errors.append(((predicted - target) ** 2).mean().item())
    return sum(errors) / len(errors)


def test_the_step_is_equation_4_at_both_poles(backbone) -> None:
    module, loader = module_and_loader(backbone)
    batch = loader.batch(0)
    assert module.losses(batch).item() == pytest.approx(loss_by_hand(module, batch), rel=1e-3)


def test_the_step_with_a_projection_leaves_the_contrast_out_of_the_target(backbone) -> None:
    project = Projection((("an old person", "a young person"),), "least_squares")
    # So strong that the direction decides the loss.
    module, loader = module_and_loader(backbone, TextObjective(eta=300.0, reduction="sum", project=project))
    batch = (loader.batch(0)[0].to(torch.device("cpu")),)
    assert batch[0].eps_contrast_positive.shape == (3, 1, 4, 16, 16)
    loss = module.losses(batch).item()
    assert loss == pytest.approx(loss_by_hand(module, batch), rel=1e-3)
    task = module.tasks[0]
    assert isinstance(task, TextTask)
    task.objective = TextObjective(eta=300.0, reduction="sum")
    assert module.losses(batch).item() != pytest.approx(loss, rel=5e-2)


def test_a_step_costs_two_forwards_a_state_and_trains_the_slider_alone(backbone) -> None:
    module, loader = module_and_loader(backbone)
    with measured_cost(backbone) as cost:
        module.losses(loader.batch(0)).sum().backward()
    assert cost.sample_forwards == 6
    assert set(module.state_dict()) == {f"bank.{name}" for name in module.bank.state_dict()}
    assert [id(weight) for weight in module.parameters()] == [id(weight) for weight in module.bank.parameters()]
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in module.parameters())
    assert all(parameter.grad is None for parameter in backbone.unet.parameters())


def test_the_step_works_on_a_bf16_backbone_with_fp32_masters(pipeline_folder) -> None:
    losses, gradients = [], []
    for dtype in ("float32", "bfloat16"):
        module, loader = module_and_loader(load_backbone(str(pipeline_folder), dtype=dtype))
        loss = module.losses(loader.batch(0)).sum()
        loss.backward()
        assert loss.dtype == torch.float32
        assert all(parameter.dtype == torch.float32 for parameter in module.parameters())
        losses.append(loss.item())
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in module.parameters()]))
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.95


def test_training_lowers_the_loss_on_the_states_it_trains_on(backbone) -> None:
    module, loader = module_and_loader(backbone)
    for name, parameter in module.bank.named_parameters():
        if "lora_up" in name:
            torch.nn.init.zeros_(parameter)
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
    batches = [loader.batch(step) for step in range(4)]

    def total() -> float:
        with torch.no_grad():
            return sum(module.losses(batch).item() for batch in batches)

    before = total()
    for step in range(24):
        optimizer.zero_grad()
        module.losses(batches[step % 4]).sum().backward()
        optimizer.step()
    assert total() < 0.8 * before


def test_a_training_leaves_the_frozen_model_as_it_was(trained, pipeline_folder) -> None:
    result, _ = trained
    untouched = load_backbone(str(pipeline_folder), dtype="float32").unet.state_dict()
    for name, tensor in result.module.backbone.unet.state_dict().items():
        assert torch.equal(tensor, untouched[name]), name


def test_a_dense_slider_is_trained_checkpointed_and_written_alike(pipeline_folder, tmp_path) -> None:
    run = RunFolder(tmp_path / "run")
    result = train(pipeline_folder, run, adapter=DenseConfig("xattn"), max_steps=3)
    slider, metadata = load_slider(run.slider, result.module.backbone.unet)
    assert isinstance(slider, DenseSlider)
    assert metadata == SliderMetadata.of(DenseConfig("xattn"))
    for name, tensor in result.module.bank.sliders[0].state_dict().items():
        assert torch.equal(slider.state_dict()[name], tensor), name
        assert tensor.abs().sum() > 0, name
    checkpoint = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    assert set(checkpoint["state_dict"]) == {f"bank.sliders.0.{name}" for name in slider.state_dict()}


def test_the_slider_file_holds_the_trained_weights(trained) -> None:
    result, run = trained
    slider, metadata = load_slider(run.slider)
    assert metadata.rank == 2
    for name, tensor in result.module.bank.sliders[0].state_dict().items():
        assert torch.equal(slider.state_dict()[name], tensor), name
    assert any(tensor.abs().sum() > 0 for name, tensor in slider.state_dict().items() if "lora_up" in name)


def test_a_checkpoint_holds_slider_optimizer_and_loops_only(trained) -> None:
    _, run = trained
    checkpoint = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    assert all(name.startswith("bank.sliders.0.") for name in checkpoint["state_dict"])
    assert len(checkpoint["optimizer_states"]) == len(checkpoint["lr_schedulers"]) == 1
    assert checkpoint["global_step"] == 8
    slider_bytes = sum(tensor.nbytes for tensor in checkpoint["state_dict"].values())
    assert (run.checkpoints / "last.ckpt").stat().st_size < 3 * slider_bytes + 600 * len(checkpoint["state_dict"]) * 3


def test_costs_are_exact(trained) -> None:
    result, _ = trained
    assert result.cost.cost.sample_forwards == 8 * 2 * 4
    assert result.data.cost.sample_forwards == 2 * (4 * (2 + 2 * 2) - 1)
    assert result.data.cost.seconds > 0
    assert set(result.cost.cost.summary("train")) == {"cost/seconds/train", "cost/sample_forwards/train"}


def test_every_step_is_logged_as_a_json_line(trained) -> None:
    _, run = trained
    rows = run.read_metrics()
    assert [row["step"] for row in rows] == list(range(8))
    assert all(row["train/loss"] > 0 and row["seconds"] > 0 for row in rows)
    assert [json.loads(line) for line in run.metrics.read_text().splitlines()] == rows


def test_on_policy_data_feeds_the_same_step(pipeline_folder, tmp_path) -> None:
    result = train(pipeline_folder, RunFolder(tmp_path / "run"), data="rollout", max_steps=5, batch_size=2)
    # Ten states of buffers of eight: two buffers of two rollouts of four steps.
    buffers = 2 * 2 * (4 * (1 + 2 * 2) + 3 * 2)
    assert result.cost.cost.sample_forwards == 5 * 2 * 2 + buffers
    assert any(tensor.abs().sum() > 0 for name, tensor in result.weights().items() if "lora_up" in name)


def test_a_half_precision_cache_trains_the_same_slider_but_for_its_rounding(trained, pipeline_folder, tmp_path) -> None:
    """A score is off by 2^-11 of itself, so a difference of two by twice that over what share of a score it is."""
    exact, _ = trained
    half = train(pipeline_folder, RunFolder(tmp_path / "run"), batch_size=4, cache_dtype="float16")
    states = exact.data.modules[0].source.states[:]  # type: ignore[attr-defined]
    share = (states.eps_positive - states.eps_negative).norm() / states.eps_positive.norm()
    one, other = (
        torch.cat([slider.delta_weight(path).flatten() for path in slider.layer_paths]).detach()
        for slider in (exact.module.bank.sliders[0], half.module.bank.sliders[0])
    )
    assert 0 < (one - other).norm() < 2 * 2**-11 / share * one.norm()


@pytest.mark.parametrize("data", ["teacher", "pairs"])
def test_two_processes_train_the_slider_of_one_with_twice_the_batch(data, pipeline_folder, tmp_path) -> None:
    alone, run = RunFolder(tmp_path / "alone" / "run"), RunFolder(tmp_path / "run")
    result = train(pipeline_folder, alone, data=data, batch_size=4)
    arguments = [str(pipeline_folder), str(run.path), "--devices", "2", "--batch-size", "2", "--data", data]
    command = [sys.executable, "-m", "tests.short_training", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    told = [json.loads(line) for line in process.stdout.splitlines() if line.startswith('{"rank"')]
    assert sorted(each["rank"] for each in told) == [0, 1]
    # The folder was empty: what was built is built once, by one or the other, and both are told of it.
    assert [each["cache"] for each in told] == [result.data.cost.sample_forwards] * 2
    pair, _ = load_slider(run.slider)
    single = result.module.bank.sliders[0].state_dict()
    start = Slider(result.module.backbone.unet, AdapterConfig(rank=2, alpha=2.0), seed=0).state_dict()
    moved = torch.cat([(single[name] - start[name]).flatten() for name in start])
    apart = torch.cat([(single[name] - pair.state_dict()[name]).flatten() for name in start])
    assert apart.norm() < 1e-2 * moved.norm()
    assert [row["train/loss"] for row in run.read_metrics()] == pytest.approx(
        [row["train/loss"] for row in alone.read_metrics()], rel=1e-2
    )


def test_a_diverged_slider_is_never_written(pipeline_folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(OptimizerConfig, "lr_factor", lambda *args: float("nan"))
    run = RunFolder(tmp_path / "run")
    with pytest.raises(InputError, match="finite"):
        train(pipeline_folder, run, max_steps=2)
    assert not run.slider.exists()


@pytest.mark.parametrize(("decay", "middle"), [("cosine", 0.5), ("linear", 0.5), ("constant", 1.0)])
def test_the_learning_rate_warms_up_and_falls(decay, middle) -> None:
    config = OptimizerConfig(warmup_steps=4, decay=decay)
    factors = [config.lr_factor(step, 104) for step in range(105)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[54] == pytest.approx(middle)
    assert factors[104] == pytest.approx(1.0 if decay == "constant" else 0.0, abs=1e-12)
    assert min(factors[:104]) > 0
    assert config.lr_factor(29, 104) == pytest.approx({"cosine": 0.853553, "linear": 0.75, "constant": 1.0}[decay])


def test_a_trainer_without_max_steps_is_refused(backbone, tmp_path) -> None:
    embeds = ConceptEmbeds.encode(backbone, CONCEPT)
    bank = SliderBank(backbone.unet, [Slider(backbone.unet, AdapterConfig())])
    module = SliderModule(backbone, bank, [TextTask(backbone, embeds.target, TextObjective(), OptimizerConfig())])
    config = TeacherConfig(1, ROLLOUT)
    data = TeacherDataModule(backbone, embeds, tmp_path, config, batch_size=2, scale_range=ScaleRange(), seed=0)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, enable_model_summary=False, **quiet)
    with pytest.raises(InputError, match="max_steps"):
        trainer.fit(module, JointDataModule([data]))


def data_module(**draws: int) -> TeacherDataModule:
    return TeacherDataModule(None, None, Path("cache"), TeacherConfig(), scale_range=ScaleRange(), **draws)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda: OptimizerConfig(lr=0.0),
        lambda: OptimizerConfig(weight_decay=-1.0),
        lambda: OptimizerConfig(warmup_steps=-1),
        lambda: OptimizerConfig(decay="step"),  # type: ignore[arg-type]
        lambda: LastCheckpoint(Path("checkpoints"), every_n_steps=0),
        lambda: data_module(batch_size=0, seed=0),
        lambda: data_module(batch_size=1, seed=-1),
    ],
)
def test_settings_out_of_range_are_refused(make) -> None:
    with pytest.raises(InputError, match="Expected"):
        make()
