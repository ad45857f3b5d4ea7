"""The web page in a real browser, over a running system that asks for keys."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from facewire_gateway.api.auth import create_key
from facewire_standalone.child import running_child

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
#: An enrolled face is known to the recognizer within 2 s; a loaded machine takes longer for everything.
PATIENCE_MS = 20_000
PERSON = "Eileen <img src=x> Collins"


@dataclass(frozen=True)
class Served:
    url: str
    key: str


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data = tmp_path_factory.mktemp("page")
    key = create_key(data / "keys.json", "page", "admin")
    with running_child(data) as child:
        yield Served(child.http_url, key)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, keyed: Served) -> Iterator[Page]:
    """Return the page with the key in use; whatever the browser complains of fails the test."""
    context = browser.new_context(base_url=keyed.url)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto("/")
    page.get_by_label("Key").fill(keyed.key)
    page.get_by_role("button", name="Use").click()
    expect(page.locator("#connection")).to_have_text("live")
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(_text(message)))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    context.close()
    assert [text for text in complaints if "422" not in text] == []


def _text(message: ConsoleMessage) -> str:
    return f"{message.type}: {message.text}"


def enrol(page: Page, name: str, *files: Path) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Pictures, one face each").set_input_files(files)
    page.get_by_role("button", name="Enrol").click()


def test_without_a_key_the_page_says_so(browser: Browser, keyed: Served) -> None:
    with browser.new_context(base_url=keyed.url) as context:
        page = context.new_page()
        page.goto("/")
        expect(page.get_by_role("alert")).to_contain_text("Authorization: Bearer")
        expect(page.locator("#connection")).to_have_class("down")


def test_from_enrolment_to_recognition_to_deletion(page: Page, samples: Path) -> None:
    portrait = samples / "eileen_collins.jpg"
    enrol(page, PERSON, portrait)
    expect(page.locator("#enrol-outcome")).to_have_text("eileen_collins.jpg: enrolled", timeout=PATIENCE_MS)
    row = page.locator("#people tbody tr")
    expect(row.locator("td").first).to_have_text(PERSON)

    page.get_by_label("Picture (").set_input_files(portrait)
    expect(page.locator("#preview-image")).to_be_visible()
    caption = page.locator("#preview-caption")
    for _ in range(5):
        page.get_by_role("button", name="Recognise").click()
        expect(caption).to_contain_text("ms)", timeout=PATIENCE_MS)
        if PERSON in caption.inner_text():
            break
    expect(caption).to_contain_text(PERSON)
    expect(page.locator("#faces tbody td").nth(1)).to_have_text(PERSON)
    box = page.locator("#preview-boxes rect.known").bounding_box()
    image = page.locator("#preview-image").bounding_box()
    assert box is not None
    assert image is not None
    assert image["x"] < box["x"] < box["x"] + box["width"] < image["x"] + image["width"]
    assert 0.1 < box["width"] / image["width"] < 0.4
    expect(page.locator("#results tbody tr").first.locator("td.known")).to_have_text(PERSON)

    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name=f"Delete {PERSON}").click()
    expect(row).to_have_count(0)


def test_a_refusal_is_told_with_its_reasons(page: Page, samples: Path) -> None:
    enrol(page, "A cat", samples / "cat.jpg")
    expect(page.locator("#enrol-outcome .refused")).to_have_text("cat.jpg: refused: no_face", timeout=PATIENCE_MS)


def test_several_pictures_are_told_one_by_one(page: Page, samples: Path) -> None:
    enrol(page, "Grace Hopper", samples / "grace_hopper.jpg", samples / "cat.jpg")
    outcomes = page.locator("#enrol-outcome li")
    expect(outcomes).to_have_text(["grace_hopper.jpg: enrolled", "cat.jpg: refused: no_face"], timeout=PATIENCE_MS)


def test_results_of_others_appear_as_they_come(page: Page, keyed: Served, samples: Path) -> None:
    headers = {"Authorization": f"Bearer {keyed.key}", "Content-Type": "image/jpeg", "X-Request-Id": "from-elsewhere"}
    content = (samples / "cat.jpg").read_bytes()
    posted = httpx.post(f"{keyed.url}/v1/frames?camera=door", content=content, headers=headers, trust_env=False)
    assert posted.status_code == 202
    row = page.locator("tr[data-id=from-elsewhere]")
    expect(row.locator("td").nth(1)).to_have_text("door", timeout=PATIENCE_MS)
    expect(row.locator("td").nth(2)).to_have_text("No-Face")
    page.reload()
    expect(page.locator("tr[data-id=from-elsewhere]")).to_be_visible()


def test_a_file_that_is_no_picture_is_told(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "notes.jpg"
    file.write_text("no picture")
    page.get_by_label("Picture (").set_input_files(file)
    page.get_by_role("button", name="Recognise").click()
    expect(page.get_by_role("alert")).to_contain_text("notes.jpg: the content is no JPEG")


def test_the_api_is_described_without_a_foreign_host(page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("link", name="API").click()
    expect(page.get_by_role("heading", name="POST /v1/frames")).to_be_visible()
    origin = page.url.removesuffix("/docs")
    assert asked
    assert [url for url in asked if not url.startswith(origin)] == []
