"""Settings: typed, frozen, read by place or name, and refused in one sentence that says where and how to mend it."""

import subprocess
import sys

import pytest

from slider_lightning.config.adapter import AdapterConfig
from slider_lightning.config.base import Settings, settings_in
from slider_lightning.config.objective import ImagePairObjective, Projection, TextGuidance, TextObjective
from slider_lightning.config.training import OptimizerConfig, TrainerConfig
from slider_lightning.errors import InputError

CLASSES = (AdapterConfig, ImagePairObjective, OptimizerConfig, Projection, TextObjective, TrainerConfig)
PAIR = ("a man", "a woman")


def test_fields_are_taken_by_place_and_by_name() -> None:
    assert AdapterConfig(2, 1.5, layers="full") == AdapterConfig(rank=2, alpha=1.5, layers="full")
    with pytest.raises(InputError, match="rank twice"):
        AdapterConfig(2, rank=3)
    with pytest.raises(InputError, match="at most 3"):
        AdapterConfig(2, 1.5, "full", 7)


def test_settings_cannot_be_changed_but_replaced() -> None:
    config = TextObjective(eta=2.0)
    with pytest.raises(ValueError, match="frozen"):
        config.eta = 3.0  # type: ignore[misc]
    assert config.replace(eta=3.0) == TextObjective(eta=3.0)
    assert config.eta == 2.0
    with pytest.raises(InputError, match="above 0"):
        config.replace(eta=0.0)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"eta": -1}, "Expected objective.eta to be above 0, but got -1; to turn the concept down, keep eta above 0"),
        ({"eta": "two"}, "Expected objective.eta to be a number, but got 'two'; change it."),
        ({"reduction": "meen"}, "one of sum, mean, posterior, but got 'meen'; did you mean mean?"),
        ({"etta": 1.0}, "Unknown setting objective.etta; did you mean objective.eta?"),
        ({"project": {"contrasts": [PAIR], "strenght": 1}}, "did you mean objective.project.strength?"),
        ({"project": {}}, "Expected a value for objective.project.contrasts, but none was given; set it."),
        ({"project": 3}, "Expected objective.project to be a mapping of settings, but got 3"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_its_place(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        TextObjective.parse(values, "objective.")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_plain_values_come_back_as_the_same_settings() -> None:
    project = Projection((PAIR,), "least_squares", 0.5)
    config = ImagePairObjective(text=TextGuidance(objective=TextObjective(eta=3)))
    for settings in (TextObjective(project=project), config, AdapterConfig(), OptimizerConfig(), TrainerConfig()):
        assert type(settings).parse(settings.plain()) == settings


@pytest.mark.parametrize("settings", CLASSES, ids=lambda settings: settings.__name__)
def test_every_setting_says_what_it_is(settings: type[Settings]) -> None:
    assert settings.__doc__
    for name, field in settings.model_fields.items():
        assert name == "kind" or (field.description or "").endswith("."), name
        assert all(inner.__doc__ for inner in settings_in(field.annotation))


def test_the_schema_is_read_without_torch() -> None:
    code = (
        "import sys; import slider_lightning.config.adapter, slider_lightning.config.objective, "
        "slider_lightning.config.training; print(sorted({'torch', 'diffusers', 'lightning'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
