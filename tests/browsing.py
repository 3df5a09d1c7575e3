"""A real Chromium, and what a page did in it."""

import shutil

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


def opened(browser, path, **context):
    """The page, drawn, with what it logged and what it asked the network for."""
    page = browser.new_context(**context).new_page()
    logged, asked = [], []
    page.on("console", lambda message: logged.append(message.text))
    page.on("pageerror", lambda error: logged.append(str(error)))
    page.on("dialog", lambda dialog: (logged.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function(
        "[...document.querySelectorAll('[data-plot]')].every((p) => "
        "p.querySelector('svg.main-svg'))"
    )
    return page, logged, asked
