"""Open the report of a search of many layers in Chromium, and time how it changes its plan."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait
from torch import nn

import search
from search.cli.report import report
from search.front import sweep
from studies.training import RUNS

OBSERVE = """
window.events = [];
new PerformanceObserver((list) => events.push(...list.getEntries()
    .filter((entry) => entry.name === "keydown").map((entry) => entry.duration)))
    .observe({type: "event", durationThreshold: 16});
"""
"""What lasts shorter than the least threshold, 16 ms, is no entry."""

UNTIL_BARS = """
const done = arguments[0];
(async () => {
  const times = [];
  for (let plan = 0; plan < nPlans; plan += 1) {
    const begin = performance.now();
    show(plan);
    while (charts.layers.dataset.plan !== String(plan)) await new Promise(requestAnimationFrame);
    times.push(performance.now() - begin);
  }
  done(times);
})();
"""


def main() -> None:
    """Run the study and print its figures."""
    parser = argparse.ArgumentParser(prog="python -m studies.report", description=__doc__)
    parser.add_argument("--layers", type=int, default=53, help="convolutions of the network")
    parser.add_argument("--budgets", type=int, default=36, help="of FLOPs; and of parameters")
    options = parser.parse_args()
    n_layers, sweep.STEPS = options.layers, options.budgets
    run = RUNS / f"report-{n_layers}"
    result = _searched(n_layers, run)
    report(str(run))
    page = run / "report.html"
    print(f"{len(result.tables)} layers × {len(result.pareto_front())} plans", end=", ")
    print(f"{page.stat().st_size / 1e6:.2f} MB")
    keys, bars, opened_ms = _timed(page)
    print(f"open until all is drawn: {opened_ms:.0f} ms")
    print(f"a key until the next paint: {_spread(keys)}")
    print(f"a plan until its last bar: {_spread(bars)}")


def _searched(n_layers: int, run: Path) -> search.SearchResult:
    """Search a chain of convolutions with random weights whose spectra fall."""
    torch.manual_seed(0)
    network = nn.Sequential()
    for i in range(n_layers):
        convolution = nn.Conv2d(8, 8, 3, padding=1)
        with torch.no_grad():
            u, s, v = torch.linalg.svd(convolution.weight.flatten(1), full_matrices=False)
            falling = s / torch.arange(1, len(s) + 1) ** (0.5 + i / n_layers)
            convolution.weight.copy_(((u * falling) @ v).reshape(convolution.weight.shape))
        network.add_module(f"block{i // 3}.conv{i % 3}".replace(".", "_"), convolution)
    return search.run(
        network,
        torch.randn(1, 8, 6, 6),
        budget=search.Budget(flops=0.5),
        n_trials=0,
        max_sequence_length=2,
        include=["*"],
        measure_seconds=0,
        run=run,
    )


def _timed(page: Path) -> tuple[list[float], list[float], float]:
    """Return milliseconds of every key, of every plan, and of opening the page."""
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1440,900"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        browser.set_script_timeout(600)
        browser.get(page.as_uri())
        WebDriverWait(browser, 120).until(
            lambda _: browser.execute_script("return document.documentElement.dataset.ready")
        )
        opened_ms = float(browser.execute_script("return performance.now()"))
        browser.execute_script(OBSERVE)
        body = browser.find_element(By.TAG_NAME, "body")
        body.send_keys(Keys.HOME)
        for _ in range(int(browser.execute_script("return nPlans")) - 1):
            body.send_keys(Keys.ARROW_RIGHT)
        bars = browser.execute_async_script(UNTIL_BARS)
        return browser.execute_script("return events"), bars, opened_ms
    finally:
        browser.quit()


def _spread(times: list[float]) -> str:
    if not times:
        return "below 16 ms"
    return f"median {np.median(times):.0f} ms, most {max(times):.0f} ms, {len(times)} times"


if __name__ == "__main__":
    main()
