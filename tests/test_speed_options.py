"""Settings of speed: each leaves predictions and gradients what they are, up to rounding, and does what it is for."""

import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from hydra import compose, initialize_config_dir
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.benchmarks.sdxl_size_step import SliderStep
from experiments.tiny_faces.pipeline import build_vae
from slider_lightning.adapters import AdapterConfig, SliderBank, new_slider
from slider_lightning.backbone import Backbone, SpeedConfig, load_backbone
from slider_lightning.concepts import Concept
from slider_lightning.config import CONF, ROOT, register_resolvers, run_id
from slider_lightning.data import ConceptEmbeds, RolloutConfig
from slider_lightning.data.states import rollout_noise, rollout_states
from slider_lightning.errors import InputError
from tests.conftest import SMALLEST

# Sums of fp32 taken in another order, through some ten layers and back: 1e-7 each, well below this.
TOLERANCE = 1e-4
PROMPTS = ["an old person", "a young person"]


def random_bank(unet: nn.Module, layers: str = "full", std: float = 0.1) -> SliderBank:
    """A bank of one slider that changes something."""
    bank = SliderBank(unet, [new_slider(AdapterConfig(rank=2, layers=layers), unet, seed=0)])
    generator = torch.Generator().manual_seed(1)
    for parameter in bank.parameters():
        nn.init.normal_(parameter, std=std, generator=generator)
    return bank


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def step(backbone: Backbone) -> tuple[list[Tensor], int]:
    """Prediction and gradients of a step, and the bytes that were stored for the backward pass."""
    bank = random_bank(backbone.unet)
    stored: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {weight.untyped_storage().data_ptr() for weight in backbone.unet.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), bank.scales([[1.0], [-2.0]]):
        noise_pred = backbone.predict_noise(
            drawn(2, 4, 16, 16), torch.tensor([900, 10]), backbone.encode_prompts(PROMPTS)
        )
    noise_pred.square().mean().backward()
    gradients = [parameter.grad for parameter in bank.parameters()]
    bytes_stored = sum(size for pointer, size in stored.items() if pointer not in weights)
    return [noise_pred.detach(), *(gradient for gradient in gradients if gradient is not None)], bytes_stored


def close(actual: list[Tensor], expected: list[Tensor]) -> None:
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=TOLERANCE * float(other.abs().max()))


@pytest.fixture
def faster(pipeline_folder: Path) -> Callable[..., Backbone]:
    """The smallest backbone with some settings."""
    return lambda **settings: load_backbone(str(pipeline_folder), speed=SpeedConfig(**settings))


def test_channels_last_changes_the_layout_and_no_number(backbone: Backbone, faster) -> None:
    changed = faster(channels_last=True)
    weight = changed.unet.down_blocks[0].resnets[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    close(step(changed)[0], step(backbone)[0])


def test_gradient_checkpointing_stores_less_and_changes_no_number(backbone: Backbone, faster) -> None:
    expected, stored = step(backbone)
    actual, stored_less = step(faster(gradient_checkpointing=True))
    close(actual, expected)
    assert stored_less < 0.6 * stored


def test_no_setting_changes_names_or_weights(backbone: Backbone, faster) -> None:
    changed = faster(compile="aot_eager", channels_last=True, gradient_checkpointing=True, vae_tiling=True)
    assert [name for name, _ in changed.unet.named_modules()] == [name for name, _ in backbone.unet.named_modules()]
    expected = backbone.unet.state_dict()
    assert list(changed.unet.state_dict()) == list(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in changed.unet.state_dict().items())


@torch.no_grad()
def test_vae_tiling_cuts_only_images_above_its_own_size(pipeline_folder: Path, backbone: Backbone, faster) -> None:
    latents = drawn(1, 4, 16, 16)
    assert torch.equal(faster(vae_tiling=True).decode(latents), backbone.decode(latents))
    large = load_backbone(str(pipeline_folder), resolution=128, speed=SpeedConfig(vae_tiling=True))
    sizes: list[int] = []
    large.vae.decoder.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[-1]))
    images = large.decode(drawn(1, 4, 32, 32))
    assert images.shape == (1, 3, 128, 128)
    assert len(sizes) > 1
    assert max(sizes) <= 16


class Operators(TorchDispatchMode):
    """Names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_attention_is_fused_without_a_setting(backbone: Backbone) -> None:
    attentions = [module for module in backbone.unet.modules() if isinstance(module, Attention)]
    assert attentions
    assert all(type(attention.processor) is AttnProcessor2_0 for attention in attentions)
    embeds = backbone.encode_prompts(PROMPTS)
    with torch.no_grad(), Operators() as operators:
        backbone.predict_noise(drawn(2, 4, 16, 16), 500, embeds)
    fused = [name for name in operators.names if "scaled_dot_product" in name]
    assert len(fused) == len(attentions)


# torch.compile


def smallest_unet() -> UNet2DConditionModel:
    """One resolution with attention: torch.compile takes seconds for every layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8,),
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("UpBlock2D",),
            mid_block_type=None,
            layers_per_block=1,
            attention_head_dim=1,
            cross_attention_dim=16,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=64,
            norm_num_groups=4,
        )
        return unet.requires_grad_(False).eval()


