"""Folders and tables of image pairs: who is whose twin at which scale, and every problem named before training."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from PIL import Image

from slider_lightning.config import CONF, build, check
from slider_lightning.data.pairs import LevelFolder, PairSource, PairTable, Twins, check_twins
from slider_lightning.errors import InputError


def picture(path: Path, seed: int, size: tuple[int, int] = (8, 8)) -> Path:
    """A file of random pixels; the ending of its name is its format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def folder_of(root: Path, levels: Sequence[str], names: Sequence[str]) -> Path:
    for i, level in enumerate(levels):
        for j, name in enumerate(names):
            picture(root / level / name, 100 * i + j)
    return root


def table_of(root: Path, text: str, encoding: str = "utf-8") -> PairTable:
    (root / "pairs.csv").write_text(text, encoding=encoding)
    return PairTable(str(root / "pairs.csv"))


def refused(call: Callable[[], object]) -> str:
    """The one sentence of what a call refuses."""
    with pytest.raises(InputError) as caught:
        call()
    sentence = str(caught.value)
    assert sentence.startswith("Expected")
    assert "\n" not in sentence
    return sentence


# Folders


def test_twins_are_the_files_of_one_name_whatever_their_ending(tmp_path) -> None:
    small, big = tmp_path / "small", tmp_path / "big"
    for path in (small / "b.png", small / "a.webp", big / "a.jpg", big / "b.JPEG"):
        picture(path, len(str(path)))
    twins = LevelFolder(str(tmp_path), {1: "big", -1: "small"}).twins(tmp_path / "work")
    assert twins == (
        Twins("a", ((-1, small / "a.webp"), (1, big / "a.jpg"))),
        Twins("b", ((-1, small / "b.png"), (1, big / "b.JPEG"))),
    )
    assert not (tmp_path / "work").exists()


def test_levels_are_real_numbers_of_any_count(tmp_path) -> None:
    levels = {2.5: "huge", -0.5: "smallish", -2: "tiny", 0.25: "bigger"}
    folder_of(tmp_path, list(levels.values()), ["x.png", "y.png", "z.png"])
    twins = LevelFolder(str(tmp_path), levels).twins(tmp_path)
    assert [each.name for each in twins] == ["x", "y", "z"]
    for each in twins:
        assert [scale for scale, _ in each.images] == [-2, -0.5, 0.25, 2.5]
        assert [path.parent.name for _, path in each.images] == ["tiny", "smallish", "bigger", "huge"]


def test_before_and_after_are_the_levels_where_none_are_named(tmp_path) -> None:
    folder_of(tmp_path, ["before", "after"], ["1.png"])
    (twins,) = LevelFolder(str(tmp_path)).twins(tmp_path)
    assert [(scale, path.parent.name) for scale, path in twins.images] == [(-1, "before"), (1, "after")]


def test_hidden_files_captions_and_folders_are_left_out(tmp_path) -> None:
    folder_of(tmp_path, ["before", "after"], ["1.png"])
    (tmp_path / "before" / ".DS_Store").write_bytes(b"left by a file manager")
    picture(tmp_path / "before" / ".2.png", 0)
    (tmp_path / "before" / "1.txt").write_text("a face")
    (tmp_path / "after" / "Thumbs.db").write_bytes(b"left by a file manager")
    folder_of(tmp_path / "before", ["more"], ["3.png"])
    (twins,) = LevelFolder(str(tmp_path)).twins(tmp_path)
    assert twins.name == "1"


def test_all_problems_of_a_folder_come_in_one_sentence(tmp_path) -> None:
    """No twin, two files of a name, an unreadable file and another size, at once."""
    before, after = tmp_path / "before", tmp_path / "after"
    folder_of(tmp_path, ["before", "after"], ["good.png", "twice.png", "cut.png", "wide.png"])
    picture(before / "alone.png", 1)
    picture(after / "lonely.webp", 2)
    picture(after / "twice.jpg", 3)
    (after / "cut.png").write_bytes((after / "cut.png").read_bytes()[:100])
    picture(after / "wide.png", 4, (9, 8))
    (before / "photo.heic").write_bytes(b"in no format that Pillow knows")
    sentence = refused(lambda: LevelFolder(str(tmp_path)).twins(tmp_path))
    for problem in (
        "before/alone.png has no twin in after",
        "after/lonely.webp has no twin in before",
        "after/twice.jpg and after/twice.png share a name",
        "after/cut.png cannot be read (",
        "after/wide.png has 9 x 8 px and its twin before/wide.png 8 x 8 px",
        "before/photo.heic has no twin in after",
        "before/photo.heic cannot be read (it is in no format that Pillow knows)",
    ):
        assert problem in sentence
    assert "good" not in sentence


def test_a_name_that_lacks_some_levels_is_told_of_each(tmp_path) -> None:
    folder_of(tmp_path, ["a", "b", "c", "d"], ["1.png", "2.png"])
    (tmp_path / "b" / "2.png").unlink()
    (tmp_path / "d" / "2.png").unlink()
    picture(tmp_path / "c" / "2.png", 9, (4, 4))
    source = LevelFolder(str(tmp_path), {-2: "a", -1: "b", 1: "c", 2: "d"})
    sentence = refused(lambda: source.twins(tmp_path))
    assert "a/2.png has no twin in b; a/2.png has no twin in d; c/2.png has 4 x 4 px" in sentence


