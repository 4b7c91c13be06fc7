"""The benchmark of SDXL's size: its counts against closed forms, its step against the module's, and a real run."""

import copy
import json
from functools import partial
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from experiments.benchmarks.released_step import ReleasedConfig, draw_step
from experiments.benchmarks.sdxl_size import sdxl_size
from experiments.benchmarks.sdxl_size_measures import Case, run_whole
from experiments.benchmarks.sdxl_size_model import UNetSize, build_unet, random_backbone
from experiments.benchmarks.sdxl_size_operations import counted, counted_forward, counted_step, meta_backbone
from experiments.benchmarks.sdxl_size_step import GRADIENT_CLIP, SliderStep
from slider_lightning.adapters import AdapterConfig, adapted_layers
from slider_lightning.backbone import Backbone, SpeedConfig
from slider_lightning.concepts import Concept
from slider_lightning.data import RolloutConfig
from slider_lightning.data.states import rollout_noise, rollout_states
from slider_lightning.objectives import TextObjective
from slider_lightning.training import OptimizerConfig, SliderModule, TextTask
from tests.conftest import composed

TINY = UNetSize((8, 16, 16), (1, 2, 2), (1, 1, 1), prompt_width=16, pooled_width=8, norm_groups=4)
# Wide enough that adapters of rank 1 weigh little.
WIDER = UNetSize((32, 64, 128), (1, 2, 4), (1, 1, 2), prompt_width=64, pooled_width=32, norm_groups=8)
CONCEPT = Concept("age", "a person", "an old person", "a young person", ("man", "woman"))
ADAPTER = AdapterConfig(rank=1)
RESOLUTION = 64


@pytest.fixture
def tiny() -> Backbone:
    return random_backbone(TINY, resolution=RESOLUTION, dtype=torch.float32, device="cpu")


def test_the_whole_architecture_is_that_of_sdxl_base() -> None:
    with torch.device("meta"):
        unet = build_unet(UNetSize())
    assert sum(parameter.numel() for parameter in unet.parameters()) == 2_567_463_684
    assert len(adapted_layers(unet, "noxattn")) == 346
    assert len(adapted_layers(unet, "full")) == 626


