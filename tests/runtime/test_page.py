"""The server's page, used in a real Chromium (Debian's, or CHROMIUM=path)."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from servers import Running, serve

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
PHONE = {"width": 375, "height": 720}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    running = serve("--max-pixels", 1)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, server: Running) -> Iterator[Page]:
    """The page; at the end, nothing was requested from elsewhere and no script failed."""
    page = browser.new_page(viewport={"width": 900, "height": 900})
    foreign: list[str] = []
    errors: list[str] = []

    def requested(url: str) -> None:
        if not url.startswith((f"http://{server.http}/", f"blob:http://{server.http}/")):
            foreign.append(url)

    page.on("request", lambda request: requested(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"http://{server.http}/")
    yield page
    page.close()
    assert not foreign
    assert not errors


def visible_pixels(page: Page) -> np.ndarray:
    """What is seen of the comparison, (H, W, 3) uint8 RGB."""
    png = page.locator(".compare").screenshot()
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_a_photograph_is_chosen_compared_and_downloaded(
    page: Page, photo_file: Path, tmp_path: Path
) -> None:
    page.set_input_files("#files", photo_file)
    item = page.locator(".result")
    expect(item.locator(".report")).to_contain_text("1 face restored", timeout=60_000)
    expect(page.get_by_role("status")).to_contain_text("photo.png: 1 face restored")
    slider = item.get_by_role("slider")
    slider.focus()
    page.keyboard.press("Home")  # all of the picture is the result
    after = visible_pixels(page)
    page.keyboard.press("End")  # all of it is the photograph
    before = visible_pixels(page)
    difference = np.abs(after.astype(int) - before).mean(2)
    assert difference.max() > 40
    for _ in range(50):
        page.keyboard.press("ArrowLeft")
    half = visible_pixels(page)
    width = half.shape[1]
    assert (
        np.abs(half[100:, : width // 2 - 8].astype(int) - before[100:, : width // 2 - 8]).max() < 3
    )
    assert (
        np.abs(half[100:, width // 2 + 8 :].astype(int) - after[100:, width // 2 + 8 :]).max() < 3
    )

    with page.expect_download() as download:
        item.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "photo.restored.png"
    download.value.save_as(tmp_path / "restored.png")
    with Image.open(tmp_path / "restored.png") as image, Image.open(photo_file) as photo:
        assert image.width % photo.width == 0
        assert image.width > photo.width


def test_close_ups_and_landmarks(page: Page, photo_file: Path) -> None:
    page.set_input_files("#files", photo_file)
    item = page.locator(".result")
    expect(item.locator(".report")).to_contain_text("1 face restored", timeout=60_000)
    points = item.locator(".points circle")
    expect(points).to_have_count(68)
    expect(points.first).to_be_hidden()
    item.get_by_label("View").select_option("Whole picture")
    page.get_by_label("Show landmarks").check()
    expect(points.first).to_be_visible()
    whole = points.first.bounding_box()
    item.get_by_label("View").select_option("Face 1")
    close = points.first.bounding_box()
    area = item.locator(".compare").bounding_box()
    assert whole
    assert close
    assert area
    assert close["width"] > 1.5 * whole["width"]
    boxes = [box for point in points.all() if (box := point.bounding_box())]
    centre = np.mean([(box["x"], box["y"]) for box in boxes], axis=0)
    assert abs(centre[0] - area["x"] - area["width"] / 2) < area["width"] / 5  # in the middle
    assert abs(centre[1] - area["y"] - area["height"] / 2) < area["height"] / 5


def test_several_photographs_dropped_with_a_wrong_one(page: Page, photo_file: Path) -> None:
    photo = list(photo_file.read_bytes())
    page.evaluate(
        """(photo) => {
            const transfer = new DataTransfer();
            const add = (name, type, bytes) =>
                transfer.items.add(new File([new Uint8Array(bytes)], name, { type }));
            add("one.png", "image/png", photo);
            add("two.png", "image/png", photo);
            add("<b>notes</b>.txt", "text/plain", [104, 105]);
            dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, cancelable: true }));
        }""",
        photo,
    )
    results = page.locator(".result")
    expect(results).to_have_count(3)
    for name in ("one.png", "two.png"):
        item = results.filter(has_text=name)
        expect(item.locator(".report")).to_contain_text("1 face restored", timeout=60_000)
    wrong = results.filter(has_text="<b>notes</b>.txt")
    expect(wrong.locator(".report")).to_contain_text("not a picture")
    expect(wrong.get_by_role("button", name="Try again")).to_be_visible()


def test_a_photograph_pasted_on_a_phone(page: Page) -> None:
    page.set_viewport_size(PHONE)
    page.evaluate(
        """async () => {
            const canvas = new OffscreenCanvas(64, 48);
            canvas.getContext("2d").fillRect(0, 0, 64, 48);
            const blob = await canvas.convertToBlob({ type: "image/jpeg" });
            const transfer = new DataTransfer();
            transfer.items.add(new File([blob], "image.jpg", { type: "image/jpeg" }));
            dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer }));
        }"""
    )
    item = page.locator(".result")
    expect(item.locator(".report")).to_contain_text("no face found", timeout=60_000)
    link = item.get_by_role("link", name="Download")
    expect(link).to_have_attribute("download", "image.restored.jpg")
    overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0
    for control in ("link", "slider", "combobox"):
        box = item.get_by_role(control).bounding_box()
        assert box
        assert box["height"] >= 44  # a finger's


def test_too_large_a_photograph_says_so(page: Page) -> None:
    file = io.BytesIO()
    Image.new("L", (1001, 1000)).save(file, "PNG")
    payload = {"name": "large.png", "mimeType": "image/png", "buffer": file.getvalue()}
    page.set_input_files("#files", payload)
    expect(page.locator(".result .report")).to_contain_text("larger than 1000000 pixels")


def test_every_control_has_a_name_and_the_keyboard_reaches_it(page: Page, photo_file: Path) -> None:
    page.set_input_files("#files", photo_file)
    expect(page.locator(".result .report")).to_contain_text("restored", timeout=60_000)
    names = []
    for _ in range(6):
        page.keyboard.press("Tab")
        names.append(
            page.evaluate(
                """() => {
                    const at = document.activeElement;
                    return at.ariaLabel ?? at.labels?.[0]?.textContent.trim() ?? at.textContent;
                }"""
            )
        )
    text = " | ".join(names)
    for wanted in ("choose files", "Show landmarks", "Share of the picture", "View", "Download"):
        assert wanted in text


def test_the_page_asks_for_the_key(browser: Browser, tmp_path: Path, tiny_engine: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    options = ("--engine", f"small={tiny_engine}", "--engine", f"other={tiny_engine}")
    server = serve(*options, "--api-key-file", tmp_path / "key")
    try:
        page = browser.new_page()
        page.goto(f"http://{server.http}/")
        expect(page.get_by_role("alert")).to_contain_text("the API key is missing or wrong")
        page.get_by_label("API key").fill("secret")
        page.keyboard.press("Enter")
        expect(page.get_by_label("Engine")).to_be_visible()
        expect(page.get_by_role("alert")).to_be_empty()
        expect(page.get_by_label("Engine").locator("option")).to_have_text(["small", "other"])
        page.close()
    finally:
        server.stop()
