"""The pages in a real browser, of a run that was trained and evaluated for them: what is seen, moved and copied."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from evaluation.evaluate import evaluate
from evaluation.measurements import read_measurements
from evaluation.pages.__main__ import write_gallery
from evaluation.pages.document import write_page
from evaluation.pages.examples import concept_images
from evaluation.pages.run_page import run_page, write_run_page
from evaluation.pages.run_view import read_run
from evaluation.report import Cell, Column, Published, PublishedFigure, Row, Table, write_table
from evaluation.statistics import Measure, PairedTest
from slider_lightning.errors import InputError
from slider_lightning.train import train
from slider_lightning.training import RunFolder
from tests.conftest import composed
from tests.pages_browser import chromium, complaints, low_contrast, opened, overflow

QUICK = (
    "experiment=age",
    "trainer.max_steps=4",
    "trainer.progress_bar=false",
    "data.source.num_rollouts=1",
    "data.source.rollout.num_inference_steps=4",
    "sampler.num_inference_steps=4",
    "strip.seeds=[0]",
    "strip.scales=[-1,1]",
    "evaluation.prompts.seeds_per_prompt=4",
    "evaluation.scales=[-2,0,1,2]",
)
EVIL = "</script><script>window.hurt=1</script><img src=x onerror='window.hurt=1'>\" onfocus=\"window.hurt=1"


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs with two evaluated runs of other ranks, made elsewhere and then moved together."""
    made = tmp_path_factory.mktemp("made") / "outputs"
    for rank in (1, 2):
        places = (f"paths.outputs={made}", f"paths.cache={made.parent}/cache", f"adapter.rank={rank}")
        evaluate(train(composed("train", *QUICK, *places)))
    moved = tmp_path_factory.mktemp("moved") / "outputs"
    shutil.move(made, moved)
    return moved


@pytest.fixture(scope="session")
def run(outputs: Path) -> RunFolder:
    """The run of rank 1."""
    runs = [RunFolder(path.parent) for path in (outputs / "age").glob("*/config.yaml")]
    return next(run for run in runs if yaml.safe_load(run.config.read_text())["adapter"]["rank"] == 1)


@pytest.fixture(scope="session")
def gallery(outputs: Path) -> Path:
    """The gallery of both."""
    return write_gallery(composed("pages", f"folder={outputs}"))


@pytest.fixture(scope="session")
def table(run: RunFolder) -> Path:
    """The page of a table with groups, a comparison, published figures and the run's images."""
    measures = [Measure(mean, (mean - 0.5, mean + 0.5), 8) for mean in (2.0, -1.0, 10.0)]
    test = PairedTest(Measure(-3.0, (-4.0, -2.0), 8), 0.01, "sign-flip test, exact")
    rows = (
        Row("slider", (Cell(measures[0]), Cell(text="-")), "age"),
        Row("other", (Cell(measures[1], test), Cell(measures[1])), "age"),
        Row(EVIL, (Cell(measures[2]), Cell(text="-")), "smile"),
    )
    published = Published("A paper", ("shift",), {"slider": [PublishedFigure(1.5, "2")]}, ("A note on it.",))
    shown = Table("Shifts", (Column("shift"), Column("drift")), rows, ("concept", "method"), "slider", (), (published,))
    images = concept_images([read_measurements(run.path / "measurements.jsonl")], run.path.parents[1] / "grids")
    return write_table(run.path.parents[1] / "paper", "table", shown, images)[-1]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """One browser for all tests."""
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def pages(run: RunFolder, gallery: Path, table: Path) -> dict[str, Path]:
    """A page of each kind."""
    return {"run": run.path / "page.html", "gallery": gallery, "table": table}


def shown_images(browser: Chrome) -> list[str]:
    """The pictures that are seen, seed by seed."""
    seen = "[...document.querySelectorAll('.shots img')].filter((e) => getComputedStyle(e).opacity === '1')"
    images: list[str] = browser.execute_script(f"return {seen}.map((e) => e.src)")
    return images


def text(browser: Chrome, selector: str) -> str:
    return browser.find_element(By.CSS_SELECTOR, selector).text


def press(browser: Chrome, *keys: str) -> None:
    ActionChains(browser).send_keys(*keys).perform()


def focused_range(browser: Chrome) -> WebElement:
    control = browser.find_element(By.CSS_SELECTOR, "input[type=range]")
    browser.execute_script("arguments[0].focus()", control)
    return control


@pytest.mark.parametrize("kind", ["run", "gallery", "table"])
def test_a_page_asks_for_nothing_and_fits_every_screen_and_scheme(
    browser: Chrome, pages: dict[str, Path], kind: str
) -> None:
    browser.get_log("browser")
    for scheme in ("light", "dark"):
        opened(browser, pages[kind], width=360, scheme=scheme)
        browser.execute_script("document.querySelectorAll('details').forEach((e) => (e.open = true))")
        assert overflow(browser) <= 0
        assert low_contrast(browser) == []
        ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    assert complaints(browser) == []
    assert "http://" not in re.sub(r"<svg.*?</svg>", "", pages[kind].read_text(), flags=re.S).replace("{http://", "")


