"""Find style channels: `python -m evaluation.style_channels target=eye_area [judges=... generator.folder=...]`."""

import re
import time
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from evaluation.judges.panel import Judges
from evaluation.report import save_figure, terminal, write_table
from evaluation.style_channels.ranking import RankingSettings, rank_channels
from evaluation.style_channels.report import channel_strip, effects_figure, ranking_table
from slider_lightning.config import build, typed
from slider_lightning.data.style_space import StyleSpace
from slider_lightning.entry import entry_point
from slider_lightning.generation import save_image
from slider_lightning.training.run_folder import RunFolder, write_json


@entry_point("style_channels")
def main(config: dict[str, Any]) -> None:
    """Ranks the channels and writes table, heat map, faces and ranking."""
    started, console = time.perf_counter(), Console()
    settings = typed(config["settings"], RankingSettings, "settings")
    target, shown = typed(config["target"], str, "target"), typed(config["shown"], int, "shown")
    space: StyleSpace = build(config["generator"], "generator.")
    judges: Judges = build(config["judges"], "judges.")
    ranking = rank_channels(space, judges, target, settings, Path(config["readings"]))
    run = RunFolder(Path(config["out"]) / re.sub(r"[^\w=]+", "_", target))
    write_table(run.path, "channels", ranking_table(ranking))
    write_json(run.path / "ranking.json", ranking.record())
    save_figure(run.path, "effects", effects_figure(ranking, judges.classifier.schema))
    seeds = typed(config["seeds"], tuple[int, ...], "seeds")
    save_image(channel_strip(space, ranking, ranking.channels[:shown], seeds), run.path / "channels.png")
    run.write_config(yaml.safe_dump(config, sort_keys=False))
    console.print(terminal(ranking_table(ranking, with_effects=False)))
    seconds = time.perf_counter() - started
    console.print(f"Table, heat map, faces and ranking: {run.path}\n{seconds:.0f} s in all.", soft_wrap=True)


if __name__ == "__main__":
    main()
