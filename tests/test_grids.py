"""Grids: keys, going on after a kill, and images that are verified when they are read."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from evaluation.grids import (
    BaseMethod,
    GridRow,
    GridSpec,
    ImageGrid,
    PromptSet,
    base_grid,
    check_same_rows,
    make_grid,
)
from slider_lightning.assets import sha256_file
from slider_lightning.backbone import Backbone, SamplerConfig, load_backbone
from slider_lightning.errors import InputError

SPEC = GridSpec(PromptSet("two", ("a man", "a woman"), ("image of {}",)), seeds_per_prompt=3, first_seed=5)
SCALES = (-1.0, 2.0)
SAMPLER = SamplerConfig(num_inference_steps=2)


@dataclass
class Drawn:
    """A method without a model, whose images depend on the composition of the batch, as floats may."""

    name: str = "drawn"
    version: int = 1
    fails_at: int | None = None
    change: Callable[[Tensor], Tensor] = lambda images: images
    calls: list[tuple[int, ...]] = field(default_factory=list)

    def depends_on(self) -> dict[str, Any]:
        return {"version": self.version}

    def generate(
        self,
        backbone: Backbone,
        rows: Sequence[GridRow],
        scales: Sequence[float],
        sampler: SamplerConfig,
        *,
        batch_size: int,
    ) -> Tensor:
        self.calls.append(tuple(row.seed for row in rows))
        if len(self.calls) == self.fails_at:
            raise RuntimeError("killed")
        images = torch.empty(len(rows), len(scales), 3, 8, 8)
        for i, row in enumerate(rows):
            for j, scale in enumerate(scales):
                generator = torch.Generator().manual_seed(1000 * row.seed + int(10 * scale) + sum(self.calls[-1]))
                images[i, j] = torch.rand(3, 8, 8, generator=generator)
        return self.change(images)


def make(
    root: Path, backbone: Backbone, method: Drawn, *, spec: GridSpec = SPEC, scales: Sequence[float] = SCALES, **kwargs
) -> ImageGrid:
    return make_grid(root, backbone, method, spec, scales, SAMPLER, **{"batch_size": 2, **kwargs})


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture(scope="module")
def backbone(pipeline_folder: Path) -> Backbone:
    """One for all: only the base grid asks it for images."""
    return load_backbone(str(pipeline_folder))


# The folder


def test_a_grid_says_what_it_holds_and_is_found_again(tmp_path: Path, backbone: Backbone) -> None:
    method = Drawn()
    grid = make(tmp_path, backbone, method, scales=(2, -1))
    assert grid.folder.parent == tmp_path / "drawn"
    assert method.calls == [(5, 6), (7, 8), (9, 10)]
    again = ImageGrid.open(grid.folder)
    assert (again.rows, again.scales, again.method, again.settings) == (SPEC.rows, SCALES, "drawn", grid.settings)
    records = [json.loads(line) for line in (grid.folder / "manifest.jsonl").read_text().splitlines()]
    assert [(r["prompt"], r["noun"], r["seed"], r["scale"]) for r in records] == [
        (row.prompt, row.noun, row.seed, scale) for row in SPEC.rows for scale in SCALES
    ]
    assert records[7]["id"] == "001-000008-+2"
    assert len({record["id"] for record in records}) == 12
    for record in records:
        with Image.open(grid.folder / record["file"]) as image:
            assert (image.format, image.mode) == ("PNG", "RGB")
        assert sha256_file(grid.folder / record["file"]) == record["sha256"]
    for number, start in enumerate(range(0, 6, 2)):
        drawn = Drawn().generate(backbone, SPEC.rows[start : start + 2], SCALES, SAMPLER, batch_size=2)
        for column, scale in enumerate(SCALES):
            read = again.images(scale, slice(start, start + 2))
            assert (read - drawn[:, column]).abs().max() <= 0.5 / 255 + 1e-6, number
            assert torch.equal(read, again.images(scale)[start : start + 2])


def test_a_grid_is_named_by_all_that_decides_it(
    tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"scales": (-1, 2, 3)},
        {"batch_size": 3},
        {"spec": replace(SPEC, first_seed=6)},
        {"method": Drawn(version=2)},
        {"method": Drawn(name="other")},
    ]
    folders = {make(tmp_path, backbone, **{"method": Drawn(), **change}).folder.name for change in changes}
    samplers = [replace(SAMPLER, guidance_scale=2.0), replace(SAMPLER, start_timestep=600)]
    folders |= {make_grid(tmp_path, backbone, Drawn(), SPEC, SCALES, s, batch_size=2).folder.name for s in samplers}
    monkeypatch.setattr(backbone, "fingerprint", "another model")
    folders.add(make(tmp_path, backbone, Drawn()).folder.name)
    monkeypatch.setattr(backbone, "resolution", 32)
    folders.add(make(tmp_path, backbone, Drawn()).folder.name)
    assert len(folders) == len(changes) + len(samplers) + 2
    assert make(tmp_path / "elsewhere", backbone, Drawn()).folder.name in folders


def test_scales_that_print_alike_have_ids_of_their_own(tmp_path: Path, backbone: Backbone) -> None:
    grid = make(tmp_path, backbone, Drawn(), scales=(0.1, 0.1 + 1e-9))
    assert len(list((grid.folder / "images").iterdir())) == 12


def test_a_whole_grid_is_read_without_generating(tmp_path: Path, backbone: Backbone) -> None:
    first, reports = make(tmp_path, backbone, Drawn()), []
    method = Drawn()
    second = make(tmp_path, backbone, method, progress=lambda *counts: reports.append(counts))
    assert (method.calls, reports) == ([], [])
    assert second == first


def test_the_base_grid_is_shared_by_all_start_timesteps(tmp_path: Path, backbone: Backbone) -> None:
    spec, before = replace(SPEC, seeds_per_prompt=1), backbone.sample_forwards
    base = base_grid(tmp_path, backbone, spec, SAMPLER, batch_size=2)
    forwards = backbone.sample_forwards
    later = base_grid(tmp_path, backbone, spec, replace(SAMPLER, start_timestep=300), batch_size=2)
    assert later == base
    assert backbone.sample_forwards == forwards > before
    assert base.images(0.0).shape == (2, 3, 64, 64)
    assert (base.images(0.0)[0] - base.images(0.0)[1]).abs().max() > 0.05


# Going on


@pytest.mark.parametrize("kill_at", [1, 3, 4, 11])
def test_a_killed_grid_ends_with_the_bytes_of_an_undisturbed_one(
    tmp_path: Path, backbone: Backbone, kill_at: int
) -> None:
    undisturbed = make(tmp_path / "whole", backbone, Drawn())

    def killed(done: int, total: int) -> None:
        if done == kill_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "killed", backbone, Drawn(), progress=killed)
    folder = tmp_path / "killed" / undisturbed.folder.relative_to(tmp_path / "whole")
    assert len(list((folder / "images").iterdir())) == kill_at
    written = {path.name: path.stat().st_mtime_ns for path in (folder / "images").iterdir()}
    method, reports = Drawn(), []
    make(tmp_path / "killed", backbone, method, progress=lambda *counts: reports.append(counts))
    assert content(folder) == content(undisturbed.folder)
    assert method.calls == [(5, 6), (7, 8), (9, 10)][kill_at // 4 :]
    assert reports == [(done, 12) for done in range(kill_at, 13)]
    assert written.items() <= {p.name: p.stat().st_mtime_ns for p in (folder / "images").iterdir()}.items()


def test_a_method_that_fails_leaves_what_was_made(tmp_path: Path, backbone: Backbone) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        make(tmp_path, backbone, Drawn(fails_at=2))
    method = Drawn()
    grid = make(tmp_path, backbone, method)
    assert method.calls == [(7, 8), (9, 10)]
    assert content(grid.folder) == content(make(tmp_path / "whole", backbone, Drawn()).folder)


def test_missing_and_damaged_images_are_listed_and_made_anew(tmp_path: Path, backbone: Backbone) -> None:
    grid = make(tmp_path, backbone, Drawn())
    before = content(grid.folder)
    (grid.folder / "images" / "001-000008--1.png").unlink()
    damaged = grid.folder / "images" / "000-000006--1.png"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    expected = "missing are 001-000008--1 and damaged are 000-000006--1; run the grid again"
    with pytest.raises(InputError, match=f"6 whole images in .* but {expected}"):
        grid.images(-1.0)
    assert grid.images(2.0).shape == (6, 3, 8, 8)
    method = Drawn()
    make(tmp_path, backbone, method)
    assert method.calls == [(5, 6), (7, 8)]
    assert content(grid.folder) == before


def test_long_lists_of_ids_are_cut(tmp_path: Path, backbone: Backbone) -> None:
    grid = make(tmp_path, backbone, Drawn(), spec=replace(SPEC, seeds_per_prompt=7))
    for path in (grid.folder / "images").glob("*+2.png"):
        path.unlink()
    with pytest.raises(InputError, match=r"000-000005-\+2, .* and 4 more; run the grid again"):
        grid.images(2.0)


@pytest.mark.parametrize("damage", ["cut last line", "damaged line", "no manifest", "no grid.json"])
def test_a_damaged_record_is_mended(tmp_path: Path, backbone: Backbone, damage: str) -> None:
    grid = make(tmp_path, backbone, Drawn())
    before = content(grid.folder)
    manifest = grid.folder / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    if damage == "cut last line":
        manifest.write_text("".join(lines)[:-20])
    elif damage == "damaged line":
        manifest.write_text("".join([*lines[:3], "{}\n", "\x00\n", *lines[4:]]))
    else:
        (manifest if damage == "no manifest" else grid.folder / "grid.json").unlink()
    method = Drawn()
    make(tmp_path, backbone, method)
    assert len(method.calls) == {"no manifest": 3, "no grid.json": 0}.get(damage, 1)
    assert content(grid.folder) == before


def test_what_a_kill_left_half_written_is_cleared(tmp_path: Path, backbone: Backbone) -> None:
    grid = make(tmp_path, backbone, Drawn())
    before = content(grid.folder)
    (grid.folder / "images" / "001-000008--1.png").unlink()
    (grid.folder / "images" / ".001-000008--1-x7.png").write_bytes(b"half")
    (grid.folder / ".manifest-x7.jsonl").write_text("half")
    (grid.folder / "measurements.jsonl").write_text("of others")
    make(tmp_path, backbone, Drawn())
    assert content(grid.folder) == {**before, "measurements.jsonl": b"of others"}


def test_two_jobs_make_a_grid_once(tmp_path: Path, backbone: Backbone) -> None:
    methods = [Drawn(), Drawn()]
    with ThreadPoolExecutor(2) as pool:
        grids = list(pool.map(lambda method: make(tmp_path, backbone, method), methods))
    assert sorted(call for method in methods for call in method.calls) == [(5, 6), (7, 8), (9, 10)]
    assert grids[0] == grids[1]


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.index_put((torch.tensor(1), torch.tensor(0), torch.tensor(2)), torch.tensor(torch.nan)), "finite"),
        (lambda x: x.index_put((torch.tensor(1), torch.tensor(0), torch.tensor(2)), torch.tensor(1.01)), "leave"),
        (lambda x: x.index_put((torch.tensor(1), torch.tensor(0), torch.tensor(2)), torch.tensor(-0.1)), "leave"),
    ],
)
def test_images_that_are_none_are_refused(tmp_path: Path, backbone: Backbone, change: Callable, message: str) -> None:
    with pytest.raises(InputError, match=f"images of drawn in .* 000-000006--1 .*{message}"):
        make(tmp_path, backbone, Drawn(change=change))
    assert not list(tmp_path.rglob("*.png"))


def test_a_method_must_return_every_image(tmp_path: Path, backbone: Backbone) -> None:
    with pytest.raises(ValueError, match=r"drawn to return images of \(2, 2, 3"):
        make(tmp_path, backbone, Drawn(change=lambda images: images[:, :1]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scales": (0, 1)}, "scale 0"),
        ({"scales": ()}, "different finite scales"),
        ({"scales": (1, 1.0)}, "different finite scales"),
        ({"scales": (float("nan"),)}, "different finite scales"),
        ({"batch_size": 0}, "batch_size"),
        ({"method": Drawn(name="../up")}, "name of a method"),
        ({"method": BaseMethod()}, "scale 0"),
    ],
)
def test_grids_that_cannot_be_are_refused(tmp_path: Path, backbone: Backbone, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(tmp_path, backbone, **{"method": Drawn(), **arguments})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_grid_is_refused(tmp_path: Path, backbone: Backbone) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        ImageGrid.open(tmp_path / "none")
    with pytest.raises(InputError, match="it is empty"):
        ImageGrid.open(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"holds no grid\.json"):
        ImageGrid.open(tmp_path)
    grid = make(tmp_path, backbone, Drawn())
    settings = json.loads((grid.folder / "grid.json").read_text())
    for damaged in ("{", "[]", json.dumps({**settings, "scales": []}), json.dumps({**settings, "prompts": {}})):
        (grid.folder / "grid.json").write_text(damaged)
        with pytest.raises(InputError, match="damaged; run the grid again"):
            ImageGrid.open(grid.folder)


def test_a_scale_that_was_not_made_is_refused(tmp_path: Path, backbone: Backbone) -> None:
    with pytest.raises(InputError, match="but got 1; make the grid with it"):
        make(tmp_path, backbone, Drawn()).images(1.0)


def test_images_of_mixed_size_are_refused(tmp_path: Path, backbone: Backbone) -> None:
    grid = make(tmp_path, backbone, Drawn())
    odd = grid.folder / "images" / "000-000006--1.png"
    Image.new("RGB", (9, 8)).save(odd)
    manifest = grid.folder / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace(grid.hashes[odd.stem], sha256_file(odd)))
    with pytest.raises(InputError, match=r"000-000006--1\.png has 9 x 8 px"):
        ImageGrid.open(grid.folder).images(-1.0)


def test_grids_of_other_rows_are_not_compared(tmp_path: Path, backbone: Backbone) -> None:
    grid = make(tmp_path, backbone, Drawn())
    check_same_rows(grid, make(tmp_path, backbone, Drawn(version=2), scales=(3,)))
    other = replace(SPEC, prompts=replace(SPEC.prompts, nouns=("a man", "a doctor")))
    with pytest.raises(InputError, match=r"prompts, but .* alone has 'image of a woman' and .*'image of a doctor'"):
        check_same_rows(grid, make(tmp_path, backbone, Drawn(), spec=other))
    with pytest.raises(InputError, match=r"same seeds, but .* alone has 5 of 'image of a man', 6 of"):
        check_same_rows(grid, make(tmp_path, backbone, Drawn(), spec=replace(SPEC, first_seed=99)))
    fewer = make(tmp_path, backbone, Drawn(), spec=replace(SPEC, prompts=replace(SPEC.prompts, nouns=("a man",))))
    with pytest.raises(InputError, match=r"but drawn \(\w+\) alone has 'image of a woman'; make both"):
        check_same_rows(grid, fewer)
