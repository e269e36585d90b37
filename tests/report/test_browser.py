"""The page in a browser: it opens from disk, sorts and filters, fits, and can be read."""

import base64
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from ppl_vae.comparison import compare
from ppl_vae.report._study import render

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None,
    reason="needs chromium and chromedriver: apt install chromium chromium-driver",
)
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
LONG = "a long name: " + "averyveryverylongname" * 8


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def address(results, tmp_path_factory):
    cells = [
        replace(cell, arm=LONG if cell.arm == "stl" else cell.arm, reason=cell.reason and LONG)
        for cell in results.cells
    ]
    question = "Which is better? " + "averyveryverylongname" * 8
    long = replace(results, cells=cells, study=replace(results.study, question=question))
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(long, compare(long.evidence())))
    return path.as_uri()


@pytest.fixture
def page(driver, address):
    with emulated(driver):
        driver.get(address)
        yield driver


@contextmanager
def emulated(driver, *, width=1280, scheme="light", media=""):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    yield


def column(driver, table, number):
    """The keys of a column's cells in sight, from top to bottom."""
    return driver.execute_script(
        "return [...document.querySelectorAll(`#table-${arguments[0]} tbody tr:not([hidden])`)]"
        ".map(row => row.cells[arguments[1]]).map(c => c.dataset.key ?? c.textContent)",
        table, number,
    )  # fmt: skip


def heading(driver, table, number):
    return driver.find_elements(By.CSS_SELECTOR, f"#table-{table} thead th")[number]


def test_opens_from_disk_without_an_error_and_asks_for_nothing(page):
    assert page.get_log("browser") == []
    asked = page.execute_script(
        "return performance.getEntriesByType('resource').map(e => e.name)"
        ".filter(name => !name.startsWith('data:'))"
    )
    assert asked == []
    broken = page.execute_script(
        "return [...document.images].filter(i => !i.complete || i.naturalWidth === 0).length"
    )
    assert broken == 0


def test_sorts_numbers_by_click(page):
    log_prob = heading(page, "cells", 3)
    assert log_prob.get_attribute("aria-sort") == "none"
    for order, sign in (("ascending", 1), ("descending", -1)):
        log_prob.find_element(By.TAG_NAME, "button").click()
        keys = column(page, "cells", 3)
        values = [sign * float(key) for key in keys if key]
        assert log_prob.get_attribute("aria-sort") == order
        assert len(values) == 13
        assert values == sorted(values)
        assert keys[-2:] == ["", ""], "cells without a number come last"


def test_sorts_by_keyboard(page):
    evaluations = heading(page, "cells", 6)
    button = evaluations.find_element(By.TAG_NAME, "button")
    page.execute_script("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    values = [float(key) for key in column(page, "cells", 6) if key]
    assert values == sorted(values) != sorted(values, key=str)
    assert evaluations.get_attribute("aria-sort") == "ascending"
    button.send_keys(Keys.SPACE)
    assert evaluations.get_attribute("aria-sort") == "descending"
    others = page.find_elements(By.CSS_SELECTOR, "#table-cells th[aria-sort=none]")
    headings = page.find_elements(By.CSS_SELECTOR, "#table-cells th[aria-sort]")
    assert len(others) == len(headings) - 1


def test_filters_by_all_words(page):
    box = page.find_element(By.CSS_SELECTOR, "#table-cells input[type=search]")
    box.send_keys("IWAE done")
    arms = column(page, "cells", 0)
    assert set(arms) == {"iwae:5", "iwae:50"}
    assert len(arms) == 5
    status = page.find_element(By.CSS_SELECTOR, "#table-cells [role=status]")
    assert status.text == "5 of 15 rows"
    box.clear()
    box.send_keys(Keys.SPACE)
    assert len(column(page, "cells", 0)) == 15


def test_data_are_there_to_download(page):
    link = page.find_element(By.CSS_SELECTOR, "a[download='ranking.csv']")
    text = page.execute_async_script(
        "const done = arguments[1];"
        "fetch(arguments[0].href).then(answer => answer.text()).then(done)",
        link,
    )
    lines = text.splitlines()
    assert lines[0].startswith("rank,arm,log_prob,error")
    assert len(lines) == 6
    assert [line.split(",")[1] for line in lines[1:]] == column(page, "ranking", 1)


@pytest.mark.parametrize(
    ("width", "media"), [(320, ""), (360, ""), (768, ""), (1280, ""), (720, "print")]
)
def test_nothing_is_wider_than_the_page(driver, address, width, media):
    with emulated(driver, width=width, media=media):
        driver.get(address)
        widest = driver.execute_script("return document.scrollingElement.scrollWidth")
        out = driver.execute_script(
            "return [...document.querySelectorAll('body *')]"
            ".filter(e => !e.closest('.scroll *, pre, defs, svg *'))"
            ".filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
            ".map(e => e.tagName + '.' + e.className)"
        )
    assert out == []
    assert widest <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(driver, address, scheme):
    with emulated(driver, scheme=scheme):
        driver.get(address)
        found = driver.execute_script(CONTRASTS)
    assert len(found) > 200
    faint = [(ratio, text) for ratio, text in found if ratio < 4.5]
    assert faint == []


def test_dark_is_dark_and_paper_is_white(driver, address):
    grounds = []
    for scheme, media in (("light", ""), ("dark", ""), ("dark", "print")):
        with emulated(driver, scheme=scheme, media=media):
            driver.get(address)
            grounds.append(
                driver.execute_script("return getComputedStyle(document.body).backgroundColor")
            )
    light, dark, paper = grounds
    assert light == paper == "rgb(255, 255, 255)"
    assert dark != light


def test_figures_can_be_read_on_a_phone(driver, address):
    with emulated(driver, width=360):
        driver.get(address)
        sizes = driver.execute_script(
            "return [...document.querySelectorAll('figure svg text')]"
            ".map(t => [parseFloat(getComputedStyle(t).fontSize), t.getScreenCTM()])"
            ".map(([size, m]) => size * Math.hypot(m.a, m.b))"
        )
    assert min(sizes) >= 9


def test_prints(page):
    printed = page.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")


CONTRASTS = """
const channels = color => color.match(/[\\d.]+/g).map(Number);
const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255)
  .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const ground = element => {
  for (let e = element; e; e = e.parentElement) {
    const found = channels(getComputedStyle(e).backgroundColor);
    if (found.length < 4 || found[3] > 0) return found;
  }
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const found = [];
while (walker.nextNode()) {
  const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
  if (!text || element.closest('script, style')) continue;
  const style = getComputedStyle(element);
  const [a, b] = [channels(element.closest('svg') ? style.fill : style.color), ground(element)]
    .map(luminance).sort((x, y) => y - x);
  found.push([(a + 0.05) / (b + 0.05), text]);
}
return found;
"""
