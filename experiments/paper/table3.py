"""Table 3, what disentanglement and low rank do: `python -m experiments.paper.table3 [model=sdxl]`."""

from typing import Any

from rich.console import Console

from evaluation.report import save_figure
from evaluation.report.figures import noun_interference_figure
from experiments.paper.claims import claims_table
from experiments.paper.quantities import label
from experiments.paper.response_rows import interference_by_noun
from experiments.paper.rows import SLIDER, table3
from experiments.paper.stage import Stage
from slider_lightning.config import typed
from slider_lightning.entry import entry_point


@entry_point("paper/table3")
def main(config: dict[str, Any]) -> None:
    """Trains the slider and its variants, makes the images of all methods, and writes the table."""
    stage = Stage(config, Console())
    concept, variants = stage.protocol.ablated, stage.protocol.variants
    experiments = {SLIDER: stage.protocol.concepts[concept].experiment, **variants}
    stage.train_all(experiments.values())
    methods = {name: stage.slider_images(concept, name, experiment) for name, experiment in experiments.items()}
    for baseline in typed(config["baselines"], tuple[str, ...], "baselines"):
        methods[baseline] = stage.baseline_images(concept, baseline)
    settings, scale = stage.concept(concept).settings, stage.protocol.scale
    pairs = {(concept, name): found for name, found in methods.items()}
    tables = {
        "table3": table3(methods, scale, settings.target, settings.protected),
        "interference_by_noun": interference_by_noun(methods, scale, settings.target, settings.protected),
        "claims": claims_table(pairs, scale, {concept: settings.target}, {concept: settings.protected}),
    }
    run = stage.publish(tables, methods.values())
    named = {label(name): found for name, found in methods.items()}
    save_figure(run.path, "interference_by_noun", noun_interference_figure(named, scale, settings.protected))


if __name__ == "__main__":
    main()
