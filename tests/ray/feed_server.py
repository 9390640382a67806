"""A feed on loopback whose articles the test writes."""

from __future__ import annotations

import http.server
import threading
from email.utils import formatdate
from types import TracebackType
from xml.sax.saxutils import escape

ITEM = (
    "<item><title>{title}</title><guid isPermaLink='false'>{guid}</guid><pubDate>{date}</pubDate><description>{text}</description></item>"
)


class FeedServer:
    """Serves one RSS feed at `url` from a thread."""

    def __init__(self) -> None:
        self._items: list[str] = []
        self.titles: list[str] = []
        feed = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = feed.document().encode()
                self.send_response(200)
                self.send_header("content-type", "application/rss+xml")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}/feed.rss"

    def entry(self, guid: str, title: str, text: str, at: float) -> None:
        """Publish an article."""
        self.titles.append(title)
        self._items.append(ITEM.format(guid=guid, title=escape(title), date=formatdate(at), text=escape(text)))

    def document(self) -> str:
        return f"<rss version='2.0'><channel><title>Test feed</title>{''.join(self._items)}</channel></rss>"

    def __enter__(self) -> FeedServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