def test_what_is_not_inside_of_a_page_is_refused(browser: Chrome, pages: dict[str, Path]) -> None:
    opened(browser, pages["run"])
    refused = browser.execute_async_script(
        "const done = arguments[0]; fetch('https://example.invalid/').then(() => done(false), () => done(true))"
    )
    assert refused
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


def test_the_control_moves_the_images_and_the_figures_to_measured_scales(browser: Chrome, run: RunFolder) -> None:
    view = read_run(run)
    opened(browser, run.path / "page.html")
    assert shown_images(browser) == [example.images[3] for example in view.examples]
    control = focused_range(browser)
    browser.execute_script(
        "arguments[0].value = 0.8; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))", control
    )
    assert text(browser, "#scale") == "+1"
    assert float(control.get_property("value")) == 1
    assert shown_images(browser) == [example.images[2] for example in view.examples]
    assert f"{view.target.points[2].mean:+.2f}".replace("-", "−") in text(browser, "#effect")
    assert "scale +1" in (control.get_attribute("aria-valuetext") or "")
    x, _ = browser.execute_script("return data.dots[2]")
    marker = browser.find_element(By.ID, "dot").get_attribute("cx")
    assert float(marker or 0) == x
    own = [element.text for element in browser.find_elements(By.CSS_SELECTOR, ".own")]
    assert len(own) == 4
    flips = browser.find_elements(By.CSS_SELECTOR, "#flips li")
    shares = [int(row.text.split()[-3]) for row in flips]
    # Half a percent: scripts and Python round halves to different sides.
    assert shares == pytest.approx([100 * curve.points[2].mean for curve in view.flips], abs=0.5)


def test_keys_step_through_the_scales(browser: Chrome, run: RunFolder) -> None:
    opened(browser, run.path / "page.html")
    focused_range(browser)
    seen = []
    for key in (Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.END, Keys.ARROW_LEFT, "0", Keys.ARROW_LEFT):
        press(browser, key)
        seen.append(text(browser, "#scale"))
    assert seen == ["−2", "0", "+1", "+2", "+1", "0", "−2"]


def test_holding_shows_the_unedited_images(browser: Chrome, run: RunFolder) -> None:
    view = read_run(run)
    opened(browser, run.path / "page.html")
    edited, base = ([example.images[column] for example in view.examples] for column in (3, 1))
    for place in ("#hold", "#seeds .shots"):
        element = browser.find_element(By.CSS_SELECTOR, place)
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(browser).move_to_element(element).click_and_hold().perform()
        assert shown_images(browser) == base
        ActionChains(browser).release().perform()
        assert shown_images(browser) == edited
    ActionChains(browser).key_down("b").perform()
    assert shown_images(browser) == base
    ActionChains(browser).key_up("b").perform()
    assert shown_images(browser) == edited


def test_a_command_is_copied_whole(browser: Chrome, run: RunFolder) -> None:
    opened(browser, run.path / "page.html")
    code = browser.find_element(By.CSS_SELECTOR, ".code pre").get_property("textContent")
    browser.find_element(By.CSS_SELECTOR, ".copy").click()
    area = "const a = document.createElement('textarea'); document.body.append(a); a.id = 'pasted'; a.focus();"
    browser.execute_script(area)
    ActionChains(browser).key_down(Keys.CONTROL).send_keys("v").key_up(Keys.CONTROL).perform()
    assert browser.find_element(By.ID, "pasted").get_property("value") == code
    assert "slider_lightning.generate" in str(code)


def test_the_toggle_turns_the_scheme_around(browser: Chrome, run: RunFolder) -> None:
    opened(browser, run.path / "page.html", scheme="light")
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = browser.execute_script(ground)
    browser.find_element(By.ID, "theme").click()
    assert browser.execute_script(ground) != light
    assert low_contrast(browser) == []


def test_texts_of_a_run_are_inert(browser: Chrome, run: RunFolder, tmp_path: Path) -> None:
    view = read_run(run)
    concept = {"name": EVIL, "target": EVIL, "positive": EVIL, "negative": EVIL}
    evil = replace(
        view,
        config={**view.config, "concept": concept},
        config_text=EVIL,
        target=replace(view.target, name=EVIL),
        examples=tuple(replace(example, prompt=EVIL) for example in view.examples),
    )
    browser.get_log("browser")
    opened(browser, write_page(tmp_path / "evil.html", run_page(evil)))
    assert browser.execute_script("return window.hurt") is None
    assert complaints(browser) == []
    assert text(browser, "h1").startswith("</script><script>window.hurt=1")
    assert json.loads(browser.execute_script("return JSON.stringify(data.target.name)")) == EVIL


