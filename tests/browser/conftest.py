"""A real JupyterLab and a real Chromium: how the tests start them, drive them, and look at what they show.

What is measured is printed at the end of the run. ``RECMTL_SCREENSHOTS`` names a folder for pictures of every stage.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).parents[2]
PATIENCE = 180_000  # milliseconds; the most that anything may take

_FIGURES: list[tuple[str, str]] = []


def pytest_terminal_summary(terminalreporter):
    if _FIGURES:
        terminalreporter.section("measured in the browser")
        for name, value in _FIGURES:
            terminalreporter.write_line(f"{name:<64} {value}")


@pytest.fixture(scope="session")
def measured():
    """Keep a figure for the end of the run."""
    return lambda name, value: _FIGURES.append((name, value))


# JupyterLab


class Lab:
    """A running JupyterLab: where it answers, and the folder it serves."""

    def __init__(self, port: int, token: str, folder: Path, process: subprocess.Popen):
        self.port, self.token, self.folder, self.process = port, token, folder, process

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}?token={self.token}"

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(self.url(path), timeout=30) as answer:
            return json.load(answer)

    def write(self, name: str, *cells: str) -> str:
        """Write a notebook of code cells into the folder."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        _save(notebook, self.folder / name)
        return name


def _save(notebook: nbformat.NotebookNode, path: Path) -> None:
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


def _copy_unexecuted(folder: Path) -> None:
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, 4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        _save(notebook, folder / path.name)


@contextmanager
def _lab(home: Path, user_settings: dict[str, dict]):
    folder = home / "a course"  # with a space, as on many a learner's disk
    folder.mkdir(parents=True)
    user_settings = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false"}, **user_settings}
    for plugin, values in user_settings.items():
        file = home / "settings" / f"{plugin.replace(':', '/')}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--expose-app-in-browser",
        "--JupyterNotebookApp.expose_app_in_browser=True", f"--ServerApp.root_dir={folder}",
        f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
        "--LabApp.extension_manager=readonly", "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    places = {f"JUPYTER_{kind}_DIR": str(home / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    places |= {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")}
    places |= {"RECMTL_PROGRESS_DIR": str(home / "progress"), "JUPYTER_PREFER_ENV_PATH": "1"}
    log = home / "lab.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            env={**os.environ, **places},
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    lab = Lab(port, token, folder, process)
    try:
        _wait_until_it_answers(lab, log)
        yield lab
    finally:
        _end(process)


def _wait_until_it_answers(lab: Lab, log: Path) -> None:
    for _ in range(600):
        if lab.process.poll() is not None:
            break
        try:
            lab.get("api/status")
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not answer:\n{log.read_text()[-3000:]}")


def _end(process: subprocess.Popen) -> None:
    """End JupyterLab and its kernels, each of which leads a process group of its own."""
    import psutil

    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=10)
    for member in alive:
        member.kill()
    process.wait(10)


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """JupyterLab as this environment has it, on copies of the notebooks."""
    with _lab(tmp_path_factory.mktemp("lab"), {}) as running:
        _copy_unexecuted(running.folder)
        yield running


@pytest.fixture
def lab_with_subshells(tmp_path_factory):
    """JupyterLab as it is without the setting that the course ships."""
    settings = {"@jupyterlab/apputils-extension:kernels-settings": {"commsOverSubshells": "perCommTarget"}}
    with _lab(tmp_path_factory.mktemp("subshells"), settings) as running:
        yield running


# Chromium


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium: the system's, or Playwright's own; a skip with the reason where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    arguments = [
        "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ]  # fmt: skip
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--no-sandbox")
    with sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=found, args=arguments)
        except PlaywrightError as error:
            if found or "Executable doesn't exist" not in error.message:
                raise
            pytest.skip("no Chromium was found, neither the system's nor Playwright's own")
        yield chromium
        chromium.close()


# A notebook in the browser

CLIENTS = {"lab": "lab/tree", "doc": "doc/tree", "notebook": "notebooks"}  # where the one server has each of them

