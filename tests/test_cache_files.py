"""The teacher cache on disk: mapped, checked, resumed, extended and repaired, built once."""

import json
import logging
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from slider_lightning.backbone import load_backbone
from slider_lightning.config import ROOT
from slider_lightning.errors import InputError
from tests.teacher_states import CONTRASTS, FORWARDS, PRESERVED, STEPS, assert_equal, cache_of, shard_files

KILLED = """
import os, sys, signal
from pathlib import Path
from slider_lightning.backbone import load_backbone
from tests.teacher_states import cache_of

def progress(done, total):
    if done >= int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

cache_of(Path(sys.argv[2]), load_backbone(sys.argv[1], dtype="float32"), 4).states(progress)
"""


def test_a_second_use_computes_nothing_and_reads_the_same_bits(backbone, tmp_path) -> None:
    built = cache_of(tmp_path, backbone).states()[:]
    assert backbone.sample_forwards == 3 * FORWARDS
    assert_equal(cache_of(tmp_path, backbone).states()[:], built)
    assert backbone.sample_forwards == 3 * FORWARDS


def test_tensors_stay_on_the_mapped_file(backbone, tmp_path) -> None:
    """A byte that changes in the file changes in the tensor: nothing was copied when the cache was opened."""
    cache = cache_of(tmp_path, backbone)
    states = cache.states()
    before = states[:].latents
    for path in shard_files(cache, "rollouts"):
        with path.open("r+b") as file:
            header = int.from_bytes(file.read(8), "little")
            file.seek(8 + header)
            file.write(bytes(path.stat().st_size - 8 - header))
    assert before.abs().sum() > 0
    assert states[:].latents.abs().sum() == 0


def test_what_is_open_outlives_its_file(backbone, tmp_path) -> None:
    cache = cache_of(tmp_path, backbone)
    states = cache.states()
    before = states[:]
    for path in shard_files(cache):
        path.unlink()
    assert_equal(states[:], before)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_more_rollouts_extend_and_fewer_use_a_part(backbone, tmp_path, dtype) -> None:
    cost = FORWARDS + STEPS * 2 * len(CONTRASTS)
    settings = {"contrasts": CONTRASTS, "dtype": dtype}
    three = cache_of(tmp_path, backbone, 3, **settings).states()[:]
    six = cache_of(tmp_path, backbone, 6, **settings).states()[:]
    assert backbone.sample_forwards == 6 * cost
    assert len(six) == 6 * STEPS
    assert_equal(six[: 3 * STEPS], three)
    assert_equal(cache_of(tmp_path, backbone, 1, **settings).states()[:], six[:STEPS])
    assert backbone.sample_forwards == 6 * cost


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
@pytest.mark.parametrize(("series", "cost"), [("rollouts", 2 * STEPS - 1), ("scores", STEPS)])
def test_a_damaged_shard_is_named_and_rebuilt_alone(backbone, tmp_path, caplog, harm, series, cost) -> None:
    cache = cache_of(tmp_path, backbone, 4)
    built = cache.states()[:]
    victim = shard_files(cache, series)[0]
    content = bytearray(victim.read_bytes())
    content[-100] ^= 1
    victim.unlink()
    if harm != "remove":
        victim.write_bytes(content if harm == "flip" else content[:-100])
    before = backbone.sample_forwards
    with caplog.at_level(logging.WARNING):
        assert_equal(cache.states()[:], built)
    assert backbone.sample_forwards - before == 2 * cost
    assert caplog.text.count(victim.name) == 1
    assert_equal(cache.states()[:], built)
    assert backbone.sample_forwards - before == 2 * cost


def test_scores_of_other_latents_are_not_taken(backbone, tmp_path, caplog) -> None:
    cache = cache_of(tmp_path, backbone)
    built = cache.states()[:]
    index = cache.folder / "rollouts" / "index.json"
    scored = next((cache.folder / "scores").rglob("index.json"))
    content = json.loads(scored.read_text())
    content["shards"][0]["part"]["source"] = json.loads(index.read_text())["shards"][1]["sha256"]
    scored.write_text(json.dumps(content))
    before = backbone.sample_forwards
    with caplog.at_level(logging.WARNING):
        assert_equal(cache.states()[:], built)
    assert backbone.sample_forwards - before == 2 * STEPS
    assert "other rollouts" in caplog.text


