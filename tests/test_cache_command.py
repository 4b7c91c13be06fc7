"""`python -m slider_lightning.cache`: what it lists, checks, repairs and deletes."""

import io
import os
import time

import pytest
from filelock import FileLock
from PIL import Image
from rich.console import Console

from slider_lightning.cache import main, run
from slider_lightning.data.pairs import Twins, encode_twins
from slider_lightning.data.stored import stored_caches
from slider_lightning.errors import InputError
from tests.teacher_states import CONTRASTS, PRESERVED, STEPS, assert_equal, cache_of, shard_files


@pytest.fixture
def filled(backbone, tmp_path):
    """Folder of caches with a trajectory cache used long ago, noised states, and pairs."""
    old = cache_of(tmp_path / "caches", backbone)
    old.states()
    os.utime(old.folder / ".last_use", (1, 1))
    cache_of(tmp_path / "caches", backbone, contrasts=CONTRASTS[:1], states="noised", noised_states=6).states()
    images = tuple((scale, tmp_path / f"{colour}.png") for scale, colour in ((-1.0, "red"), (1.0, "blue")))
    for _, path in images:
        Image.new("RGB", (64, 64), path.stem).save(path)
    encode_twins(backbone, [Twins("square", images)], tmp_path / "caches" / "pairs")
    return tmp_path / "caches"


def told(*arguments: str) -> tuple[int, str]:
    """Exit status and text of a command."""
    text = io.StringIO()
    status = run(list(arguments), Console(file=text, width=300))
    return status, text.getvalue()


def test_every_cache_is_a_row(filled, backbone) -> None:
    caches = {cache.states: cache for cache in stored_caches(filled)}
    assert {
        kind: (each.num_states, each.num_rollouts, each.prompts) for kind, each in caches.items() if kind != "pairs"
    } == {
        "trajectory": (3 * STEPS, 3, 2 * PRESERVED),
        "clean": (3, 3, 0),
        "noised": (6, 3, 1 + 2 * PRESERVED + 2),
    }
    assert caches["pairs"].num_states == len(list((filled / "pairs").glob("*.safetensors")))
    assert {cache.model for cache in caches.values()} == {backbone.fingerprint}
    status, text = told("list", "--cache", str(filled))
    assert status == 0
    assert all(cache.name in text for cache in caches.values())
    assert text.count("a person") == 3


def test_damage_is_named_repaired_and_rebuilt(filled, backbone) -> None:
    cache = cache_of(filled, backbone)
    built = cache.states()[:]
    assert told("verify", "--cache", str(filled))[0] == 0
    shard, pair = shard_files(cache)[0], next((filled / "pairs").glob("*.safetensors"))
    for victim in (shard, pair):
        content = bytearray(victim.read_bytes())
        content[-3] ^= 1
        victim.write_bytes(content)
    status, text = told("verify", "--cache", str(filled))
    assert status == 1
    assert f"damaged or missing: {shard}" in text
    assert f"damaged or missing: {pair}" in text
    assert shard.is_file()
    assert told("verify", "--repair", "--cache", str(filled))[0] == 1
    assert not shard.exists()
    assert not pair.exists()
    assert_equal(cache.states()[:], built)
    assert told("verify", "--cache", str(filled))[0] == 0


def test_pruning_by_age_spares_what_was_used(filled, backbone) -> None:
    cache = cache_of(filled, backbone)
    kinds = [each.states for each in stored_caches(filled)]
    assert kinds[-1] == "trajectory"
    assert "would free" in told("prune", "--older-than", "3", "--dry-run", "--cache", str(filled))[1]
    assert [each.states for each in stored_caches(filled)] == kinds
    _, text = told("prune", "--older-than", "3", "--cache", str(filled))
    assert str(cache.folder) in text
    assert [each.states for each in stored_caches(filled)] == kinds[:-1]
    before = backbone.sample_forwards
    cache.states()
    assert backbone.sample_forwards > before


def test_latents_of_pairs_are_as_old_as_their_last_use(filled, backbone, tmp_path) -> None:
    files = list((filled / "pairs").glob("*.safetensors"))
    for path in files:
        os.utime(path, (1, 1))
    assert stored_caches(filled)[-1].last_use == 1
    twins = Twins("square", tuple((scale, tmp_path / f"{c}.png") for scale, c in ((-1.0, "red"), (1.0, "blue"))))
    encode_twins(backbone, [twins], filled / "pairs")
    assert all(time.time() - path.stat().st_mtime < 60 for path in files)
    for path in files:
        os.utime(path, (1, 1))
    told("prune", "--older-than", "3", "--cache", str(filled))
    assert not any(path.exists() for path in files)


def test_pruning_to_a_size_takes_the_longest_unused_first(filled) -> None:
    caches = stored_caches(filled)
    for age, cache in enumerate(caches):
        marks = [file.path for file in cache.files] if cache.states == "pairs" else [cache.path / ".last_use"]
        for path in marks:
            os.utime(path, (time.time() - age * 1000,) * 2)
    kept = caches[0].size + caches[1].size
    told("prune", "--to-size", str((kept + 1) / 1e9), "--cache", str(filled))
    assert [cache.path for cache in stored_caches(filled)] == [cache.path for cache in caches[:2]]
    told("prune", "--to-size", "0", "--cache", str(filled))
    assert stored_caches(filled) == []


@pytest.mark.parametrize("begun", [False, True])
def test_what_a_job_is_building_is_left_alone(begun, filled, backbone) -> None:
    cache = cache_of(filled, backbone)
    series = next((cache.folder / "scores").iterdir()) if begun else cache.folder / "scores" / "new"
    series.mkdir(exist_ok=True)
    with FileLock(series / ".lock"):
        assert "not read" in told("verify", "--cache", str(filled))[1]
        _, text = told("prune", "--to-size", "0", "--cache", str(filled))
        assert "kept" in text
    assert [each.path for each in stored_caches(filled)] == [cache.folder]


def test_a_model_chooses_its_caches(filled, backbone) -> None:
    with pytest.raises(InputError, match="of a model 'xyz'"):
        told("list", "--model", "xyz", "--cache", str(filled))
    told("prune", "--model", backbone.fingerprint[:8], "--cache", str(filled))
    assert stored_caches(filled) == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["lst"],
        ["list", "--cache", "nowhere"],
        ["prune", "--cache", "."],
        ["prune", "--older-than", "-1"],
        ["prune", "--to-size", "much"],
        ["verify", "--unknown"],
    ],
)
def test_bad_input_is_one_sentence_and_status_2(arguments, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["cache", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: Expected")
    assert said.count("\n") == 1