_OUTPUTS = """() => Array.from(window.jupyterapp.shell.currentWidget.content.model.cells, (cell) =>
    cell.type === "code" ? cell.outputs.toJSON() : [])"""
_EXECUTED = """() => Array.from(window.jupyterapp.shell.currentWidget.content.model.cells)
    .filter((cell) => cell.type === "code")
    .every((cell, _, all) => cell.executionState === "idle" && (cell.executionCount || all.some(
        (other) => other.outputs.toJSON().some((output) => output.output_type === "error"))))"""
_RUN_CELL = """async (index) => {
    const { content } = window.jupyterapp.shell.currentWidget;
    content.activeCellIndex = index;
    await window.jupyterapp.commands.execute("notebook:run-cell");
}"""

# JupyterLab leaves cells unrendered that are out of sight; their controls have no names until then.
_BRING_INTO_SIGHT = """async (element) => {
    element.scrollIntoView({ block: "center" });
    for (let k = 0; k < 2; k++) await new Promise(requestAnimationFrame);
}"""

# Watches one explorer from inside the page: when keys went down, when pictures came, whether the box was ever empty.
_WATCH = """(root) => {
    const image = root.querySelector("img");
    const log = { keys: [], pictures: [], progress: [], empty: 0, samples: 0, going: true };
    const full = () => image.complete && image.naturalWidth > 0 && image.clientHeight > 20;
    root.addEventListener("keydown", (event) => log.keys.push(event.timeStamp), true);
    new MutationObserver(() => log.pictures.push(
        { at: performance.now(), values: image.dataset.values, final: image.dataset.final === "true" }
    )).observe(image, { attributes: true, attributeFilter: ["src"] });
    new MutationObserver(() => log.progress.push(
        { at: performance.now(), busy: root.getAttribute("aria-busy") === "true" }
    )).observe(root, { attributes: true, attributeFilter: ["aria-busy"] });
    const sample = () => {
        log.samples += 1;
        if (!full()) log.empty += 1;
        if (log.going) requestAnimationFrame(sample);
    };
    requestAnimationFrame(sample);
    return log;
}"""


class Notebook:
    """A notebook open in JupyterLab, with what a learner's hands can do to it."""

    def __init__(self, page, trouble: list[str]):
        self.page, self.trouble = page, trouble

    def run_all(self) -> float:
        """Run all cells from the menu and wait for the last; return the seconds it took."""
        started = time.monotonic()
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        self.page.wait_for_function(_EXECUTED, timeout=PATIENCE, polling=100)
        return time.monotonic() - started

    def run_cell(self, index: int) -> list[dict]:
        """Run one cell and return its outputs."""
        self.page.evaluate(_RUN_CELL, index)
        return self.outputs()[index]

    def start_cell(self, index: int) -> None:
        """Begin to run one cell."""
        self.page.evaluate(f"(index) => {{ ({_RUN_CELL})(index); }}", index)

    def wait_for_cells(self) -> None:
        self.page.wait_for_function(_EXECUTED, timeout=PATIENCE, polling=20)

    def outputs(self) -> list[list[dict]]:
        """Each cell's outputs, as the notebook would save them."""
        return self.page.evaluate(_OUTPUTS)

    def text(self, index: int) -> str:
        """What a cell printed."""
        return "".join(str(output.get("text", "")) for output in self.outputs()[index])

    def errors(self) -> list[str]:
        return [
            output["evalue"] for outputs in self.outputs() for output in outputs if output["output_type"] == "error"
        ]

    @property
    def explorers(self) -> "list[LiveExplorer]":
        roots = self.page.locator(".recmtl-explorer")
        return [LiveExplorer(roots.nth(k)) for k in range(roots.count())]

    def names_of(self, roots: str) -> list[tuple[str, str]]:
        """Role and accessible name, as Chromium computes them, of every control inside the elements selected."""
        devtools = self.page.context.new_cdp_session(self.page)
        named = []
        for k in range(self.page.locator(roots).count()):
            self.page.locator(roots).nth(k).evaluate(_BRING_INTO_SIGHT)
            found = devtools.send(
                "Runtime.evaluate", {"expression": f"document.querySelectorAll({json.dumps(roots)})[{k}]"}
            )
            tree = devtools.send("Accessibility.queryAXTree", {"objectId": found["result"]["objectId"]})
            named += [
                (node["role"]["value"], node.get("name", {}).get("value", ""))
                for node in tree["nodes"]
                if not node["ignored"] and node["role"]["value"] in ROLES
            ]
        devtools.detach()
        return named

    def theme(self, name: str) -> None:
        self.page.evaluate("(theme) => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", name)
        light = "false" if "Dark" in name else "true"
        self.page.wait_for_selector(f"body[data-jp-theme-light='{light}']", state="attached")


