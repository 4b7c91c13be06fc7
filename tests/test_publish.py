"""Publishing a run: a card that the hub can read, figures of the run alone, code that runs, and one commit."""

import base64
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import HfApi, ModelCard
from PIL import Image

from slider_lightning.adapters import (
    AdapterConfig,
    DenseConfig,
    SliderBank,
    SliderMetadata,
    load_slider,
    new_slider,
    save_slider,
)
from slider_lightning.backbone import Backbone, SamplerConfig, initial_noise, load_backbone
from slider_lightning.errors import InputError
from slider_lightning.generation import generate_images
from slider_lightning.model_card import CONFIG_FILE, PEFT_FILE, STRIP_FILE
from slider_lightning.publish import PublishConfig, publish, without_places
from slider_lightning.training import RunFolder
from slider_lightning.training.run_folder import write_json
from tests.conftest import composed

CONCEPT = {"name": "age", "target": "a person", "positive": "an old person", "negative": "a young person"}
SUMMARY = {
    "train/last_loss": 0.5,
    "eval/attribute_shift/age/-1": {"mean": -1.46978, "ci95": [-1.6, -1.33], "n": 64},
    "eval/attribute_shift/gender/-1": {"mean": 0.98765, "ci95": [-0.03, 0.3], "n": 64},
    "eval/attribute_range/age": {"mean": 3.9966, "ci95": [3.9, 4.08], "n": 64},
    "eval/interference": {"mean": 0.2539, "ci95": [0.19, 0.32], "n": 256},
    "eval/spearman": {"mean": None, "ci95": [None, None], "n": 64},
    "eval/settings/evaluation": {"target": "age", "grids": "/somewhere/of/mine"},
    "eval/settings/sampler": {"num_inference_steps": 4, "guidance_scale": 3.0},
    "eval/settings/judges": {"classifier": "tiny_faces probe"},
}


@pytest.fixture(scope="module")
def frozen(pipeline_folder: Path) -> Backbone:
    return load_backbone(str(pipeline_folder), dtype="float32")


