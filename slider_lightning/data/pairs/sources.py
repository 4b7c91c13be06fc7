"""Where image pairs come from: images of one thing at several levels of a concept, each level a slider scale."""

import csv
import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from slider_lightning.data.pairs.pictures import PictureError, open_picture
from slider_lightning.errors import InputError

DEFAULT_LEVELS: Mapping[float, str] = {-1.0: "before", 1.0: "after"}
COLUMNS = ("before", "after", "scale")
_LISTED = 20
# Captions, tables and what file managers leave: they lie beside images and are none.
_NO_PICTURES = (".caption", ".csv", ".db", ".ini", ".json", ".md", ".txt", ".yaml", ".yml")


@dataclass(frozen=True)
class Twins:
    """Images of one thing that differ in the concept alone.

    Args:
        name: of the thing, for messages.
        images: slider scale and file of each level, two or more; scales ascend. At 0 a slider computes nothing: what
            stands there is trained on by no row, but tells what differs (`objective.anchor`, `objective.mask`).

    Raises:
        InputError: if the scales are not so.
    """

    name: str
    images: tuple[tuple[float, Path], ...]

    def __post_init__(self) -> None:
        check_scales([scale for scale, _ in self.images], f"the scales of {self.name}")


class PairSource(Protocol):
    """What the config node `pairs` builds."""

    def twins(self, work_dir: Path) -> tuple[Twins, ...]:
        """All twins, in an order that stays the same.

        Args:
            work_dir: where a source that draws its images may put them.

        Raises:
            InputError: if images are missing or cannot be read; one message names them all.
        """
        ...


@dataclass(frozen=True)
class LevelFolder:
    """A folder with one subfolder per level; twins are the files of one name, whatever their ending.

    Hidden files and captions (.txt, .json and the like) are left out; every other file must be an image.

    Args:
        folder: holds the subfolders.
        levels: the subfolder of every slider scale, two or more, e.g. {-2: tiny, -1: small, 1: big, 2.5: huge}; None
            means before at -1 and after at 1.

    Raises:
        InputError: if the scales are fewer than two or not finite, or two levels share a subfolder.
    """

    folder: str
    levels: Mapping[float, str] | None = None

    def __post_init__(self) -> None:
        names = [name for _, name in self._levels()]
        check_scales([scale for scale, _ in self._levels()], "pairs.levels")
        if len(set(names)) < len(names):
            raise InputError(
                f"Expected pairs.levels to name different subfolders, but got {', '.join(names)}; name each once."
            )

    def twins(self, work_dir: Path) -> tuple[Twins, ...]:
        """The twins of all names, sorted by name; nothing is written to `work_dir`.

        Raises:
            InputError: if a subfolder is missing or all are empty, an image lacks a twin, or two files of a level
                share a name; with these come all images that cannot be read or do not fit their twin.
        """
        folder = Path(self.folder).expanduser()
        self._check_subfolders(folder)
        levels = [(scale, name, _files_by_stem(folder / name)) for scale, name in self._levels()]
        stems = sorted({stem for _, _, files in levels for stem in files})
        if not stems:
            raise InputError(f"Expected images in the subfolders of {folder}, but they hold none; put the pairs there.")
        problems: list[str] = []
        for stem in stems:
            present = next(files[stem][0] for _, _, files in levels if stem in files)
            for _, name, files in levels:
                if stem not in files:
                    problems.append(f"{_shown(present)} has no twin in {name}")
                elif len(files[stem]) > 1:
                    problems.append(f"{' and '.join(_shown(path) for path in files[stem])} share a name")
        groups = [[files[stem][0] for _, _, files in levels if stem in files] for stem in stems]
        if problems:
            _refuse(problems + _picture_problems(groups))
        return tuple(Twins(stem, tuple((scale, files[stem][0]) for scale, _, files in levels)) for stem in stems)

    def _levels(self) -> list[tuple[float, str]]:
        return sorted((DEFAULT_LEVELS if self.levels is None else self.levels).items())

    def _check_subfolders(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"Expected a folder of image pairs at {folder}, but there is none; check the path.")
        if missing := [name for _, name in self._levels() if not (folder / name).is_dir()]:
            there = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
            raise InputError(
                f"Expected subfolders {', '.join(missing)} in {folder}, but it holds {', '.join(there) or 'none'}; "
                "set pairs.levels, e.g. pairs.levels={-1:small,1:big}."
            )


