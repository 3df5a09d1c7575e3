"""News from an API, over real HTTP."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from demur.base.errors import ConfigError, EngineError
from demur.sources.news_api import NewsApi, fetch_news

ARTICLES = [
    {"published": f"2024-05-{n:02d}", "headline": f"Title {n}", "text": {"full": f"Body {n}."}}
    for n in range(1, 8)
]
FIELDS = {"date": "published", "title": "headline", "body": "text.full"}


@contextmanager
def serving(script):
    """A server whose answer to a GET is script(number, path, query, headers): (status, body)."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            parts = urlsplit(self.path)
            query = {k: v[0] for k, v in parse_qs(parts.query).items()}
            asked.append((parts.path, query, dict(self.headers)))
            status, body = script(len(asked), parts.path, query, self.headers)
            sent = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_pages_follow_a_link_until_there_is_none():
    def script(number, path, query, headers):
        start = int(query.get("from", 0))
        following = f"/news?from={start + 3}" if start + 3 < len(ARTICLES) else None
        return 200, {"data": {"list": ARTICLES[start : start + 3]}, "links": {"next": following}}

    with serving(script) as (url, asked):
        rows = fetch_news(
            NewsApi(url=f"{url}/news", items="data.list", next="links.next", **FIELDS)
        )
    assert [row["title"] for row in rows] == [f"Title {n}" for n in range(1, 8)]
    assert rows[0] == {"date": "2024-05-01", "title": "Title 1", "body": "Body 1."}
    assert len(asked) == 3


def test_pages_are_counted_until_one_is_empty_or_the_most_are_read(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "s3cret")

    def script(number, path, query, headers):
        start = 3 * (int(query["page"]) - 1)
        return 200, ARTICLES[start : start + 3]

    with serving(script) as (url, asked):
        api = {
            "url": f"{url}/news?q=x",
            "page": "page",
            "key_variable": "SOME_KEY",
            "key_prefix": "Token ",
            **FIELDS,
        }
        assert len(fetch_news(NewsApi(**api))) == 7
        assert len(fetch_news(NewsApi(**api, most_pages=2))) == 6
    assert [query["page"] for _, query, _ in asked] == ["1", "2", "3", "4", "1", "2"]
    assert {query["q"] for _, query, _ in asked} == {"x"}
    assert {headers["Authorization"] for _, _, headers in asked} == {"Token s3cret"}


def test_a_busy_api_is_asked_again_and_a_last_page_that_names_itself_ends_it():
    def script(number, path, query, headers):
        return (503, "busy") if number < 3 else (200, {"items": ARTICLES[:1], "next": "/news"})

    with serving(script) as (url, asked):
        assert (
            len(fetch_news(NewsApi(url=f"{url}/news", items="items", next="next", **FIELDS))) == 1
        )
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ((500, "down"), "failed 4 times, last with status 500"),
        ((401, "no"), "answered 401"),
        ((200, "<html>"), "answered no JSON"),
        ((200, {"other": []}), "holds no list at 'items'"),
        (
            (200, {"items": ARTICLES[:1], "next": "http://elsewhere.invalid/x"}),
            "the next page is at elsewhere.invalid",
        ),
    ],
)
def test_an_api_that_fails_is_named_and_its_query_is_not(answer, named):
    with serving(lambda *_: answer) as (url, _), pytest.raises(EngineError, match=named) as e:
        fetch_news(NewsApi(url=f"{url}/news?key=s3cret", items="items", next="next", **FIELDS))
    assert "s3cret" not in str(e.value)


def test_settings_that_contradict_each_other_are_refused(monkeypatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(ConfigError, match="two ways"):
        NewsApi(url="http://x", next="a", page="b", **FIELDS)
    with pytest.raises(ConfigError, match="no HTTP address"):
        NewsApi(url="ftp://x", **FIELDS)
    with pytest.raises(ConfigError, match="NO_KEY is not set"):
        fetch_news(NewsApi(url="http://127.0.0.1:1", key_variable="NO_KEY", **FIELDS))