def products_by_hand(backbone: Backbone) -> dict[str, int]:
    """Operations of a forward of one row by path: what each Linear, Conv2d and attention itself multiplies."""
    found: dict[str, int] = {}

    def layer(path: str, module: nn.Module, _: Any, output: Tensor) -> None:
        found[path] = 2 * output.numel() * module.weight[0].numel()

    def attention(path: str, _: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        batch, queries, width = output.shape
        context = kwargs.get("encoder_hidden_states")
        keys = queries if context is None else context.shape[1]
        found[path] = 2 * 2 * batch * queries * keys * width

    for path, module in backbone.unet.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(partial(layer, path))
        elif path.endswith(("attn1", "attn2")):
            module.register_forward_hook(partial(attention, path), with_kwargs=True)
    latents = torch.zeros(1, *backbone.latent_shape)
    with torch.no_grad():
        backbone.predict_noise(latents, 500, backbone.encode_prompts(["a person"]))
    return found


def test_a_forward_is_counted_as_the_sum_of_its_layers(tiny: Backbone) -> None:
    by_hand = sum(products_by_hand(tiny).values())
    assert counted_forward(meta_backbone(TINY, RESOLUTION)) == by_hand
    assert counted_forward(meta_backbone(TINY, RESOLUTION), rows=3) == 3 * by_hand


def test_a_convolution_is_counted_in_closed_form() -> None:
    conv = nn.Conv2d(3, 5, 3, padding=1, device="meta")
    assert counted(lambda: conv(torch.zeros(2, 3, 8, 8, device="meta"))) == 2 * (2 * 5 * 8 * 8) * (3 * 3 * 3)


def test_frozen_weights_make_a_step_of_two_forwards_and_checkpointing_one_of_three() -> None:
    by_hand = products_by_hand(random_backbone(WIDER, resolution=RESOLUTION, dtype=torch.float32, device="cpu"))
    forward = sum(by_hand.values())
    # The gradients of the weights, a third forward in full training, are missing. The prompt needs none either, and
    # self-attention multiplies two activations, of which both have one.
    prompt = sum(count for path, count in by_hand.items() if path.endswith(("attn2.to_k", "attn2.to_v")))
    self_attention = sum(count for path, count in by_hand.items() if path.endswith("attn1"))
    expected = 2 * forward - prompt - by_hand["conv_in"] + self_attention
    step = counted_step(meta_backbone(WIDER, RESOLUTION), ADAPTER) / 2
    again = counted_step(meta_backbone(WIDER, RESOLUTION, SpeedConfig(gradient_checkpointing=True)), ADAPTER) / 2
    # Adapters of rank 1 add a few percent; what lies outside the checkpointed blocks is not computed again.
    assert 1.0 < step / expected < 1.05
    assert 0.8 < (again - step) / forward < 1.05


def test_the_step_is_a_trainers(tiny: Backbone) -> None:
    step = SliderStep(tiny, CONCEPT, ADAPTER)
    for parameter in step.bank.parameters():
        nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    start = copy.deepcopy(step.bank.state_dict())
    states = rollout_states(tiny, step.embeds, rollout_noise(tiny, 0, [0]), RolloutConfig(2))
    batch = step.batch(states, [0, 1, 1])
    losses = [step.run(batch).item() for _ in range(3)]
    assert losses[-1] < losses[0]
    moved = copy.deepcopy(step.bank.state_dict())
    step.bank.load_state_dict(start)
    task = TextTask(tiny, step.embeds.target, TextObjective(), OptimizerConfig(warmup_steps=0, decay="constant"))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(
        accelerator="cpu", max_steps=3, gradient_clip_val=GRADIENT_CLIP, enable_model_summary=False, **quiet
    )
    trainer.fit(SliderModule(tiny, step.bank, [task]), DataLoader([(batch,)] * 3, batch_size=None))
    for name, tensor in step.bank.state_dict().items():
        torch.testing.assert_close(tensor, moved[name], rtol=1e-5, atol=1e-7)
        assert not torch.equal(tensor, start[name])


def test_a_whole_slider_is_cached_and_trained(tiny: Backbone) -> None:
    step = SliderStep(tiny, CONCEPT, ADAPTER)
    case = Case(RESOLUTION, states=2, frozen_rows=4)
    found = run_whole(step, case, rollouts=2, rollout_steps=3, trained=4)
    assert found["sample_forwards"] == 2 * (3 * (2 + 2 * 2) - 1) + 2 * 4 + 8 * 2 * 4
    assert found["seconds"] == pytest.approx(sum(found[f"{part}_seconds"] for part in ("cache", "train", "checks")))


def tiny_config(tmp_path, *overrides: str) -> dict[str, Any]:
    return composed(
        "benchmark/sdxl_size",
        f"paths.outputs={tmp_path}",
        "size.unet={channels:[8,16,16],heads:[1,2,2],depths:[1,1,1],prompt_width:16,pooled_width:8,norm_groups:4}",
        "size.matrix=64",
        "size.cases=[{resolution:64,states:3,frozen_rows:4,steps:2,warmup_steps:1,released_steps:1}]",
        "adapter.rank=1",
        *overrides,
    )


def test_the_benchmark_measures_both_sides(tmp_path) -> None:
    config = tiny_config(tmp_path, "size=small")
    (case,) = json.loads(sdxl_size(config).read_text())["cases"]
    phrases = len(config["concept"]["preserve"])
    assert case["step"]["sample_forwards"] == 2 * 3 * 2
    assert case["cache"]["sample_forwards"] == 2 * (2 * (2 + 2 * phrases) - 1)
    first = draw_step(1, phrases, ReleasedConfig())  # the step before it warms up
    assert case["released_step"]["sample_forwards"] == 2 * first.rollout_steps + 8
    assert case["host_waits_per_step"] is None
    part, guess = case["step"], case["projection"]
    assert part["tflops"] == pytest.approx(case["operations_per_row"]["step"] * 12 / part["seconds"] / 1e12)
    assert part["share_of_matmul"] == pytest.approx(part["tflops"] / case["matmul_tflops"])
    assert guess["cache_sample_forwards"] == 16 * 25 * (2 + 2 * phrases) - 16
    assert guess["sample_forwards"] == guess["cache_sample_forwards"] + 2 * 1000 + 8 * 2 * 6
    assert guess["released_sample_forwards_per_sample"] == 58
    assert guess["train_seconds"] == pytest.approx(part["seconds"] / 2 * 1000 / 3)
    assert guess["ratio"] == pytest.approx(guess["released_seconds"] / guess["seconds"])


def test_without_a_gpu_it_counts_and_says_so(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads(sdxl_size(tiny_config(tmp_path)).read_text())
    gpu = torch.cuda.is_available()
    assert bool(report["cases"]) is gpu
    assert ("nothing of this size was timed" in " ".join(capsys.readouterr().out.split())) is not gpu
    assert report["operations_per_row"][0]["step"] > report["operations_per_row"][0]["forward"] > 0