@dataclass(frozen=True)
class PairTable:
    """A CSV file with the columns before, after and scale; one row is one pair, and other columns are left out.

    `before` is trained at -scale and `after` at +scale (REFERENCE.md, eq. 6).

    Args:
        path: the file, UTF-8 and separated by commas; paths of images are relative to its folder.
    """

    path: str

    def twins(self, work_dir: Path) -> tuple[Twins, ...]:
        """The twins of all rows, in order; nothing is written to `work_dir`.

        Raises:
            InputError: if the table cannot be read, lacks a column or has no row, or a row lacks a file or a scale
                above 0; with these come all images that cannot be read or do not fit their twin.
        """
        path = Path(self.path).expanduser()
        problems: list[str] = []
        groups: list[list[Path]] = []
        twins: list[Twins] = []
        for line, row in _read_table(path):
            found = _row_problems(row, path.parent)
            problems += [f"line {line} {problem}" for problem in found]
            groups.append([path.parent / row[side] for side in COLUMNS[:2] if (path.parent / row[side]).is_file()])
            if not found:
                before, after = groups[-1]
                scale = float(row["scale"])
                twins.append(Twins(f"line {line} of {path.name}", ((-scale, before), (scale, after))))
        if problems:
            _refuse(problems + _picture_problems(groups))
        return tuple(twins)


def check_twins(twins: Iterable[Twins], background: str = "white") -> None:
    """Open every image of every twin, so that nothing fails once training has started.

    Args:
        twins: to be checked.
        background: what transparency is laid on.

    Raises:
        InputError: if the background is no colour, or images cannot be read, differ in size from their twins, or show
            the same pixels as a twin; one message names them all.
    """
    if problems := _picture_problems([[path for _, path in each.images] for each in twins], background):
        _refuse(problems)


def check_scales(scales: Sequence[float], what: str) -> None:
    """Refuse scales that do not order two or more levels.

    Args:
        scales: of the levels.
        what: they are, for the message.

    Raises:
        InputError: if there are fewer than two, one is not finite, or they do not ascend.
    """
    finite = all(math.isfinite(scale) for scale in scales)
    if len(scales) < 2 or not finite or any(low >= high for low, high in itertools.pairwise(scales)):
        raise InputError(
            f"Expected {what} to be two or more finite, ascending numbers, but got {list(scales)}; change them."
        )


def _files_by_stem(folder: Path) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.is_file() and not path.name.startswith(".") and path.suffix.lower() not in _NO_PICTURES:
            files.setdefault(path.stem, []).append(path)
    return files


def _read_table(path: Path) -> list[tuple[int, dict[str, str]]]:
    """(line, cells by column) of every row; cells that are missing are empty."""
    try:
        # Spreadsheets begin UTF-8 with a byte order mark.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="", strict=True, skipinitialspace=True)
            columns = [column.strip() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [(reader.line_num, {name: row[name].strip() for name in COLUMNS if name in row}) for row in reader]
    except OSError as error:
        raise InputError(f"Expected the table {path}, but got: {error.strerror}; check the path.") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"Expected {path} to be a CSV file in UTF-8, but {error}; save it as one.") from error
    if missing := [name for name in COLUMNS if name not in columns]:
        raise InputError(
            f"Expected the columns {', '.join(COLUMNS)}, separated by commas, in {path}, but {', '.join(missing)} are "
            f"missing among {', '.join(columns) or 'none'}; add them."
        )
    if not rows:
        raise InputError(f"Expected rows in {path}, but it has none; add a pair per row.")
    return rows


def _row_problems(row: Mapping[str, str], folder: Path) -> list[str]:
    problems = []
    for side in COLUMNS[:2]:
        if not row[side]:
            problems.append(f"names no image {side}")
        elif not (folder / row[side]).is_file():
            problems.append(f"names the image {row[side]}, which does not exist")
    if not _is_positive(row["scale"]):
        problems.append(f"has the scale {row['scale']!r}, which is no number above 0")
    return problems


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def _picture_problems(groups: Iterable[Sequence[Path]], background: str | None = None) -> list[str]:
    """What is wrong with the images of each group of twins.

    Twins that show the same pixels are found on a background only: it decides what transparent images show.
    """
    problems: list[str] = []
    for paths in groups:
        first: tuple[Path, tuple[int, int]] | None = None
        seen: dict[bytes, Path] = {}
        for path in paths:
            try:
                picture = open_picture(path, "white" if background is None else background)
            except PictureError as error:
                problems.append(f"{_shown(path)} cannot be read ({error.reason})")
                continue
            first = first or (path, picture.size)
            if picture.size != first[1]:
                sizes = [f"{width} x {height} px" for width, height in (picture.size, first[1])]
                problems.append(f"{_shown(path)} has {sizes[0]} and its twin {_shown(first[0])} {sizes[1]}")
                continue
            if background is None:
                continue
            twin = seen.setdefault(hashlib.sha256(picture.tobytes()).digest(), path)
            if twin is not path:
                problems.append(f"{_shown(path)} shows the same pixels as its twin {_shown(twin)}")
    return problems


def _refuse(problems: Sequence[str]) -> None:
    more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
    raise InputError(
        "Expected image pairs whose twins all exist, can be read, have one size and differ, but "
        f"{'; '.join(problems[:_LISTED])}{more}; mend or remove these."
    )


def _shown(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