def write_run(path: Path, backbone: Backbone, adapter: AdapterConfig | DenseConfig) -> RunFolder:
    """A run folder as training leaves it, with weights drawn instead of trained."""
    run = RunFolder(path)
    config = composed("train", "experiment=age", "logger=csv", f"run={path}", f"paths.cache={path}")
    config["sampler"] |= {"num_inference_steps": 4, "guidance_scale": 3.0, "start_timestep": 600}
    config["model"]["path"] = backbone.name
    run.write_config(yaml.safe_dump(config))
    slider = new_slider(adapter, backbone.unet, seed=1)
    with torch.no_grad():
        for parameter in slider.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.4)
    metadata = SliderMetadata.of(
        adapter, concept=CONCEPT, eta=2.0, base_model=backbone.name, useful_scales=(-2, 2), start_timestep=600
    )
    save_slider(run.slider, slider, metadata)
    write_json(run.summary, SUMMARY)
    Image.new("RGB", (8, 8)).save(run.strip)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, frozen: Backbone) -> RunFolder:
    return write_run(tmp_path_factory.mktemp("run"), frozen, AdapterConfig(3, 1.5, "noxattn"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, run: RunFolder, frozen: Backbone) -> Path:
    target = tmp_path_factory.mktemp("published")
    asked = PublishConfig(str(run.path), folder=str(target), licence="apache-2.0", base_model=frozen.name)
    assert publish(asked, HfApi()) == str(target)
    return target


def test_folder_holds_the_slider_for_every_program_and_no_place_of_this_machine(
    folder: Path, run: RunFolder, tmp_path: Path
) -> None:
    names = {"README.md", "age.safetensors", PEFT_FILE, STRIP_FILE, CONFIG_FILE}
    assert {path.name for path in folder.iterdir()} == names
    expected, metadata = load_slider(run.slider)
    for name in ("age.safetensors", PEFT_FILE):
        slider, found = load_slider(folder / name)
        assert found == metadata
        assert all(torch.equal(slider.state_dict()[key], t) for key, t in expected.state_dict().items())
    settings = (folder / CONFIG_FILE).read_text()
    assert yaml.safe_load(settings)["concept"]["name"] == "age"
    assert str(run.path) not in settings + (folder / "README.md").read_text()
    assert without_places({"a": ["/x/y", "z/w", 3]}) == {"a": ["y", "z/w", 3]}


def test_card_is_what_the_hub_reads(folder: Path) -> None:
    card = ModelCard.load(folder / "README.md")
    data = card.data.to_dict()
    assert (data["license"], data["library_name"]) == ("apache-2.0", "diffusers")
    assert {"lora", "stable-diffusion-xl", "template:sd-lora", "concept-slider"} <= set(data["tags"])
    assert data["widget"] == [{"text": "image of a person", "output": {"url": STRIP_FILE}}]
    assert "base_model" not in data, "a folder is no model on the hub"
    for words in ("an old person", "-2 to +2", "timestep 600", "<lora:age:-1>", "slider_lightning.generate"):
        assert words in card.text


def test_figures_of_the_card_are_those_of_the_run(folder: Path) -> None:
    rows = re.findall(
        r"^\| `(.+)` \| (\S+)(?: \[(\S+), (\S+)\])? \| (\d+) \|$", (folder / "README.md").read_text(), re.M
    )
    assert [row[0] for row in rows] == ["attribute_shift/age/-1", "attribute_range/age", "interference", "spearman"]
    for name, *numbers, count in rows:
        value: dict[str, Any] = SUMMARY[f"eval/{name}"]  # type: ignore[assignment]
        assert int(count) == value["n"]
        known = [value["mean"], *value["ci95"]]
        if value["mean"] is not None:
            assert [float(number) for number in numbers] == pytest.approx(known, abs=5e-4)


def test_code_of_the_card_draws_the_image_of_our_sampler(
    folder: Path, run: RunFolder, frozen: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    monkeypatch.chdir(folder)
    seed = torch.Generator("cpu").manual_seed(0)
    latents = torch.randn(1, *frozen.latent_shape, generator=seed)
    variables: dict[str, Any] = {}
    try:
        exec(code, variables)
        theirs = torch.tensor(list(Image.open("age.png").convert("RGB").tobytes())) / 255
    finally:
        Path("age.png").unlink(missing_ok=True)
    sampler = SamplerConfig(num_inference_steps=4, guidance_scale=3.0, start_timestep=600)
    slider, _ = load_slider(run.slider, frozen.unet)
    assert torch.equal(latents, initial_noise(frozen.latent_shape, [0])), "both draw the seed's noise alike"
    with SliderBank(frozen.unet, [slider]) as bank:
        on, off = generate_images(frozen, bank, "image of a person", [0], [1.0, 0.0], sampler)[0]
    ours = on.permute(1, 2, 0).flatten()
    # A PNG rounds to 1/255.
    assert (theirs - ours).abs().max() <= 0.5 / 255 + 1e-4
    assert (on - off).abs().max() > 10 / 255


def test_dense_sliders_are_published_for_those_who_read_them(tmp_path: Path, frozen: Backbone) -> None:
    run = write_run(tmp_path / "run", frozen, DenseConfig("noxattn"))
    write_json(run.summary, {"train/last_loss": 0.5})
    run.strip.unlink()
    publish(PublishConfig(str(run.path), folder=str(tmp_path / "out"), base_model="user/sdxl"), HfApi())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "age.safetensors", CONFIG_FILE}
    card = ModelCard.load(tmp_path / "out" / "README.md")
    data = card.data.to_dict()
    assert data["base_model"] == "user/sdxl"
    assert not {"license", "widget", "library_name"} & data.keys()
    assert "diffusers does not load dense sliders" in card.text
    assert "It was not measured" in card.text


def test_what_cannot_be_published_is_refused(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="repo=USER/NAME"):
        PublishConfig(str(run.path))
    with pytest.raises(InputError, match="USER/NAME"):
        PublishConfig(str(run.path), repo="a/b/c")
    with pytest.raises(InputError, match="fp32, fp16, bf16"):
        PublishConfig(str(run.path), repo="a/b", dtype="int8")
    with pytest.raises(InputError, match="base_model=ID"):
        publish(PublishConfig(str(run.path), folder=str(tmp_path)), HfApi())
    assert not list(tmp_path.iterdir())


def test_publish_config_composes() -> None:
    assert composed("publish", "run=RUN", "folder=DIR")["licence"] is None


class Hub(BaseHTTPRequestHandler):
    """The few answers that creating a repository and committing small files ask of a hub."""

    committed: dict[str, bytes]
    created: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer: dict[str, Any] = {}
        if self.path == "/api/repos/create":
            self.created.append(json.loads(body))
            answer = {"url": f"http://{self.headers['Host']}/user/age"}
        elif "/preupload/" in self.path:
            named = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            answer = {"files": [{**file, "shouldIgnore": False} for file in named]}
        elif "/commit/" in self.path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.committed[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            answer = {"commitUrl": f"http://{self.headers['Host']}/user/age/commit/1", "commitOid": "1" * 40}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.committed, Hub.created = {}, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_upload_commits_what_was_written_and_nothing_else(run: RunFolder, tmp_path: Path, hub: str) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    asked = PublishConfig(str(run.path), "user/age", str(tmp_path), base_model="user/sdxl", dtype="fp16", private=True)
    assert publish(asked, HfApi(endpoint=hub, token="hf_test")).endswith("/user/age")
    assert [created["visibility"] for created in Hub.created] == ["private"]
    assert Hub.committed.keys() == {"README.md", "age.safetensors", PEFT_FILE, STRIP_FILE, CONFIG_FILE}
    assert all((tmp_path / name).read_bytes() == content for name, content in Hub.committed.items())
    assert "load_lora_weights('user/age'" in Hub.committed["README.md"].decode()


def test_hub_that_is_away_is_told_in_one_sentence(run: RunFolder, hub: str) -> None:
    asked = PublishConfig(str(run.path), "user/age", base_model="user/sdxl")
    with pytest.raises(InputError, match="Expected the hub to take user/age"):
        publish(asked, HfApi(endpoint="http://127.0.0.1:9", token="hf_test"))
    assert not Hub.committed