def test_a_long_list_of_problems_ends_with_a_count(tmp_path) -> None:
    folder_of(tmp_path, ["before", "after"], ["0.png"])
    folder_of(tmp_path, ["before"], [f"n{i:02d}.png" for i in range(33)])
    sentence = refused(lambda: LevelFolder(str(tmp_path)).twins(tmp_path))
    assert sentence.count("has no twin") == 20
    assert "n19" in sentence
    assert "n20" not in sentence
    assert "; and 13 more; " in sentence


def test_missing_and_empty_folders_are_one_sentence(tmp_path) -> None:
    assert "check the path" in refused(lambda: LevelFolder(str(tmp_path / "no")).twins(tmp_path))
    (tmp_path / "small").mkdir()
    (tmp_path / "after").mkdir()
    sentence = refused(lambda: LevelFolder(str(tmp_path)).twins(tmp_path))
    assert "subfolders before in" in sentence
    assert "holds after, small; set pairs.levels" in sentence
    (tmp_path / "before").mkdir()
    assert "they hold none" in refused(lambda: LevelFolder(str(tmp_path)).twins(tmp_path))


@pytest.mark.parametrize("levels", [{}, {1: "one"}, {float("nan"): "a", 1: "b"}, {-1: "a", float("inf"): "b"}])
def test_scales_must_order_two_levels(levels) -> None:
    assert "pairs.levels to be two or more" in refused(lambda: LevelFolder("folder", levels))


def test_two_levels_cannot_share_a_subfolder() -> None:
    assert "different subfolders, but got a, b, a" in refused(lambda: LevelFolder("x", {-1: "a", 1: "b", 2: "a"}))


@pytest.mark.parametrize("scales", [(), (1,), (1, 1), (1, -1), (-1, float("nan"))])
def test_twins_are_two_or_more_at_ascending_scales(scales) -> None:
    assert "the scales of x" in refused(lambda: Twins("x", tuple((scale, Path("x.png")) for scale in scales)))


# Tables


def test_a_row_is_a_pair_relative_to_the_tables_folder(tmp_path) -> None:
    paths = [picture(tmp_path / "in" / f"{name}.png", i) for i, name in enumerate(("a", "b", "c d"))]
    absolute = picture(tmp_path / "elsewhere.png", 9)
    text = (
        f"scale,note,after , before\n1,x,in/b.png,in/a.png\n\n 2.5,,{absolute},in/a.png\n0.5,y,in/a.png, in/c d.png\n"
    )
    twins = table_of(tmp_path, text).twins(tmp_path / "work")
    assert [each.images for each in twins] == [
        ((-1, paths[0]), (1, paths[1])),
        ((-2.5, paths[0]), (2.5, absolute)),
        ((-0.5, paths[2]), (0.5, paths[0])),
    ]
    assert [each.name for each in twins] == [f"line {line} of pairs.csv" for line in (2, 4, 5)]


def test_a_spreadsheets_byte_order_mark_and_line_ends_are_read(tmp_path) -> None:
    picture(tmp_path / "ä.png", 0)
    picture(tmp_path / "b.png", 1)
    (twins,) = table_of(tmp_path, 'before,after,scale\r\n"ä.png",b.png,2\r\n', "utf-8-sig").twins(tmp_path)
    assert twins.images == ((-2, tmp_path / "ä.png"), (2, tmp_path / "b.png"))


def test_all_problems_of_a_table_come_in_one_sentence(tmp_path) -> None:
    for i, name in enumerate(("a.png", "b.png")):
        picture(tmp_path / name, i)
    picture(tmp_path / "wide.png", 3, (9, 8))
    (tmp_path / "text.png").write_text("no image")
    rows = [
        "a.png,b.png,",
        "a.png,b.png,0",
        "a.png,b.png,-1",
        "a.png,b.png,much",
        "a.png,b.png,nan",
        "a.png,,1",
        "a.png,gone.png,inf",
        "a.png",
        "a.png,wide.png,1",
        "text.png,b.png,1",
    ]
    sentence = refused(lambda: table_of(tmp_path, "\n".join(["before,after,scale", *rows])).twins(tmp_path))
    for problem in (
        "line 2 has the scale '', which is no number above 0",
        "line 3 has the scale '0'",
        "line 4 has the scale '-1'",
        "line 5 has the scale 'much'",
        "line 6 has the scale 'nan'",
        "line 7 names no image after",
        "line 8 names the image gone.png, which does not exist; line 8 has the scale 'inf'",
        "line 9 names no image after; line 9 has the scale ''",
        "wide.png has 9 x 8 px and its twin",
        "text.png cannot be read (it is in no format that Pillow knows)",
    ):
        assert problem in sentence


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("before,scale\na.png,1\n", "but after are missing among before, scale"),
        ("before;after;scale\na.png;b.png;1\n", "missing among before;after;scale"),
        ("", "missing among none"),
        ("before,after,scale\n", "it has none"),
        ('before,after,scale\n"a.png,b.png,1\n', "save it as one"),
    ],
)
def test_a_table_that_is_none_is_one_sentence(tmp_path, text, hint) -> None:
    assert hint in refused(lambda: table_of(tmp_path, text).twins(tmp_path))


