"""Fetch dated news from a JSON API, page by page, by settings such as these:

url = "https://api.example.org/articles?q=election"
items = "data.articles"       # the list of articles in an answer; "": the answer is the list
date = "published_at"         # in an article, likewise by keys
title = "title"
body = "content"
next = "links.next"           # the address of the next page in an answer; or instead
page = "page"                 # a parameter that is counted up from 1 until a page is empty
key_variable = "NEWS_KEY"     # the environment variable of the key, sent as
key_header = "Authorization"  # this header,
key_prefix = "Bearer "        # after this word
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from demur.base.errors import ConfigError, EngineError
from demur.core.ports import Progress, no_progress

AGAIN = (429, 500, 502, 503, 504)  # statuses worth a retry
TRIES = 4
PAGES_AT_MOST = 10_000  # an API whose last page names itself as the next would be read for ever


@dataclass(frozen=True, kw_only=True, slots=True)
class NewsApi:
    """The settings of a news API: its address, the keys of its answers, its paging.

    Raises ConfigError on an invalid address, on two ways to the next page, and on an invalid number
    of pages.
    """

    url: str
    date: str
    title: str
    body: str
    items: str = ""
    next: str | None = None
    page: str | None = None
    key_variable: str | None = None
    key_header: str = "Authorization"
    key_prefix: str = "Bearer "
    most_pages: int = 100
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(
                f"url {self.url!r} is no HTTP address", "such as https://api.example.org/articles"
            )
        if self.next is not None and self.page is not None:
            raise ConfigError("next and page are two ways to the next page", "give one of them")
        if not 1 <= self.most_pages <= PAGES_AT_MOST:
            raise ConfigError(f"most_pages = {self.most_pages}", f"between 1 and {PAGES_AT_MOST}")

    @property
    def headers(self) -> dict[str, str]:
        """The request header with the API's key. Raises ConfigError if its variable is not set."""
        if self.key_variable is None:
            return {}
        key = os.environ.get(self.key_variable)
        if not key:
            raise ConfigError(f"{self.key_variable} is not set", "put the API's key there")
        return {self.key_header: f"{self.key_prefix}{key}"}


def fetch_news(api: NewsApi, progress: Progress = no_progress) -> list[dict[str, object]]:
    """Fetch all articles as lines of a news file: date, title and body, unchecked.

    progress: counts pages. Raises EngineError when the API fails, does not answer with JSON, or
    holds no list at `items`.
    """
    rows: list[dict[str, object]] = []
    with httpx.Client(
        timeout=api.timeout_s, headers=api.headers, transport=httpx.HTTPTransport(retries=2)
    ) as http:
        for number, articles in enumerate(_pages(api, http), start=1):
            rows += [
                {name: _at(a, getattr(api, name)) for name in ("date", "title", "body")}
                for a in articles
            ]
            progress(number, max(number, api.most_pages))
    return rows


def _pages(api: NewsApi, http: httpx.Client) -> Iterator[list[Any]]:
    """Yield the articles of each page, up to an empty page, a missing link or a repeated one."""
    # addresses that were read: an API may name an earlier page, or the page itself, as the next
    seen: set[str] = set()
    url = httpx.URL(api.url)
    for number in range(1, api.most_pages + 1):
        page_url = url.copy_merge_params({api.page: str(number)}) if api.page else url
        seen.add(str(page_url))
        answer = _get(http, page_url)
        articles = _at(answer, api.items)
        if not isinstance(articles, list):
            raise EngineError(
                f"{page_url.copy_with(query=None)} holds no list at {api.items!r}", "see `items`"
            )
        yield articles
        following = _at(answer, api.next) if api.next else None
        if isinstance(following, str) and following:
            url = page_url.join(following)
            if url.host != page_url.host:  # the key must not be sent to another host
                raise EngineError(
                    f"the next page is at {url.host}, the first at {page_url.host}",
                    "ask that API itself",
                )
        # The last page is empty where pages are counted, has no link where they are linked.
        if not articles or (api.page is None and not following) or (api.next and str(url) in seen):
            return


def _get(http: httpx.Client, url: httpx.URL) -> Any:
    """The parsed JSON of a page, with retries. Raises EngineError."""
    where, reason = url.copy_with(query=None), ""  # for errors: a query may hold a key
    for _ in range(TRIES):
        try:
            response = http.get(url)
        except httpx.HTTPError as e:
            reason = f"{type(e).__name__}: {e}"
            continue
        if response.status_code not in AGAIN:
            break
        reason = f"status {response.status_code}"
    else:
        raise EngineError(f"{where} failed {TRIES} times, last with {reason}", "try again later")
    try:
        if response.is_success:
            return response.json()
    except ValueError:
        raise EngineError(
            f"{where} answered no JSON: {response.text[:80]!r}", "is it the right address?"
        ) from None
    raise EngineError(
        f"{where} answered {response.status_code}: {response.text[:80]!r}", "see key and address"
    )


def _at(value: Any, path: str) -> Any:
    """The value under keys joined by dots; None where a key is missing."""
    for key in filter(None, path.split(".")):
        value = value.get(key) if isinstance(value, dict) else None
    return value
