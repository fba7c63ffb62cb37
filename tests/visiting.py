"""What every browser test does: wait until the page is at rest, and count how often the server's script ran."""

from playwright.sync_api import Page

REST_MS = 500  # a script that reruns itself is at rest for less than this in between

_AT_REST = """(restMs) => {
    const app = document.querySelector('[data-testid=stApp]');
    const rests = app && app.dataset.testScriptState === 'notRunning' && !document.querySelector('[data-stale=true]');
    if (!rests) {
        window.__restSince = undefined;
        return false;
    }
    window.__restSince ??= performance.now();
    return performance.now() - window.__restSince > restMs;
}"""

_WATCH_RERUNS = """() => {
    window.__reruns = 0;
    new MutationObserver(() => window.__reruns++).observe(
        document.querySelector('[data-testid=stApp]'), {attributeFilter: ['data-test-script-state']});
}"""


def settle(page: Page) -> None:
    """Wait until the server's script has run to its end and starts no other by itself."""
    page.evaluate("window.__restSince = undefined")
    page.wait_for_function(_AT_REST, arg=REST_MS)


def watch_reruns(page: Page) -> None:
    """Count from now on how often the server's script starts or ends."""
    settle(page)
    page.evaluate(_WATCH_RERUNS)


def reruns(page: Page) -> int:
    return page.evaluate("window.__reruns")