def test_a_damaged_index_is_not_trusted(backbone, tmp_path, caplog) -> None:
    cache = cache_of(tmp_path, backbone)
    built = cache.states()[:]
    (cache.folder / "rollouts" / "index.json").write_text('{"shards": [')
    before = backbone.sample_forwards
    with caplog.at_level(logging.WARNING):
        assert_equal(cache.states()[:], built)
    assert "index.json" in caplog.text
    assert backbone.sample_forwards - before == 3 * (2 * STEPS - 1)


@pytest.mark.parametrize("at", [3, 2 * (2 * STEPS - 1) + 1, 4 * (2 * STEPS - 1) + 5 * STEPS])
def test_a_killed_build_goes_on_where_it_was(backbone, pipeline_folder, tmp_path, at) -> None:
    command = [sys.executable, "-c", KILLED, str(pipeline_folder), str(tmp_path), str(at)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    cache = cache_of(tmp_path, backbone, 4)
    kept = len(shard_files(cache))
    reported: list[tuple[int, int]] = []
    states = cache.states(lambda done, total: reported.append((done, total)))
    whole = 2 * (2 * STEPS - 1), 2 * STEPS
    done = min(kept, 2) * whole[0] + max(kept - 2, 0) * whole[1]
    assert done <= at < done + max(whole)
    assert backbone.sample_forwards == 4 * FORWARDS - done
    assert reported[-1] == (backbone.sample_forwards, backbone.sample_forwards)
    assert len(shard_files(cache)) == 2 * (1 + 2 * PRESERVED)
    assert_equal(states[:], cache_of(tmp_path / "other", backbone, 4).states()[:])


def test_leftovers_of_a_kill_are_removed(backbone, tmp_path) -> None:
    cache = cache_of(tmp_path, backbone)
    (cache.folder / "rollouts").mkdir(parents=True)
    leftover = cache.folder / "rollouts" / ".rollouts-00002-half.safetensors"
    leftover.write_bytes(b"left by a kill")
    cache.states()
    assert sorted(path.name for path in (cache.folder / "rollouts").iterdir()) == [
        ".lock",
        "index.json",
        "rollouts-00000-002.safetensors",
        "rollouts-00002-001.safetensors",
    ]


def test_concurrent_jobs_build_once(pipeline_folder, tmp_path) -> None:
    backbones = [load_backbone(str(pipeline_folder), dtype="float32") for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda backbone: cache_of(tmp_path, backbone).states()[:], backbones)
    assert_equal(first, second)
    assert sum(backbone.sample_forwards for backbone in backbones) == 3 * FORWARDS


def test_using_a_cache_is_recorded_and_harms_no_hash(backbone, tmp_path, caplog) -> None:
    cache = cache_of(tmp_path, backbone)
    cache.states()
    mark = cache.folder / ".last_use"
    os.utime(mark, (1, 1))
    with caplog.at_level(logging.WARNING):
        cache.states()
    assert mark.stat().st_mtime > 1
    assert not caplog.text


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Files of at most 20 kB: the system refuses a write as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_refuses_is_one_sentence_and_leaves_nothing(backbone, tmp_path, small_disk) -> None:
    cache = cache_of(tmp_path, backbone)
    with pytest.raises(InputError, match=r"rollouts-00000.*free some room"):
        cache.states()
    assert [path.name for path in (cache.folder / "rollouts").iterdir()] == [".lock"]


def test_a_cache_folder_that_cannot_be_made_is_one_sentence(backbone, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="teacher cache"):
        cache_of(tmp_path / "file", backbone).states()


def test_the_indexes_say_what_the_content_depends_on(backbone, tmp_path) -> None:
    cache = cache_of(tmp_path, backbone)
    cache.states()
    index = json.loads((cache.folder / "rollouts" / "index.json").read_text())
    assert index["depends_on"]["model"] == backbone.fingerprint
    assert [(shard["part"]["first"], shard["part"]["count"]) for shard in index["shards"]] == [(0, 2), (2, 1)]
    scored = [json.loads(path.read_text())["depends_on"] for path in (cache.folder / "scores").rglob("index.json")]
    poles = ("an old person", "a young person")
    assert {each["prompt"] for each in scored} == {f"{pole}, {who}" for pole in poles for who in ("man", "woman")}
    assert all(each["steps"] == [0, STEPS] for each in scored)
