"""The page in a real browser: wide and narrow, light and dark, on paper, and where styles are forbidden."""

import pytest
from playwright.sync_api import sync_playwright

from stuntime.cli import main
from tests.results import EVERY_VERDICT, SANDBOX

pytestmark = pytest.mark.browser
CHROMIUM = "/usr/bin/chromium"
#: What is wider than the place it is in, or whose text is cut off; SVG scales as a whole.
OVERFLOWING = """() => [...document.querySelectorAll('body *')]
  .filter(e => !e.closest('svg') && getComputedStyle(e).display !== 'inline' && e.clientWidth > 1)
  .filter(e => e.scrollWidth > e.clientWidth + 1 || e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => e.tagName + ' ' + e.className + ' ' + e.textContent.slice(0, 60))"""
#: Texts of drawings that leave them.
CUT = """() => [...document.querySelectorAll('svg text')].filter(t => {
  const box = t.getBBox(), view = t.ownerSVGElement.viewBox.baseVal;
  return box.x < 0 || box.y < 0 || box.x + box.width > view.width || box.y + box.height > view.height;
}).map(t => t.textContent)"""


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module", params=[SANDBOX, EVERY_VERDICT], ids=lambda path: path.name)
def page_file(request, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "report.html"
    main(["report", str(request.param), "--output", str(file)])
    return file


def contrast(page, selector):
    """Return the contrast of each element's text with what is behind it, by WCAG 2's formula."""
    return page.evaluate(
        """selector => {
      const light = text => {
        const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3)
          .map(c => c / 255).map(c => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b;
      };
      const behind = e => {
        for (; e; e = e.parentElement) {
          const colour = getComputedStyle(e).backgroundColor;
          if (!/, 0\\)$/.test(colour)) return colour;
        }
        return matchMedia('(prefers-color-scheme: dark)').matches ? 'rgb(0, 0, 0)' : 'rgb(255, 255, 255)';
      };
      return [...document.querySelectorAll(selector)].map(e => {
        const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
        return (a + .05) / (b + .05);
      });
    }""",
        selector,
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_it_fits_and_asks_for_nothing(browser, page_file, width, scheme):
    """No request leaves the page, no text overflows, all text stands out from its ground (WCAG AA)."""
    with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme) as context:
        page = context.new_page()
        asked, said = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.goto(page_file.as_uri())
        assert asked == [page_file.as_uri()]
        assert said == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(OVERFLOWING) == []
        assert page.evaluate(CUT) == []
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(18, 23, 30)")
        assert min(contrast(page, "p, li, td, th, dd, dt, a, code, .small, .verdict, strong, caption")) >= 4.5
        shot = page.screenshot(full_page=True)
        assert len(shot) > 100_000


def test_it_is_readable_under_a_policy_that_forbids_styles(browser, page_file):
    """Under Jenkins' content security policy the verdict, the matrix and the drawings are still there."""
    policy = "sandbox allow-same-origin; default-src 'none'; img-src 'self'; style-src 'self';"
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.route(
            "**/*",
            lambda route: route.fulfill(
                body=page_file.read_text(), content_type="text/html", headers={"Content-Security-Policy": policy}
            ),
        )
        page.goto("https://jenkins.example/report.html")
        assert page.evaluate("document.styleSheets.length") == 0
        assert page.get_by_role("heading", name="Exit criteria").is_visible()
        assert page.get_by_role("table", name="linux-bridge, ipv4").is_visible()
        assert page.get_by_role("img", name="Probes of linux-bridge.from-static-node.static.ipv4").is_visible()
        line = page.locator("svg line").first
        assert line.evaluate("e => getComputedStyle(e).stroke") not in ("none", "")


@pytest.mark.parametrize("width", [1280, 400])
def test_a_screen_reader_finds_its_way(browser, page_file, width):
    """The matrix stays a table with rows and headers also where it is laid out as a list."""
    with browser.new_context(viewport={"width": width, "height": 900}) as context:
        page = context.new_page()
        page.goto(page_file.as_uri())
        table = page.get_by_role("table", name="ovn-localnet, ipv4")
        assert table.get_by_role("row").count() == 4
        assert table.get_by_role("rowheader").count() == 3
        assert table.get_by_role("cell").count() == 6


def test_it_prints(browser, page_file):
    """On paper it is a document of several pages and not cut off at the side."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(page_file.as_uri())
        assert page.pdf(format="A4").count(b"/Type /Page\n") + 1 > 2
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 718, "height": 1000})
        assert page.evaluate(OVERFLOWING) == []
