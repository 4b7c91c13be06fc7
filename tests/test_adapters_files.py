"""Slider files: round trips, what diffusers makes of them, the released layout, and what is refused."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.tiny_faces.pipeline import PipelineSize, build_unet
from slider_lightning.adapters import (
    AdapterConfig,
    Slider,
    SliderBank,
    SliderMetadata,
    adapted_layers,
    load_slider,
    save_slider,
)
from slider_lightning.errors import InputError

SIZE = PipelineSize(unet_channels=(32, 64), unet_layers=1, text_width=32, text_width_2=32)
METADATA = SliderMetadata(
    rank=3,
    alpha=1.5,
    layers="full",
    objective="text_enhance",
    concept={"name": "age", "target": "person", "preserve": ("man", "woman")},
    eta=2.0,
    base_model="tiny_faces",
    base_model_hash="0" * 64,
    useful_scales=(-2, 2),
    start_timestep=750,
)


@pytest.fixture
def unet() -> UNet2DConditionModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_unet(SIZE).requires_grad_(False).eval()


@pytest.fixture
def slider(unet: UNet2DConditionModel) -> Slider:
    slider = Slider(unet, METADATA.adapter_config, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for path in slider.layer_paths:
            slider.adapter(path).lora_up.normal_(std=0.1, generator=generator)
    return slider


@pytest.fixture
def saved(tmp_path: Path, slider: Slider) -> Path:
    path = tmp_path / "run" / "slider.safetensors"
    save_slider(path, slider, METADATA)
    return path


def predict(unet: UNet2DConditionModel) -> Tensor:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(2, *shape, generator=generator)

    conditions = {"text_embeds": draw(32), "time_ids": draw(6)}
    with torch.no_grad():
        return unet(draw(4, 8, 8), torch.tensor([10, 900]), draw(5, 64), added_cond_kwargs=conditions).sample


def assert_same(loaded: Slider, slider: Slider) -> None:
    state, expected = loaded.state_dict(), slider.state_dict()
    assert state.keys() == expected.keys()
    assert loaded.config == slider.config
    assert all(torch.equal(state[name], expected[name]) for name in expected)


@pytest.mark.parametrize("with_unet", [True, False])
def test_round_trip(saved: Path, slider: Slider, unet: UNet2DConditionModel, with_unet: bool) -> None:
    loaded, metadata = load_slider(saved, unet if with_unet else None)
    assert metadata == METADATA
    assert metadata.concept["preserve"] == ["man", "woman"]
    assert_same(loaded, slider)
    assert [path.name for path in saved.parent.iterdir()] == [saved.name], "nothing unfinished is left beside it"


def test_header_names_the_base_model_for_web_uis(saved: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        header = file.metadata()
    assert header["ss_base_model_version"].startswith("sdxl_")
    assert (header["ss_network_dim"], header["ss_network_alpha"]) == ("3", "1.5")


def test_diffusers_loads_the_same_delta(saved: Path, slider: Slider, unet: UNet2DConditionModel) -> None:
    theirs, base = deepcopy(unet), predict(unet)
    state_dict, network_alphas = StableDiffusionXLPipeline.lora_state_dict(saved, unet_config=unet.config)
    StableDiffusionXLPipeline.load_lora_into_unet(state_dict, network_alphas=network_alphas, unet=theirs)
    with SliderBank(unet, [slider]) as bank, bank.scales([[1.0]] * 2):
        ours = predict(unet)
    torch.testing.assert_close(predict(theirs), ours, rtol=1e-5, atol=1e-5)
    assert (ours - base).abs().max() > 1e-2
    layers = dict(theirs.named_modules())
    for path in slider.layer_paths:
        delta = layers[path].get_delta_weight(theirs.active_adapters()[0])
        torch.testing.assert_close(delta, slider.delta_weight(path), rtol=1e-5, atol=1e-6)


def write_released(path: Path, slider: Slider, dtype: torch.dtype) -> None:
    """A file as the released trainer writes it: torch-saved, with its keys, half precision and tensor alphas."""
    tensors: dict[str, Tensor] = {}
    for layer in slider.layer_paths:
        name, pair = "lora_unet_" + layer.replace(".", "_"), slider.adapter(layer)
        tensors[f"{name}.alpha"] = torch.tensor(slider.config.alpha, dtype=dtype)
        tensors[f"{name}.lora_down.weight"] = pair.lora_down.detach().to(dtype)
        tensors[f"{name}.lora_up.weight"] = pair.lora_up.detach().to(dtype)
    torch.save(tensors, path)


@pytest.mark.parametrize("layers", ["noxattn", "xattn", "selfattn", "full"])
def test_released_pt_files_are_read(tmp_path: Path, unet: UNet2DConditionModel, layers: str) -> None:
    slider, path = Slider(unet, AdapterConfig(rank=4, alpha=1.0, layers=layers)), tmp_path / "age.pt"
    write_released(path, slider, torch.bfloat16)
    loaded, metadata = load_slider(path, unet)
    assert metadata == SliderMetadata(rank=4, alpha=1.0, layers=layers)
    assert loaded.layer_paths == slider.layer_paths == tuple(adapted_layers(unet, layers))
    for layer in slider.layer_paths:
        down = loaded.adapter(layer).lora_down
        assert down.dtype == torch.float32
        assert torch.equal(down, slider.adapter(layer).lora_down.bfloat16().float())


def test_file_without_alpha_has_scaling_one(tmp_path: Path, saved: Path, unet: UNet2DConditionModel) -> None:
    path = tmp_path / "plain.safetensors"
    save_file({name: t for name, t in load_file(saved).items() if not name.endswith("alpha")}, path)
    slider, metadata = load_slider(path, unet)
    assert metadata.alpha == 3.0
    assert slider.scaling == 1.0
    assert metadata.objective is None


def edit(name: str, change: Callable[[Tensor], Tensor | None]) -> Callable[[Path], None]:
    """Write the file again with every tensor whose name ends in `name` changed, or left out for None."""

    def damage(path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
        changed = {key: change(t) if key.endswith(name) else t for key, t in load_file(path).items()}
        save_file({key: t for key, t in changed.items() if t is not None}, path, metadata=header)

    return damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "cut": cut,
    "bit": flip_a_bit,
    "empty": lambda path: path.write_bytes(b""),
    "values": edit("lora_up.weight", lambda t: t + 1),
    "half a pair": edit("conv1.lora_up.weight", lambda t: None),
    "alphas": edit("conv1.alpha", lambda t: t + 1),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_file_is_refused_by_name(saved: Path, kind: str) -> None:
    DAMAGES[kind](saved)
    with pytest.raises(InputError, match=str(saved)):
        load_slider(saved)


def foreign(saved: Path, path: Path, edit_tensors: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    save_file(edit_tensors(load_file(saved)), path)
    return path


FOREIGN = {
    "other names": lambda t: {"unet.conv_in.lora_A.weight": torch.ones(2, 2)},
    "nothing": lambda t: {},
    "infinite": lambda t: {name: value / 0 for name, value in t.items()},
    "half a pair": lambda t: {name: value for name, value in t.items() if "conv1.lora_up" not in name},
    "two ranks": lambda t: {name: value[:2] if "conv1.lora_down" in name else value for name, value in t.items()},
    "scalars": lambda t: {name: torch.tensor(1.0) for name in t},
    "unadapted layer": lambda t: {
        "lora_unet_conv_in.lora_down.weight": torch.ones(2, 4, 3, 3),
        "lora_unet_conv_in.lora_up.weight": torch.ones(32, 2, 1, 1),
    },
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_file_is_refused_by_name(saved: Path, unet: UNet2DConditionModel, kind: str) -> None:
    path = foreign(saved, saved.with_name("foreign.safetensors"), FOREIGN[kind])
    with pytest.raises(InputError, match=str(path)):
        load_slider(path, unet)


@pytest.mark.parametrize("content", [b"", b"no pickle at all", b"\x80\x02garbage"])
def test_unreadable_pt_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "age.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match="torch-saved"):
        load_slider(path)


def test_pt_of_something_else_is_refused_and_runs_no_code(tmp_path: Path) -> None:
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    torch.save({"path": Path("x")}, tmp_path / "object.pt")
    with pytest.raises(InputError, match="named tensors"):
        load_slider(tmp_path / "list.pt")
    with pytest.raises(InputError, match="UnpicklingError"):
        load_slider(tmp_path / "object.pt")


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(InputError, match="there is none"):
            load_slider(path)


def test_slider_of_another_unet_is_refused(saved: Path) -> None:
    wider = build_unet(PipelineSize(unet_channels=(32, 96), unet_layers=1, text_width=32, text_width_2=32))
    with pytest.raises(InputError, match="the model it was trained for"):
        load_slider(saved, wider)


def test_own_file_must_hold_every_layer_of_its_set(tmp_path: Path, unet: UNet2DConditionModel, slider: Slider) -> None:
    pairs = {p: (slider.adapter(p).lora_down, slider.adapter(p).lora_up) for p in slider.layer_paths[1:]}
    save_slider(tmp_path / "part.safetensors", Slider.from_weights(pairs, slider.config), METADATA)
    with pytest.raises(InputError, match=f"lacks {slider.layer_paths[0]}"):
        load_slider(tmp_path / "part.safetensors", unet)


def test_failed_write_leaves_the_old_file_and_nothing_else(
    saved: Path, slider: Slider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(tensors: dict[str, Tensor], filename: str, metadata: dict[str, str]) -> None:
        Path(filename).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    before = saved.read_bytes()
    monkeypatch.setattr("slider_lightning.adapters.containers.save_file", full_disk)
    with pytest.raises(InputError, match="No space left"):
        save_slider(saved, slider, METADATA)
    assert saved.read_bytes() == before
    assert len(list(saved.parent.iterdir())) == 1


def test_write_where_no_folder_can_be_is_refused(saved: Path, slider: Slider) -> None:
    with pytest.raises(InputError, match="Expected to write"):
        save_slider(saved / "below_a_file.safetensors", slider, METADATA)
    with pytest.raises(InputError, match=r"ending in \.safetensors"):
        save_slider(saved.with_suffix(".pt"), slider, METADATA)


def test_metadata_of_another_adapter_is_refused(tmp_path: Path, slider: Slider) -> None:
    with pytest.raises(ValueError, match="rank=4"):
        save_slider(tmp_path / "a.safetensors", slider, SliderMetadata(rank=4, alpha=1.5, layers="full"))
