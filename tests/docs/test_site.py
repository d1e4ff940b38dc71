"""The site as built: every internal link leads somewhere, and the reference shows what docstrings say.

``FJX_SITE`` names the folder of a site that is built already.  Without it the site is built here, which
is slow even though no code on its pages is executed.
"""

import html.parser
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import types
import urllib.parse
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [] if "FJX_SITE" in os.environ else pytest.mark.slow

QUIET = ["--keep-going", "--fail-on-warning", "--no-color", "--quiet"]
UNEXECUTED = ["-D", "nb_execution_mode=off", "-D", "suppress_warnings=myst-nb.lexer"]

LITERAL = {"pre", "code", "script", "style", "math"}
VOID = {"br", "img", "input", "link", "meta", "hr", "col", "path", "wbr"}


class Page(html.parser.HTMLParser):
    """What the tests look at in a page."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.fields, self.prose, self.classes = set(), [], [], [], set()
        self._open = []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if "id" in attrs:
            self.ids.add(attrs["id"])
        for name in ("href", "src"):
            if attrs.get(name):
                self.links.append(attrs[name])
        self.classes.update((attrs.get("class") or "").split())
        if tag not in VOID:
            self._open.append((tag, attrs.get("class") or ""))

    def handle_endtag(self, tag):
        if tag in [opened for opened, _ in self._open]:
            while self._open.pop()[0] != tag:
                pass

    def handle_data(self, data):
        tags = [tag for tag, _ in self._open]
        classes = {name for _, names in self._open for name in names.split()}
        if any(tag == "dt" and "field-" in names for tag, names in self._open):
            self.fields.append(data)
        elif "article" in tags and not LITERAL & {*tags} and "sig" not in classes:
            self.prose.append(data)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    if folder := os.environ.get("FJX_SITE"):
        return Path(folder)
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", *QUIET, *UNEXECUTED, "docs", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="session")
def pages(site):
    found = {path: Page(path) for path in site.rglob("*.html") if "_static" not in path.parts}
    assert len(found) > 20
    return found


def load(name):
    path = ROOT / "docs" / "_ext" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dead(pages):
    """The links that lead nowhere, as ``(page, link)``."""
    for path, page in pages.items():
        for link in page.links:
            address = urllib.parse.urlsplit(link)
            if address.scheme or address.netloc or not (address.path or address.fragment):
                continue
            target = (path.parent / urllib.parse.unquote(address.path)).resolve()
            target = path if not address.path else target
            anchor = urllib.parse.unquote(address.fragment)
            if not target.exists() or (
                target in pages and anchor and anchor not in pages[target].ids
            ):
                yield path.name, link


def test_every_internal_link_leads_somewhere(pages):
    assert [*dead(pages)] == []


def test_a_dead_link_is_found(tmp_path):
    path = tmp_path / "a.html"
    path.write_text('<p id="x"><a href="#x"></a><a href="#y"></a><a href="b.html"></a></p>')
    assert [link for _, link in dead({path: Page(path)})] == ["#y", "b.html"]


def garbled(page):
    """What should not be seen in the prose of a page, and fields that no docstring has."""
    text = "".join(page.prose)
    markup = re.findall(r"``|:\w+:`|\$[^ ]|\.\. \w+::|\b(?:Args|Returns|Raises|Examples):\n", text)
    types = [field for field in page.fields if field.lower().startswith(("return type", "type"))]
    return [*markup, *types, *({"system-message", "problematic"} & page.classes)]


def test_no_entry_of_the_reference_is_garbled(pages):
    found = {p.name: garbled(page) for p, page in pages.items() if "api" in p.parts}
    assert all("".join(page.prose).strip() for page in pages.values())
    assert {name: what for name, what in found.items() if what} == {}


def test_garbled_entries_are_found(tmp_path):
    path = tmp_path / "a.html"
    path.write_text(
        '<article><dt class="field-even">Return type<span>:</span></dt><p>see :func:`x`</p>'
        "<code>``</code></article>"
    )
    assert garbled(Page(path)) == [":func:`", "Return type"]


def test_every_public_name_has_an_entry_and_a_line_at_the_head_of_its_page(site, pages):
    symbols = load("coverage").symbols()
    for package in {name.rpartition(".")[0] for name in symbols}:
        leaf = package.rpartition(".")[2]
        path = site / "api" / f"{leaf}.html"
        head = path.read_text().partition("<dl ")[0]
        for name in [name for name in symbols if name.rpartition(".")[0] == package]:
            assert name in pages[path].ids, f"{name} has no entry"
            assert f">{name.rpartition('.')[2]}<" in head, f"{name} has no line in a table"


def test_no_page_shows_private_goals(pages):
    for path in pages:
        assert not re.search(r"<th\b[^>]*>(<p>)?(wanted|reached)", path.read_text()), path.name


def test_code_on_the_first_page_fits_a_phone():
    code = re.findall(
        r"^```(?:python|sh)\n(.*?)^```", (ROOT / "docs/index.md").read_text(), re.M | re.S
    )
    assert code
    assert max(len(line) for block in code for line in block.splitlines()) <= 48


def test_packages_are_public_ones():
    for package in load("coverage").packages():
        assert isinstance(importlib.import_module(package), types.ModuleType)
        assert "_" not in package
