"""The report in a real browser: it opens offline, draws, answers to clicks, and can be read in light, in dark and on paper."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_daemon.evaluation.report import write_report
from tests.browser.cases import FACTS, alert, write_alerts, write_export
from tests.browser.conftest import Opened

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">$$x$$ \\(y\\)"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """On 20 thousand records of 12 entities, one of them with a hostile name, and 130 incidents."""
    folder = tmp_path_factory.mktemp("report")
    entities = [HOSTILE, *(f"pump-{number}" for number in range(1, 12))]
    write_export(folder / "scores.parquet", 20_000, entities)
    write_alerts(folder / "alerts.jsonl", [alert(n, entities[n % 12], peak=1 - n / 200) for n in range(130)])
    write_report(folder / "report.html", folder / "scores.parquet", folder / "alerts.jsonl", FACTS)
    return folder / "report.html"


def test_report_opens_from_a_file_without_a_request_or_a_complaint(opened: Opened, report: Path) -> None:
    opened.show(report)

    assert opened.complaints == []
    assert opened.requests == [report.as_uri()]


def test_name_of_an_entity_is_never_run_nor_taken_for_markup(opened: Opened, report: Path) -> None:
    opened.show(report)

    assert opened.page.title() == "Anomaly report: plant"
    assert opened.page.locator("main img").count() == 0
    assert opened.page.locator("#row-1 .name").text_content() == HOSTILE


def test_every_plot_is_drawn(opened: Opened, report: Path) -> None:
    opened.show(report)

    for name in ("timeline", "scores", "distribution", "deviations", "calibration", "volume"):
        assert len(_colours(opened.page.locator(f"#plot-{name}").screenshot())) > 10, name


def test_click_on_an_incident_shows_its_features_and_draws_them(opened: Opened, report: Path) -> None:
    opened.show(report)
    incident = opened.page.locator("#incident-7")
    assert not incident.locator("td", has_text="pressure").is_visible()

    opened.page.locator("a[data-rank='7']").click()
    opened.page.wait_for_selector("#incident-7[data-drawn='yes']")

    assert incident.locator("td", has_text="pressure").is_visible()
    assert len(_colours(incident.locator(".plot").first.screenshot())) > 10


def test_click_on_a_mark_of_the_timeline_shows_that_incident(opened: Opened, report: Path) -> None:
    opened.show(report)
    rank, x, y = opened.page.evaluate(
        """() => {
          const view = [...Bokeh.index].find((one) => one.model.document.get_model_by_name("timeline critical"));
          const source = view.model.document.get_model_by_name("timeline critical");
          const box = view.el.getBoundingClientRect();
          const at = source.data.rank.indexOf([...source.data.rank].find((one) => one > 1 && one <= 100));
          const x = view.frame.x_scale.compute(source.data.peak_at[at]);
          const y = view.frame.y_scale.compute(source.data.row[at]);
          return [source.data.rank[at], box.left + x, box.top + y];
        }"""
    )

    opened.page.mouse.click(x, y)

    opened.page.wait_for_selector("details.incident[open]:not(#incident-1)")
    assert opened.page.locator(f"#incident-{rank}").get_attribute("open") is not None


def test_scores_of_a_chosen_entity_replace_those_of_all(opened: Opened, report: Path) -> None:
    opened.show(report)
    before = opened.page.locator("#plot-scores").screenshot()

    opened.page.locator("#series").select_option("3")

    opened.page.wait_for_function("document.getElementById('series').value === '3'")
    assert opened.page.locator("#plot-scores").screenshot() != before


def test_click_on_a_heading_sorts_the_incidents(opened: Opened, report: Path) -> None:
    opened.show(report)
    button = opened.page.locator("table.sortable").first.get_by_role("button", name="peak score")

    button.click()
    button.click()

    assert opened.page.locator("table.sortable").first.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    peaks = [float(text) for text in opened.page.locator("table.sortable").first.locator("tbody td:nth-child(7)").all_inner_texts()]
    assert peaks == sorted(peaks)


def test_page_is_light_or_dark_as_the_reader_has_it_and_never_wider_than_a_laptop(opened: Opened, report: Path) -> None:
    opened.show(report)
    light = _brightness(opened.page.screenshot())
    opened.page.emulate_media(color_scheme="dark")

    assert light > 0.85
    assert _brightness(opened.page.screenshot()) < 0.25
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 1280
    assert opened.complaints == []


def test_every_plot_is_on_paper_dark_on_white_even_from_a_dark_screen(opened: Opened, report: Path) -> None:
    opened.page.emulate_media(color_scheme="dark")
    opened.show(report)

    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    opened.page.emulate_media(media="print", color_scheme="light")

    pictures = opened.page.locator(".plot > .paper")
    assert pictures.count() == opened.page.locator(".plot[id]").count() + 3
    for number in range(pictures.count()):
        picture = pictures.nth(number).screenshot()
        assert _brightness(picture) > 0.8
        assert len(_colours(picture)) > 10


def test_printed_pages_are_a4_and_not_empty(opened: Opened, report: Path) -> None:
    opened.show(report)

    assert len(opened.page.pdf(prefer_css_page_size=True)) > 50_000
    assert opened.page.locator(".paper").count() == 0


@pytest.mark.slow
def test_first_view_of_a_million_records_takes_two_seconds_and_the_file_15_megabytes(opened: Opened, tmp_path: Path) -> None:
    entities = [f"pump-{number}" for number in range(200)]
    write_export(tmp_path / "scores.parquet", 1_000_000, entities)
    write_alerts(tmp_path / "alerts.jsonl", [alert(n, entities[n % 200], peak=1 - n / 4000) for n in range(3000)])
    write_report(tmp_path / "report.html", tmp_path / "scores.parquet", tmp_path / "alerts.jsonl", FACTS)

    views_ms = []
    for _ in range(3):
        opened.show(tmp_path / "report.html")
        views_ms.append(opened.page.evaluate("performance.getEntriesByName('drawn timeline')[0].startTime"))

    assert (tmp_path / "report.html").stat().st_size <= 15_000_000
    assert min(views_ms) <= 2000


def _pixels(screenshot: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(screenshot)).convert("RGB"))


def _brightness(screenshot: bytes) -> float:
    return float(_pixels(screenshot).mean() / 255)


def _colours(screenshot: bytes) -> np.ndarray:
    return np.unique(_pixels(screenshot).reshape(-1, 3), axis=0)