def test_an_unreadable_table_is_one_sentence(tmp_path) -> None:
    assert "check the path" in refused(lambda: PairTable(str(tmp_path / "no.csv")).twins(tmp_path))
    assert "check the path" in refused(lambda: PairTable(str(tmp_path)).twins(tmp_path))
    text = "before,after,scale\nä.png,b.png,1\n"
    assert "UTF-8" in refused(lambda: table_of(tmp_path, text, "latin-1").twins(tmp_path))


# The check of pixels


def test_sound_twins_pass_the_check(tmp_path) -> None:
    folder_of(tmp_path, ["a", "b", "c"], ["1.png", "2.png"])
    check_twins(LevelFolder(str(tmp_path), {-1: "a", 1: "b", 2: "c"}).twins(tmp_path))


def test_equal_pixels_are_found_at_any_two_levels_and_in_other_files(tmp_path) -> None:
    folder_of(tmp_path, ["a", "b"], ["1.png"])
    Image.open(tmp_path / "a" / "1.png").convert("RGBA").save(tmp_path / "c.webp", lossless=True)
    paths = (tmp_path / "a" / "1.png", tmp_path / "b" / "1.png", tmp_path / "c.webp")
    twins = Twins("1", tuple((float(i), path) for i, path in enumerate(paths, start=1)))
    assert "c.webp shows the same pixels as its twin a/1.png" in refused(lambda: check_twins([twins]))


def test_the_background_decides_what_transparent_twins_show(tmp_path) -> None:
    clear, white = tmp_path / "clear.png", tmp_path / "white.png"
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(clear)
    Image.new("RGB", (4, 4), "white").save(white)
    twins = [Twins("x", ((-1.0, clear), (1.0, white)))]
    check_twins(twins, "black")
    assert "same pixels" in refused(lambda: check_twins(twins, "white"))


def test_only_the_check_that_knows_the_background_finds_equal_pixels(tmp_path) -> None:
    """White logos on nothing are all white on white; a source that lists other problems must not call them equal."""
    for level, alpha in (("before", 100), ("after", 200)):
        (tmp_path / level).mkdir()
        Image.new("RGBA", (4, 4), (255, 255, 255, alpha)).save(tmp_path / level / "logo.png")
    source = LevelFolder(str(tmp_path))
    check_twins(source.twins(tmp_path), "black")
    assert "after/logo.png shows the same pixels" in refused(lambda: check_twins(source.twins(tmp_path)))
    picture(tmp_path / "before" / "alone.png", 1)
    table = table_of(tmp_path, "before,after,scale\nbefore/logo.png,after/logo.png,1\nbefore/logo.png,gone.png,1\n")
    for some in (source, table):
        assert "same pixels" not in refused(lambda some=some: some.twins(tmp_path))


def test_turned_photos_are_compared_as_they_are_seen(tmp_path) -> None:
    """A twin that lies on its side in the file, with the tag that says so, has its twin's size."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4), "red").save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGB", (4, 6), "blue").save(tmp_path / "b.jpg")
    check_twins([Twins("x", ((-1.0, tmp_path / "a.jpg"), (1.0, tmp_path / "b.jpg")))])
    Image.new("RGB", (6, 4), "blue").save(tmp_path / "b.jpg")
    twins = [Twins("x", ((-1.0, tmp_path / "a.jpg"), (1.0, tmp_path / "b.jpg")))]
    assert "b.jpg has 6 x 4 px and its twin" in refused(lambda: check_twins(twins))


# Configs


def shipped(name: str) -> dict:
    return yaml.safe_load((CONF / "pairs" / f"{name}.yaml").read_text())


def test_the_shipped_configs_build_sources(tmp_path) -> None:
    folder: PairSource = build({**shipped("folder"), "folder": "here"})
    assert folder == LevelFolder("here")
    table: PairSource = build({**shipped("table"), "path": "pairs.csv"})
    assert table == PairTable("pairs.csv")


def test_levels_are_set_whole_on_the_command_line(tmp_path) -> None:
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "folder.yaml").write_text((CONF / "pairs" / "folder.yaml").read_text())
    (tmp_path / "main.yaml").write_text("defaults:\n  - pairs: folder\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = compose("main", ["pairs.folder=here", "pairs.levels={-2:tiny,-0.5:small,2.5:big}"])
    source = build(config["pairs"])
    assert source == LevelFolder("here", {-2.0: "tiny", -0.5: "small", 2.5: "big"})


@pytest.mark.parametrize("levels", [{"little": "small", 1: "big"}, ["small", "big"], {-1: 3, 1: "big"}])
def test_levels_of_another_type_are_refused_by_name(levels) -> None:
    assert "pairs.levels" in refused(lambda: check({**shipped("folder"), "folder": "x", "levels": levels}, "pairs."))
