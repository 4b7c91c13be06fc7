"""The search for style channels: planted channels are found, figures are those of sweeps, files are reused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evaluation.attributes import schema_slices
from evaluation.judges.panel import Judges
from evaluation.judges.probe import load_probe
from evaluation.report import markdown
from evaluation.scale_sweeps import Sweep, attribute_shift, selectivity, target_values
from evaluation.style_channels import BestChannels, ChannelRanking, RankingSettings, rank_channels
from evaluation.style_channels.effects import ChannelAim, best_first, channel_changes, target_column
from evaluation.style_channels.readings import FaceMoves, FaceReader, MovedFaces
from evaluation.style_channels.report import channel_strip, effects_figure, ranking_table
from experiments.tiny_faces.panel import load_judges
from experiments.tiny_faces.stylegan.networks import Generator, GeneratorSize
from slider_lightning.config import ROOT, build
from slider_lightning.data.style_space import StyleChannel, StyleSpace
from slider_lightning.errors import InputError
from tests.conftest import composed
from tests.planted_generator import BOTH, EYES, GLASSES, NOTHING, SMILE, PlantedGenerator

LAYER = "synthesis.layer"
SETTINGS = RankingSettings(
    strength=3, screened_faces=3, finalists=5, faces=6, akin={"eye_area": ("eye_size",)}, batch_size=6
)


@pytest.fixture(scope="module")
def judges() -> Judges:
    return load_judges(ROOT / "assets/tiny_faces")


@pytest.fixture(scope="module")
def planted() -> StyleSpace:
    return StyleSpace(PlantedGenerator(), "planted")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readings")


@pytest.fixture(scope="module")
def ranking(planted: StyleSpace, judges: Judges, cache: Path) -> ChannelRanking:
    return rank_channels(planted, judges, "eye_area", SETTINGS, cache)


def untrained() -> StyleSpace:
    torch.manual_seed(0)
    size = GeneratorSize(z_dim=4, w_dim=8, mapping_width=8, mapping_layers=2, channels=(2, 2, 2, 2, 2))
    return StyleSpace(Generator(size), "untrained")


def test_the_planted_channel_is_found_with_its_sign(ranking: ChannelRanking) -> None:
    best, second = ranking.channels[:2]
    assert (best.channel, best.sign) == (StyleChannel(LAYER, EYES), -1)
    assert (second.channel, second.sign) == (StyleChannel(LAYER, BOTH), -1), "moves eyes as well, but not them alone"
    assert best.effect.ci95[1] < 0
    assert best.effects["eye_size"].ci95[1] < 0
    assert best.selectivity.mean > 2 * second.selectivity.mean
    assert ranking.best(2) == (best, second)


def test_a_channel_that_does_nothing_is_never_the_best(ranking: ChannelRanking) -> None:
    (idle,) = (found for found in ranking.channels if found.channel.channel == NOTHING)
    assert (idle.effect.mean, idle.drift.mean, idle.score.mean) == (0, 0, 0)
    assert not idle.moves_target
    with pytest.raises(InputError, match="leave 0 out"):
        ranking.best(5)


@pytest.mark.parametrize(
    ("target", "channel"),
    [
        ("smile", SMILE),
        ("clip: a person, with glasses | a person, without glasses", GLASSES),
        ("glasses=none", -GLASSES),
    ],
)
def test_other_targets_find_other_channels(
    planted: StyleSpace, judges: Judges, cache: Path, target: str, channel: int
) -> None:
    best = rank_channels(planted, judges, target, SETTINGS, cache).channels[0]
    assert best.channel.channel * best.sign == channel


def test_effects_are_those_of_sweeps(planted: StyleSpace, judges: Judges, ranking: ChannelRanking, cache: Path) -> None:
    """The same images judged anew as a sweep over (-k, 0, k)."""
    faces = MovedFaces(cache, planted, FaceReader(judges), SETTINGS.final, 4)
    channel = StyleChannel(LAYER, BOTH)
    moved = faces.moved(f"{LAYER}-{BOTH}", [channel])[0]
    ws = planted.latents(SETTINGS.final.seeds, SETTINGS.truncation_psi)
    images = [planted.render(ws, {channel: move} if move else None) for move in (-3.0, 0.0, 3.0)]
    readings = [judges.classifier(some) for some in images]
    stacked = {a.name: torch.stack([r[a.name] for r in readings], dim=1) for a in judges.classifier.schema}
    sweep = Sweep((-3.0, 0.0, 3.0), stacked, judges.classifier.schema, judges.classifier.standard_deviations())
    (found,) = (some for some in ranking.channels if some.channel == channel)
    for attribute in judges.classifier.schema:
        expected = attribute_shift(sweep, attribute.name, 2, origin=0)
        assert found.effects[attribute.name].mean == pytest.approx(expected.mean / 6, abs=1e-6)
        assert found.effects[attribute.name].ci95 == pytest.approx([end / 6 for end in expected.ci95], abs=1e-6)
    areas = torch.stack([judges.parser.eye_area(some) for some in images]).double()
    assert found.effect.mean == pytest.approx(float((areas[2] - areas[0]).mean() / areas[1].mean() / 6), rel=1e-5)
    aim = ChannelAim("smile", judges.classifier.schema)
    changes = channel_changes(faces.base, moved[None], faces.reader.columns, 3.0, judges.classifier, aim)
    measures = changes.measures(0)
    assert measures["selectivity"].mean == pytest.approx(selectivity(sweep, "smile").mean, rel=1e-5)
    own = target_values(sweep, "smile")
    assert measures["effect"].mean == pytest.approx(float((own[:, 2] - own[:, 0]).mean() / 6), rel=1e-5)
    drift, effect = measures["drift"].mean, measures["effect"].mean
    assert measures["score"].mean == pytest.approx(abs(effect) / (drift + aim.charge))


def test_the_attribute_of_the_target_and_those_akin_are_no_drift(judges: Judges) -> None:
    schema = judges.classifier.schema
    assert {a.name for a in ChannelAim("hair_color=blond", schema).others} == {a.name for a in schema} - {"hair_color"}
    akin = ChannelAim("eye_area", schema, ("eye_size", "unknown to this classifier"))
    assert {a.name for a in akin.others} == {a.name for a in schema} - {"eye_size"}
    columns = schema_slices(schema)
    assert target_column(schema, "gender") == columns["gender"].stop - 1
    assert target_column(schema, "hair_color=blond") == columns["hair_color"].start + 2
    assert target_column(schema, "age") == columns["age"].start


def test_the_order_does_not_depend_on_the_unit_of_the_target(judges: Judges) -> None:
    """A channel of 10 channels wins or loses whether its effect is stated in pixels or in percent."""
    generator = torch.Generator().manual_seed(1)
    columns = FaceReader(judges).columns
    base = 1 + torch.rand(5, len(columns), generator=generator).double()
    moved = 1 + torch.rand(10, 2, 5, len(columns), generator=generator).double()
    aim = ChannelAim("eye_area", judges.classifier.schema)
    scores = []
    for unit in (1.0, 100.0):
        scaled = moved.clone()
        scaled[..., -1] *= unit
        scores.append(channel_changes(base, scaled, columns, 2.0, judges.classifier, aim).figures()["score"])
    assert torch.allclose(scores[1], 100 * scores[0])


def test_lost_eyes_are_counted_and_figures_rest_on_the_others(judges: Judges) -> None:
    columns = FaceReader(judges).columns
    base = torch.ones(6, len(columns)).double()
    moved = torch.ones(1, 2, 6, len(columns)).double()
    moved[0, 1, :, -1] = torch.tensor([1.5, 1.5, 1.5, 1.5, 99.0, 99.0])
    moved[0, 0, 4:, -1] = torch.nan
    aim = ChannelAim("eye_area", judges.classifier.schema)
    changes = channel_changes(base, moved, columns, 1.0, judges.classifier, aim)
    measures = changes.measures(0)
    assert changes.without_eyes(0) == 2
    assert (measures["effect"].mean, measures["effect"].n) == (0.25, 4)
    assert measures["drift"].n == 6
    moved[0, 0, 1:, -1] = torch.nan
    fewer = channel_changes(base, moved, columns, 1.0, judges.classifier, aim).measures(0)
    assert {"effect", "score", "eye_area"}.isdisjoint(fewer)
    assert "smile" in fewer


def test_best_first_leaves_out_what_could_not_be_read() -> None:
    scores = torch.tensor([0.1, torch.nan, 0.3, torch.inf, 0.3])
    assert best_first(scores, 3) == [2, 4, 0]
    assert best_first(scores, 9) == [2, 4, 0]


def test_a_second_search_renders_nothing_and_a_killed_one_goes_on(judges: Judges, tmp_path: Path) -> None:
    settings = replace(SETTINGS, screened_faces=2, faces=2, finalists=2, layers=(0, 4))
    space = untrained()
    first = rank_channels(space, judges, "age", settings, tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert first.screened == 4
    assert rank_channels(untrained(), judges, "age", settings, tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == files
    (screened,) = (path for path in files if path.stem == space.layer(4).name)
    screened.unlink()
    assert rank_channels(untrained(), judges, "age", settings, tmp_path) == first
    again = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert {path for path in files if again[path] != files[path]} == {screened}


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: content[:-1] + b"\x01"])
def test_damaged_readings_are_made_again(
    planted: StyleSpace, judges: Judges, tmp_path: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    moves = FaceMoves(0, 2, 3.0, 0.7)
    faces = MovedFaces(tmp_path, planted, FaceReader(judges), moves, 2)
    channels = [StyleChannel(LAYER, EYES)]
    made = faces.moved("one", channels)
    path = faces.folder / "one.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    assert torch.equal(faces.moved("one", channels), made)
    assert "damaged" in caplog.text


def test_readings_of_another_generator_or_other_moves_lie_elsewhere(judges: Judges, tmp_path: Path) -> None:
    reader, moves = FaceReader(judges), FaceMoves(0, 2, 3.0, 0.7)
    space = untrained()
    other = untrained()
    other.generator.synthesis.b4.const.data += 1
    folders = {
        MovedFaces(tmp_path, some, who, how, 2).folder
        for some, who, how in (
            (space, reader, moves),
            (other, reader, moves),
            (space, FaceReader(judges, ("a man",)), moves),
            (space, reader, replace(moves, strength=4.0)),
        )
    }
    assert len(folders) == 4
    assert MovedFaces(tmp_path, untrained(), FaceReader(judges), moves, 8).folder in folders


def test_batches_change_nothing(planted: StyleSpace, judges: Judges, tmp_path: Path) -> None:
    moves = FaceMoves(2, 3, 3.0, 0.7)
    found = [
        MovedFaces(tmp_path / str(size), planted, FaceReader(judges), moves, size).moved(
            "x", [StyleChannel(LAYER, EYES)]
        )
        for size in (1, 3)
    ]
    assert torch.allclose(*found, atol=1e-4)


def test_a_choice_gives_the_best_channels_with_their_signs(planted: StyleSpace, judges: Judges, cache: Path) -> None:
    choice = BestChannels("eye_area", judges, str(cache), count=2, settings=SETTINGS)
    assert choice.channels(planted) == ((StyleChannel(LAYER, EYES), -1.0), (StyleChannel(LAYER, BOTH), -1.0))
    with pytest.raises(InputError, match="finalists"):
        BestChannels("eye_area", judges, str(cache), count=6, settings=SETTINGS)


def test_table_heat_map_and_faces_show_the_ranking(
    planted: StyleSpace, judges: Judges, ranking: ChannelRanking
) -> None:
    text = markdown(ranking_table(ranking))
    assert text.index(f"layer {EYES}") < text.index(f"layer {BOTH}") < text.index(f"layer {NOTHING}")
    assert "5 channels were tried on 3 faces" in text
    figure = effects_figure(ranking, judges.classifier.schema)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[0] == f"− layer {EYES}"
    column = [a.name for a in judges.classifier.schema].index("eye_size")
    assert float(figure.axes[0].images[0].get_array()[0, column]) > 0, "turned so that the target rises"
    strip = channel_strip(planted, ranking, ranking.channels[:1], [0, 1])
    assert strip.height > strip.width * 0.3
    record = json.loads(json.dumps(ranking.record()))
    assert (record["channels"][0]["channel"], record["channels"][0]["sign"]) == (EYES, -1)


@pytest.mark.parametrize(
    ("target", "match"),
    [
        ("beard", "eye_area or 'clip: TEXT'"),
        ("hair_color", "hair_color=blond"),
        ("hair_color=green", "blond"),
        ("clip: ", "OPPOSITE"),
        ("clip: a | b | c", "OPPOSITE"),
    ],
)
def test_unknown_targets_are_refused_before_anything_is_rendered(
    planted: StyleSpace, judges: Judges, tmp_path: Path, target: str, match: str
) -> None:
    with pytest.raises(InputError, match=match):
        rank_channels(planted, judges, target, SETTINGS, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_searched_is_refused(planted: StyleSpace, judges: Judges, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="parser"):
        rank_channels(planted, replace(judges, parser=None), "eye_area", SETTINGS, tmp_path)
    with pytest.raises(InputError, match="style layer"):
        rank_channels(planted, judges, "age", replace(SETTINGS, layers=("synthesis.b4",)), tmp_path)
    with pytest.raises(InputError, match=r"settings\.faces"):
        RankingSettings(faces=1)
    with pytest.raises(InputError, match=r"settings\.strength"):
        RankingSettings(strength=0)
    with pytest.raises(InputError, match="charge"):
        ChannelAim("age", judges.classifier.schema, charge=0)


class Movable(StyleSpace):
    """A generator that says that it lies somewhere else."""

    place: torch.device | None = None

    @property
    def device(self) -> torch.device:
        return self.place or super().device


def test_judges_go_where_the_generator_is(tmp_path: Path) -> None:
    classifier = load_probe(ROOT / "assets/tiny_faces/probe", "probe")
    judges = Judges(clip=None, distance=None, classifier=classifier, parser=None, features=None)
    space = Movable(PlantedGenerator(), "planted")
    space.place = torch.device("meta")
    with pytest.raises(InputError, match="style layer"):
        rank_channels(space, judges, "age", replace(SETTINGS, layers=("nowhere",)), tmp_path)
    assert {parameter.device for parameter in classifier.parameters()} == {space.place}


def test_the_command_and_the_choice_are_composed() -> None:
    config = composed("style_channels", "target=eye_area", "out=x")
    assert config["settings"]["akin"] == {"eye_area": ["eye_size"]}
    overrides = ["channels@channels=best", "channels.target=smile", "channels.count=2"]
    node = composed("style_channels", "target=smile", "out=x", *(f"+{word}" for word in overrides[:1]), *overrides[1:])
    choice = build(node["channels"], "channels.")
    assert (choice.target, choice.count, choice.settings.akin) == ("smile", 2, {"eye_area": ("eye_size",)})