def test_the_gallery_sorts_filters_and_compares(browser: Chrome, gallery: Path, outputs: Path) -> None:
    opened(browser, gallery)
    ranks = "return [...document.querySelectorAll('.card')].filter((e) => !e.hidden).map((e) => e.dataset.index)"
    first, second = browser.execute_script(ranks)
    shifts = browser.execute_script("return data.cards.map((c) => c.figures[data.figures.indexOf('target shift')][0])")
    browser.find_element(By.CSS_SELECTOR, "#sort option:nth-child(2)").click()
    highest = sorted((first, second), key=lambda index: -shifts[int(index)])
    assert browser.execute_script(ranks) == highest
    browser.find_element(By.ID, "direction").click()
    assert browser.execute_script(ranks) == highest[::-1]

    browser.find_element(By.ID, "find").send_keys("adapter.rank=2")
    assert len(browser.execute_script(ranks)) == 1
    browser.find_element(By.ID, "find").clear()
    browser.find_element(By.ID, "find").send_keys(" ")
    browser.find_element(By.CSS_SELECTOR, ".filter[data-key='adapter.rank'] option[value='=1']").click()
    assert len(browser.execute_script(ranks)) == 1
    browser.find_element(By.CSS_SELECTOR, ".filter[data-key='adapter.rank'] option").click()

    for box in browser.find_elements(By.CSS_SELECTOR, ".pick input"):
        box.click()
    browser.find_element(By.ID, "open").click()
    assert browser.find_element(By.ID, "compare").is_displayed()
    differing = {row.text.split()[0] for row in browser.find_elements(By.CSS_SELECTOR, "#differing tbody tr")}
    assert differing == {"adapter.rank"}
    moved = "return [...document.querySelectorAll('.sides .tile img')].map((e) => e.style.transform)"
    before = browser.execute_script(moved)
    focused = browser.find_element(By.CSS_SELECTOR, "#compare input[type=range]")
    browser.execute_script("arguments[0].focus()", focused)
    press(browser, Keys.ARROW_LEFT)
    after = browser.execute_script(moved)
    assert len(after) == 6
    assert all(a != b for a, b in zip(before, after, strict=True)), "both sides move together"
    press(browser, Keys.ESCAPE)
    assert not browser.find_element(By.ID, "compare").is_displayed()
    pages = [link.get_attribute("href") for link in browser.find_elements(By.CSS_SELECTOR, ".card a")]
    assert {Path(str(page).removeprefix("file://")) for page in pages} == set((outputs / "age").glob("*/page.html"))


def test_pictures_of_a_gallery_are_loaded_when_they_come_near(browser: Chrome, gallery: Path, tmp_path: Path) -> None:
    many = gallery.read_text().replace(
        '<ul class="cards" id="cards">', '<div style="height:9000px"></div><ul class="cards" id="cards">'
    )
    opened(browser, write_page(tmp_path / "long.html", many))
    images = "return [...document.querySelectorAll('img.thumb')].map((e) => e.naturalWidth > 0)"
    assert browser.execute_script(images) == [False, False]
    browser.execute_script("document.querySelector('.card').scrollIntoView()")
    wait = "const done = arguments[0]; setTimeout(() => done(true), 300)"
    browser.execute_async_script(wait)
    assert browser.execute_script(images) == [True, True]


def test_a_table_sorts_with_its_groups_and_shows_its_images(browser: Chrome, table: Path) -> None:
    opened(browser, table)
    means = "return [...document.querySelectorAll('#table tbody tr')].map((r) => r.cells[2].dataset.key)"
    assert browser.execute_script(means) == ["2.0", "-1.0", "10.0"]
    button = browser.find_elements(By.CSS_SELECTOR, ".sort")[2]
    for order in (["10.0", "2.0", "-1.0"], ["-1.0", "2.0", "10.0"], ["2.0", "-1.0", "10.0"]):
        button.click()
        assert browser.execute_script(means) == order
    browser.find_elements(By.CSS_SELECTOR, ".sort")[3].click()
    assert browser.execute_script(means)[0] == "-1.0", "what has no figure stands last"
    shown = text(browser, "main")
    for words in ("2.00", "[1.50, 2.50]", "n = 8", "p = 0.010", "1.50 (2)", "A note on it."):
        assert words in shown
    assert browser.execute_script("return window.hurt") is None
    before = shown_images(browser)
    focused_range(browser)
    press(browser, Keys.HOME)
    assert text(browser, ".images output") == "−2"
    assert len(before) == 4
    assert not set(before) & set(shown_images(browser))


def test_the_same_run_gives_the_same_bytes_of_bounded_size(run: RunFolder, gallery: Path, outputs: Path) -> None:
    first = write_run_page(run).read_bytes()
    assert write_run_page(run).read_bytes() == first
    assert len(first) < 1_000_000
    before = gallery.read_bytes()
    assert write_gallery(composed("pages", f"folder={outputs}")).read_bytes() == before
    assert len(before) < 100_000 + 2 * 64_000


def test_a_run_moved_without_its_images_has_a_page_all_the_same(run: RunFolder, tmp_path: Path) -> None:
    alone = RunFolder(tmp_path / "alone")
    shutil.copytree(run.path, alone.path)
    page = write_run_page(alone).read_text()
    assert "not at hand" in page
    assert "data:image/png" not in page
    with pytest.raises(InputError, match="there are none"):
        write_gallery(composed("pages", f"folder={tmp_path / 'nothing'}"))