ROLES = ("slider", "spinbutton", "combobox", "checkbox", "button", "radio", "textbox")


class LiveExplorer:
    """One explorer on the page."""

    def __init__(self, root):
        self.root = root
        self.page = root.page
        self.image, self.status = root.locator("img"), root.locator(".recmtl-status")
        self.summary = root.locator(".recmtl-summary")
        self.sliders = root.locator("input[type=range]")
        self.fields = root.locator("input[type=number]")

    def button(self, name: str):
        return self.root.get_by_role("button", name=name, exact=True)

    @property
    def picture(self) -> dict:
        """The values that the picture was drawn for."""
        return json.loads(self.image.get_attribute("data-values"))

    def settle(self, **values) -> None:
        """Wait until a finished picture stands there, of these values where some are given."""
        self.page.wait_for_function(
            """([root, wanted]) => {
                const image = root.querySelector("img");
                if (image.dataset.final !== "true" || root.getAttribute("aria-busy") === "true") return false;
                const shown = JSON.parse(image.dataset.values);
                return Object.entries(wanted).every(([name, value]) => shown[name] === value);
            }""",
            arg=[self.root.element_handle(), values],
            timeout=30_000,
            polling=10,
        )

    def stops(self, slider: int) -> int:
        """The last place of a slider."""
        return int(self.sliders.nth(slider).get_attribute("max"))

    def watch(self) -> "Watch":
        return Watch(self.root.element_handle().evaluate_handle(_WATCH))


class Watch:
    """What was seen inside the page since the watch began."""

    def __init__(self, log):
        self.log = log

    def read(self) -> dict:
        return self.log.evaluate("(log) => ({ ...log })")

    def end(self) -> dict:
        return self.log.evaluate("(log) => { log.going = false; return { ...log }; }")


@pytest.fixture
def open_notebook(browser):
    """Open notebooks in fresh windows; after the test, nothing on any console may have been an error."""
    opened = []

    def open_one(lab: Lab, name: str, width: int = 1280, height: int = 900, client: str = "lab") -> Notebook:
        context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce")
        page = context.new_page()
        page.set_default_timeout(60_000)
        trouble: list[str] = []
        page.on("pageerror", lambda error: trouble.append(f"page error: {error}"))
        page.on("console", lambda message: message.type == "error" and trouble.append(f"console: {message.text}"))
        opened.append((context, trouble))
        page.goto(lab.url(f"{CLIENTS[client]}/{name}") + "&reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.wait_for_function(
            "() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
        )
        if client == "notebook":
            trouble.clear()  # while it starts it reports errors of its own, with or without the course
        return Notebook(page, trouble)

    yield open_one
    for context, _ in opened:
        context.close()
    noticed = [line for _, trouble in opened for line in trouble]
    assert not noticed, "\n".join(noticed)


@pytest.fixture(scope="session")
def take_picture():
    """Save a screenshot of a locator or a page under a name, where ``RECMTL_SCREENSHOTS`` asks for them."""
    folder = os.environ.get("RECMTL_SCREENSHOTS")

    def take(what, name: str) -> None:
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            what.screenshot(path=Path(folder, f"{name}.png"))

    return take


@pytest.fixture(scope="session")
def expecting():
    """Playwright's own assertions, which wait."""
    expect.set_options(timeout=30_000)
    return expect
