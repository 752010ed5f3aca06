"""The site of docs/ and the docstrings: it is built, and opens from disk."""

import inspect
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from browser import needs_browser, start_browser
from tfp_vaeflow import bijectors, client, config, data, networks

ROOT = Path(__file__).parents[1]
PAGES = ("index.html", "api/index.html", "api/bijectors.html", "failures.html")


def build(out, root=ROOT):
    return subprocess.run(
        ["bash", "tools/build_site.sh", str(out)],
        cwd=root,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "site"
    built = build(out)
    assert built.returncode == 0, built.stdout + built.stderr
    return out


@pytest.fixture(scope="module")
def browser():
    driver = start_browser()
    yield driver
    driver.quit()


def asked_for(browser) -> set[str]:
    """The addresses that were asked for since the last call."""
    messages = [
        json.loads(entry["message"])["message"]
        for entry in browser.get_log("performance")
    ]
    return {
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("page", PAGES)
def test_a_page_needs_no_other_machine(site, browser, page):
    browser.get((site / page).as_uri())
    time.sleep(1)  # for what scripts ask for
    asked = asked_for(browser)
    assert {urlsplit(url).scheme for url in asked} <= {"file", "data", "blob", "about"}
    assert sum(url.startswith("file:") for url in asked) > 3  # styles and scripts
    # Files that are missing are errors there, too.
    assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    images = browser.execute_script("return [...document.images].map(e => e.complete)")
    assert all(images)


@pytest.mark.slow
@needs_browser
def test_search_works_from_disk(site, browser):
    browser.get((site / "index.html").as_uri())
    browser.find_element("css selector", ".md-search__input").send_keys("MultiScale")
    end = time.monotonic() + 20
    while not (found := browser.find_elements("css selector", ".md-search-result a")):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert "api/bijectors.html" in found[0].get_attribute("href")
    assert not [url for url in asked_for(browser) if url.startswith("http")]


@pytest.mark.slow
def test_another_directory_is_not_deleted(tmp_path):
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    refused = build(tmp_path)
    assert refused.returncode == 2 and "holds something else" in refused.stderr
    assert kept.read_text() == "mine"


@pytest.mark.slow
def test_a_broken_link_fails_the_build(site, tmp_path):
    for part in ("docs", "tfp_vaeflow", "tools"):
        shutil.copytree(ROOT / part, tmp_path / part)
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    (tmp_path / "build").symlink_to(ROOT / "build")  # has the packages
    with open(tmp_path / "docs" / "folders.md", "a") as page:
        page.write("[settings](../gin/folder.gin)")
    refused = build(tmp_path / "site", tmp_path)
    assert refused.returncode == 2
    assert "'folders.md' contains a link '../gin/folder.gin'" in refused.stderr


@pytest.mark.parametrize("module", [bijectors, client, config, data, networks])
def test_public_methods_are_described(module):
    """A method that overrides another may leave its description to that one."""
    for name in module.__all__:
        thing = getattr(module, name)
        if not inspect.isclass(thing):
            continue
        for method, function in vars(thing).items():
            described = inspect.isroutine(function) or isinstance(function, property)
            if described and not method.startswith("_"):
                assert inspect.getdoc(getattr(thing, method)), (name, method)
