"""The pages of `tune` and `diff` in a real browser, written by the verbs themselves."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_daemon.cli import main
from tests import small, tuning_cases
from tests.browser.conftest import Opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exports of the same stream at z 4 and z 3, the pages of a tuning by budget, of one by labels, and of the difference."""
    folder = tmp_path_factory.mktemp("pages")
    config = tuning_cases.settings_file(folder)
    records = small.stream(1, 6, 1500)
    first = tuning_cases.export(folder / "first.parquet", records, small.settings())
    second = tuning_cases.export(folder / "second.parquet", records, small.settings("threshold.z=3"))
    labels = folder / "labels.csv"
    hours = [np.datetime64(1_700_000_000 + 3600 * hour, "s") for hour in range(1, 24, 2)]
    lines = [f"pump-2,{start}Z,{start + 1200}Z" for start in hours]
    labels.write_text("\n".join(["entity,start,end", *lines]) + "\n")
    for arguments in (
        ["tune", "-c", str(config), "--scores", str(first), "--budget", "20/day", "--report", str(folder / "budget.html")],
        ["tune", "-c", str(config), "--scores", str(first), "--labels", str(labels), "--report", str(folder / "labels.html")],
        ["diff", str(first), str(second), "--report", str(folder / "diff.html")],
        ["diff", str(first), str(first), "--report", str(folder / "same.html")],
    ):
        assert main(arguments) == 0
    return folder


@pytest.mark.parametrize(("name", "plots"), [("budget", 1), ("labels", 2), ("diff", 1), ("same", 0)])
def test_page_opens_without_a_request_or_a_complaint_and_draws_its_plots(opened: Opened, folder: Path, name: str, plots: int) -> None:
    opened.show(folder / f"{name}.html")

    assert opened.complaints == []
    assert opened.requests == [(folder / f"{name}.html").as_uri()]
    assert opened.page.locator(".plot").count() == plots
    for number in range(plots):
        assert len(_colours(opened.page.locator(".plot").nth(number).screenshot())) > 10
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_tuning_page_holds_figures_of_both_parts_before_and_after_and_the_patch(opened: Opened, folder: Path) -> None:
    opened.show(folder / "budget.html")

    text = opened.page.locator("main").inner_text()
    assert re.search(r"before, earlier\s+before, later\s+before, whole\s+after, earlier", text)
    assert "incidents a day" in text
    assert "settings patch of `anomaly-daemon tune" in opened.page.locator("pre").inner_text()


def test_comparison_page_lists_every_change_with_its_cause(opened: Opened, folder: Path) -> None:
    opened.show(folder / "diff.html")

    causes = opened.page.locator("table.sortable tbody td:last-child").all_inner_texts()
    assert causes
    assert set(causes) == {"settings"}
    assert "threshold.z" in opened.page.locator("main").inner_text()


def test_comparison_of_a_run_with_itself_says_that_nothing_differs(opened: Opened, folder: Path) -> None:
    opened.show(folder / "same.html")

    assert "No incident differs" in opened.page.locator("header").inner_text()


def _colours(screenshot: bytes) -> np.ndarray:
    return np.unique(np.asarray(Image.open(io.BytesIO(screenshot)).convert("RGB")).reshape(-1, 3), axis=0)
