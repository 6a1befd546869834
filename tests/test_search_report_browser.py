"""The page of a run in a real Chromium, opened from disk, driven as people would."""

import json
import shutil

import numpy as np
import pytest
import torch
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait
from torch import nn

import search
from search import Budget
from search.cli.report import report
from sekron.columns import COLUMNS
from tests.conftest import decayed
from tests.test_search_figures import XSS
from tests.test_search_whole_network_within_latency import World
from tests.test_search_whole_network_within_latency import run as run_in

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromedriver") is None, reason="needs Chromium"),
]
NAMES = ("entry", XSS, "二層", "שכבה", "exit")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with everything: calibrated, timed, scored; its names are what names can be."""
    torch.manual_seed(0)
    network = nn.Sequential()
    for name, sizes in zip(NAMES, [(3, 8), (8, 12), (12, 12), (12, 16), (16, 6)], strict=True):
        network.add_module(name, nn.Conv2d(*sizes, 3, padding=1))
    network = decayed(network).eval().requires_grad_(False)
    example = torch.randn(2, 3, 9, 7)
    path = tmp_path_factory.mktemp("runs") / "<b>run</b>"
    run_in(
        World(search.profile(network, example)),
        network,
        example,
        run=path,
        budget=Budget(flops=0.6),
        calibration=[torch.randn(8, 3, 9, 7)],
        output="values",
        score=lambda net: -float((net(example) - network(example)).norm()),
        n_network_trials=3,
    )
    report(str(path))
    return path


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)  # tests may run as root, where there is no sandbox
    options.add_argument("--window-size=1440,900")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options, service)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def result(folder):
    return search.load(folder)


@pytest.fixture
def page(browser, folder):
    """The page, freshly opened; what it says to the console and asks for is looked at."""
    browser.get((folder / "report.html").as_uri())
    WebDriverWait(browser, 60).until(
        lambda _: browser.execute_script("return document.documentElement.dataset.ready")
    )
    yield browser
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert {url for url in asked if not url.startswith("data:")} <= {browser.current_url}


def plan_shown(page):
    """The number of the plan, the same wherever the page tells it."""
    script = """return [
        Number(document.getElementById("slider").value),
        Number(document.getElementById("which").textContent.split(" ")[1]),
        Number(document.querySelector("#front [aria-selected=true] td").textContent),
        ...[...document.querySelectorAll(".shown-plan")].map(
            (element) => Number(element.textContent.split(" ")[1])),
    ]"""
    (plan,) = set(page.execute_script(script))
    return plan


def cells(page, selector):
    """Rows of a table as dicts: column -> (value, text)."""
    script = """return [...document.querySelectorAll(arguments[0])].map((row) => Object.fromEntries(
        [...row.querySelectorAll("[data-column]")].map(
            (cell) => [cell.dataset.column, [cell.dataset.value ?? null, cell.textContent]])))"""
    return page.execute_script(script, selector)


def assert_written(text, value, name):
    """What stands on the page is the number of the frame, to its last digit."""
    kind = COLUMNS[name].kind
    if isinstance(value, float) and np.isnan(value):
        assert text == "–"
    elif kind == "text":
        assert text == ("×".join(map(str, value)) if isinstance(value, tuple) else value)
    elif kind == "count":
        assert text == f"{value:,}"
    elif kind == "share":
        assert abs(float(text.removesuffix(" %")) - 100 * value) <= 0.005 + 1e-9
    else:
        assert float(text) == float(f"{value:.4g}")


def assert_row(shown, frame_row):
    assert shown
    for name, (value, text) in shown.items():
        expected = frame_row[name]
        assert_written(text, expected, name)
        if isinstance(expected, float) and not np.isnan(expected):
            assert float(value) == expected


def assert_shown(page, result, plan):
    """Numbers, tables, drawings, commands and rings are those of a plan."""
    front = result.pareto_front()
    row = {**front.iloc[plan].drop("plan"), "row": plan, "layers": len(front["plan"][plan])}
    assert plan_shown(page) == plan
    assert_row(cells(page, "#front tbody tr")[plan], row)
    for number in page.find_elements(By.CSS_SELECTOR, "#numbers dd"):
        name = number.get_dom_attribute("data-column")
        assert_written(number.get_property("textContent"), row[name], name)
    frame = result.layers(front["plan"][plan])
    shown = cells(page, "#layers tbody tr")
    assert len(shown) == len(frame)
    for one, (_, expected) in zip(shown, frame.iterrows(), strict=True):
        assert_row(one, expected)
    drawn = page.execute_script("""return [...document.querySelectorAll(".drawing")].map((card) => [
        card.querySelector("h3").textContent,
        [...card.querySelectorAll("text")].map((text) => text.textContent)])""")
    structures = front["plan"][plan]
    assert [name for name, _ in drawn] == list(structures)
    for name, texts in drawn:
        structure = structures[name]
        sizes = [structure.weight_shape, *structure.shapes]
        assert sorted(texts) == sorted(
            ["≈", *("×".join(map(str, shape)) for shape in sizes), *map(str, structure.ranks)]
        )
    assert structures.digest[:12] in page.find_element(By.ID, "shell").text
    for name, costs, values in (
        ("flops", "flops", "error"),
        ("params", "params", "error"),
        ("score", "flops", "score"),
    ):
        ring = page.execute_script(
            "const {ring, x, y} = marks[arguments[0]]; return [ring.hidden, x, y]", name
        )
        is_known = not np.isnan(row[values])  # not every plan was scored
        assert ring == [not is_known, row[costs], row[values] if is_known else None]
    WebDriverWait(page, 30).until(
        lambda _: (
            page.find_element(By.ID, "chart-layers").get_dom_attribute("data-plan") == str(plan)
        )
    )
    bars = page.execute_script("return charts.layers.data[1].y")
    assert bars == frame["flops_share_after"].tolist()


def point_at(page, chart, plan):
    """Where the point of a plan lies on the screen."""
    page.execute_script(f"document.getElementById('chart-{chart}').scrollIntoView()")
    return page.execute_script(
        """const chart = document.getElementById(`chart-${arguments[0]}`);
        const trace = chart.data.find((one) => one.customdata?.includes(arguments[1]));
        const index = trace.customdata.indexOf(arguments[1]);
        const {xaxis, yaxis} = chart._fullLayout, box = chart.getBoundingClientRect();
        return [box.left + xaxis._offset + xaxis.d2p(trace.x[index]),
                box.top + yaxis._offset + yaxis.d2p(trace.y[index])]""",
        chart,
        plan,
    )


def click_at(page, x, y):
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        page.execute_cdp_cmd(
            "Input.dispatchMouseEvent",
            {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1},
        )


def test_it_opens_with_the_best_plan(page, result):
    assert_shown(page, result, result.best_row)


def test_a_click_on_a_point_shows_its_plan_everywhere(page, result):
    page.execute_script("document.getElementById('picker').style.position = 'static'")
    last = len(result.pareto_front()) - 1  # the dense network lies apart
    click_at(page, *point_at(page, "params", last))
    WebDriverWait(page, 30).until(lambda _: plan_shown(page) == last)
    assert_shown(page, result, last)


def test_keys_slider_buttons_and_rows_show_plans(page, result):
    best, last = result.best_row, len(result.pareto_front()) - 1
    body = page.find_element(By.TAG_NAME, "body")
    for key, expected in (
        (Keys.HOME, 0),
        (Keys.ARROW_LEFT, 0),
        (Keys.ARROW_RIGHT, 1),
        (Keys.END, last),
        (Keys.ARROW_LEFT, last - 1),
    ):
        ActionChains(page).send_keys_to_element(body, key).perform()
        assert plan_shown(page) == expected
    slider = page.find_element(By.ID, "slider")
    slider.send_keys(Keys.HOME)  # the slider's own way, not the page's
    slider.send_keys(Keys.ARROW_RIGHT)
    assert_shown(page, result, 1)
    page.find_element(By.ID, "next").click()
    assert plan_shown(page) == 2
    page.find_element(By.ID, "previous").click()
    assert plan_shown(page) == 1
    page.find_element(By.ID, "to-best").click()
    assert plan_shown(page) == best
    page.execute_script("document.querySelectorAll('#front tbody tr')[0].click()")
    assert_shown(page, result, 0)


def test_names_that_look_like_html_stay_text(page, result):
    assert page.find_elements(By.TAG_NAME, "img") == []
    assert [row["layer"][1] for row in cells(page, "#layers tbody tr")] == list(NAMES)
    index = NAMES.index(XSS)
    page.execute_script(
        "Plotly.Fx.hover(charts.layers, [{curveNumber: 0, pointNumber: arguments[0]}])", index
    )
    told = page.find_element(By.CSS_SELECTOR, "#chart-layers .hoverlayer").get_property(
        "textContent"
    )
    assert XSS in told
    assert "<b>run</b>" in page.find_element(By.CLASS_NAME, "run").text
    assert page.find_elements(By.TAG_NAME, "img") == []


def test_tables_are_sorted_and_copied(page, result):
    front = result.pareto_front()
    for falling in (False, True):
        page.execute_script("document.querySelectorAll('#front th button')[2].click()")
        errors = [float(row["error"][0]) for row in cells(page, "#front tbody tr")]
        assert errors == sorted(front["error"], reverse=falling)
        assert plan_shown(page) == result.best_row
    lines = page.execute_script("return frontTable.text()").splitlines()
    assert lines[0].split("\t")[:4] == ["row", "layers", "error", "flops"]
    assert [float(line.split("\t")[2]) for line in lines[1:]] == errors


def test_rings_stay_at_their_points_on_every_axis(page, result):
    for box in ("log-x", "log-y"):
        page.execute_script(f"document.getElementById('{box}').click()")
        script = """const chart = charts.flops, ring = marks.flops.ring.getBoundingClientRect();
            return [ring.left + ring.width / 2, ring.top + ring.height / 2,
                    chart.layout.xaxis.type]"""
        x, y, kind = page.execute_script(script)
        assert kind == "log"
        assert [x, y] == pytest.approx(point_at_now(page, result.best_row), abs=1)
    annotations = page.execute_script("return charts.flops.layout.annotations")
    limit = result.budget.limit("flops", result.profile.flops)
    assert annotations[0]["x"] == pytest.approx(np.log10(limit))


def point_at_now(page, plan):
    return page.execute_script(
        """const chart = charts.flops, trace = chart.data.find((one) => one.customdata);
        const index = trace.customdata.indexOf(arguments[0]);
        const {xaxis, yaxis} = chart._fullLayout, box = chart.getBoundingClientRect();
        return [box.left + xaxis._offset + xaxis.d2p(trace.x[index]),
                box.top + yaxis._offset + yaxis.d2p(trace.y[index])]""",
        plan,
    )


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen(page, width, scheme):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    WebDriverWait(page, 30).until(  # charts follow the window a moment later
        lambda _: page.execute_script("return document.documentElement.scrollWidth") <= width
    )
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