def predict(unet: UNet2DConditionModel) -> Tensor:
    conditions = {"text_embeds": drawn(2, 16), "time_ids": drawn(2, 6)}
    return unet(drawn(2, 4, 8, 8), torch.tensor([500, 10]), drawn(2, 5, 16), added_cond_kwargs=conditions).sample


def seen(unet: UNet2DConditionModel) -> Iterator[list[Tensor]]:
    """What a program sees of a UNet that sliders come to and go from, with gradients and without."""
    with torch.no_grad():
        yield [predict(unet)]
    with random_bank(unet, "selfattn", std=0.5) as bank:
        for scale in (1.0, -2.0):
            bank.zero_grad()
            with bank.scales([[scale], [0.5]]):
                noise_pred = predict(unet)
            noise_pred.square().mean().backward()
            yield [noise_pred.detach(), *(parameter.grad.clone() for parameter in bank.parameters())]
        with torch.no_grad():
            for scale in (1.0, -2.0):
                with bank.scales([[scale]] * 2):
                    yield [predict(unet)]
            with bank.folded([1.0]):
                yield [predict(unet)]
    with torch.no_grad():
        yield [predict(unet)]


def test_a_compiled_unet_follows_sliders_that_come_and_go() -> None:
    expected = list(seen(smallest_unet()))
    compiled = smallest_unet()
    SpeedConfig(compile="aot_eager").apply(compiled, build_vae(SMALLEST))
    for number, (actual, wanted) in enumerate(zip(seen(compiled), expected, strict=True)):
        close(actual, wanted)
        assert number in (0, 6) or not torch.allclose(wanted[0], expected[0][0], rtol=1e-2, atol=1e-3)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(InputError, match=r"model.speed.compile to be null or one of .*inductor.*'fastest'"):
        SpeedConfig(compile="fastest")


# Identity and precision


def test_speed_is_no_part_of_a_runs_name() -> None:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        names = [
            run_id("model", _root_=compose("train", ["experiment=age", *overrides]))
            for overrides in (
                [],
                ["model.speed.gradient_checkpointing=true", "model.speed.compile=inductor"],
                ["~model.speed"],
                ["model.dtype=bfloat16"],
            )
        ]
    assert names[0] == names[1] == names[2] != names[3]


def test_training_on_a_bf16_backbone_keeps_fp32_and_comes_out_alike(pipeline_folder: Path, backbone: Backbone) -> None:
    concept, adapter = Concept("age", "a person", *PROMPTS), AdapterConfig(rank=2, alpha=2.0)
    half = load_backbone(str(pipeline_folder), dtype="bfloat16")
    moved = []
    for model in (backbone, half):
        trained = SliderStep(model, concept, adapter)
        noise = rollout_noise(backbone, 0, range(2))
        states = rollout_states(backbone, ConceptEmbeds.encode(backbone, concept), noise, RolloutConfig(4))
        for number in range(12):
            loss = trained.run(trained.batch(states, [(4 * number + row) % len(states) for row in range(4)]))
            assert loss.dtype is torch.float32
        moments = [moment for state in trained.optimizer.state.values() for moment in state.values()]
        assert {tensor.dtype for tensor in (*trained.bank.parameters(), *moments)} == {torch.float32}
        slider = trained.bank.sliders[0]
        moved.append(torch.cat([slider.delta_weight(path).flatten() for path in slider.layer_paths]).detach())
        trained.bank.detach()
    # bf16 keeps 8 bits: a prediction is off by up to 2^-9 of itself at every layer, a fifth of the direction that these
    # steps learn (2% of a score), and that averages out in the gradient of a batch. With seeds 0, 1, 2 of the noise the
    # cosine was 0.9962 to 0.9969 and the ratio 0.995 to 0.997: these bounds are four times as wide.
    assert torch.cosine_similarity(moved[0], moved[1], dim=0) > 0.985
    assert 0.98 < moved[1].norm() / moved[0].norm() < 1.02


FREES = """
import resource, torch
from slider_lightning.entry import entry_point

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for size in (1, 3, 9, 27, 81):
        torch.ones(size, 1024, 1024 // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

@entry_point("benchmark/compose")
def command(config):
    faults()
    print(handed_back, faults())

faults()
handed_back = faults()
command()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_commands_take_the_memory_of_freed_tensors_again() -> None:
    told = subprocess.run([sys.executable, "-c", FREES], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    handed_back, kept = map(int, told.split())
    # A page for every 4 KiB, or for every 2 MiB where the system joins them.
    assert handed_back > 40
    assert kept < handed_back / 10
