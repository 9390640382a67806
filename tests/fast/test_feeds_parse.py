"""Documents of every kind become entries with plain, capped fields, or a reason with its remedy."""

from __future__ import annotations

import json
import time

import pytest

from serve_app.errors import FetchError
from serve_app.feeds.parse import Entry, ParsedFeed, parse
from serve_app.feeds.text import text_hash

URL = "https://feed.test/blog/feed.xml"


def rss(items: str, head: str = "", before: str = '<?xml version="1.0"?>') -> bytes:
    return f"{before}<rss version='2.0'><channel><title>T</title>{head}{items}</channel></rss>".encode()


def entries(items: str) -> tuple[Entry, ...]:
    return parse(rss(items), URL, None).entries


def reason(body: bytes, content_type: str | None = None) -> str:
    with pytest.raises(FetchError) as caught:
        parse(body, URL, content_type)
    return caught.value.message


def test_an_rss_item_becomes_an_entry() -> None:
    item = """<item><guid>g1</guid><link>/post</link><title>Tom &amp;amp; Ann</title><author>ann@feed.test (Ann)</author>
        <pubDate>Tue, 02 Jan 2024 03:04:05 GMT</pubDate>
        <description>&lt;p&gt;One&lt;/p&gt;&lt;script&gt;x&lt;/script&gt; two</description></item>"""
    expected = Entry(
        "g1", "https://feed.test/post", "Tom & Ann", "ann@feed.test (Ann)", 1704164645.0, "One\ntwo", text_hash("Tom & Ann", "One\ntwo")
    )
    assert parse(rss(item, "<ttl>120</ttl>"), URL, "application/rss+xml; charset=utf-8") == ParsedFeed("T", 7200.0, (expected,))


def test_an_atom_entry_becomes_an_entry_with_its_content_and_not_its_summary() -> None:
    atom = b"""<feed xmlns="http://www.w3.org/2005/Atom"><title>T</title><entry><id>tag:1</id><link href="https://x.test/1"/>
        <title type="text">a &lt; b</title><updated>2024-01-02T03:04:05Z</updated><summary>short</summary>
        <content type="xhtml"><div xmlns="http://www.w3.org/1999/xhtml"><p>long</p></div></content></entry></feed>"""
    assert parse(atom, URL, None).entries == (
        Entry("tag:1", "https://x.test/1", "a < b", "", 1704164645.0, "long", text_hash("a < b", "long")),
    )


def test_json_feed_items_become_entries() -> None:
    items = [
        {"id": 7, "url": "javascript:x", "title": "A", "content_text": "a <b", "date_published": "2024-01-02T04:04:05+01:00"},
        {"id": "8", "content_html": "<p>x</p>", "authors": [{"name": "Ann"}, {"name": "Bo"}], "date_published": "never"},
        "no item",
    ]
    body = json.dumps({"version": "https://jsonfeed.org/version/1.1", "title": "T\u0000", "items": items}).encode()
    assert parse(b"\xef\xbb\xbf \n" + body, URL, None) == ParsedFeed(
        "T",
        None,
        (
            Entry("7", "", "A", "", 1704164645.0, "a <b", text_hash("A", "a <b")),
            Entry("8", "", "", "Ann, Bo", None, "x", text_hash("", "x")),
        ),
    )


def test_guids_fall_back_to_the_link_and_then_to_the_text() -> None:
    first, second = entries("<item><link>https://x.test/1</link></item><item><description>only text</description></item>")
    assert (first.guid, second.guid) == ("https://x.test/1", text_hash("", "only text"))


def test_entries_that_share_a_guid_are_told_apart_and_doubles_dropped() -> None:
    same = "<item><guid>g</guid><link>https://x.test/{}</link><title>{}</title></item>"
    found = entries(same.format(1, "a") + same.format(2, "b") + same.format(2, "c") + same.format(1, "a"))
    hashes = [text_hash(title, "") for title in "abc"]
    assert [entry.guid.split("|")[:2] for entry in found] == [
        ["g", "https://x.test/1"],
        ["g", "https://x.test/2"],
        ["g", "https://x.test/2"],
    ]
    assert [entry.text_hash for entry in found] == hashes
    assert len({entry.guid for entry in found}) == 3


def test_fields_are_capped_and_long_guids_stay_distinct() -> None:
    item = "<item><guid isPermaLink='false'>{}</guid><title>{}</title><description>{}</description></item>"
    one, two = entries(item.format("g" * 3_000 + "1", "t" * 2_000, "d " * 300_000) + item.format("g" * 3_000 + "2", "x", "y"))
    assert (len(one.guid), len(one.title), len(one.text)) == (2_000, 1_000, 200_000)
    assert one.guid != two.guid


def test_a_long_guid_is_short_enough_for_an_index_in_any_script() -> None:
    item = "<item><guid isPermaLink='false'>{}</guid><title>x</title><description>y</description></item>"
    one, two, short = entries("".join(item.format(guid) for guid in ("文" * 700 + "1", "文" * 700 + "2", "文" * 600)))
    assert (one.guid != two.guid, short.guid) == (True, "文" * 600)
    assert 1_990 < len(one.guid.encode()) <= 2_000


@pytest.mark.parametrize("link", ["javascript:alert(1)", "data:text/html,x", "ftp://x.test/", "http://[/"])
def test_a_link_that_is_not_http_is_dropped(link: str) -> None:
    assert entries(f"<item><guid isPermaLink='false'>g</guid><link>{link}</link></item>")[0].link == ""


ENTITY = '<!ENTITY a "' + "A" * 50_000 + '">'
DOCTYPES = {
    "plain": f"<!DOCTYPE rss [{ENTITY}]>",
    "on its own line": f"<!DOCTYPE rss [\n{ENTITY}\n]>",
    "behind a comment that looks like the root": f"<!DOCTYPE rss [<!-- <a> -->\n{ENTITY}\n]>",
    "behind a comment with half a literal and an end": f"<!DOCTYPE rss [<!-- it's ]> <a> -->\n{ENTITY}\n]>",
    "behind a literal that looks like its end": f'<!DOCTYPE rss SYSTEM "x]>" [\n<!ENTITY b "]>">\n{ENTITY}\n]>',
    "in a comment": f"<!-- <!DOCTYPE rss [\n{ENTITY}\n]> -->",
    "in an instruction": f"<?x\n{ENTITY}\n?>",
    "in lower case": f"<!doctype rss [\n{ENTITY.lower()}\n]>",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-32", "iso-8859-1"])
@pytest.mark.parametrize("doctype", DOCTYPES.values(), ids=DOCTYPES)
def test_quadratic_entities_stay_small(doctype: str, encoding: str) -> None:
    declared = encoding.removesuffix("-le")
    item = f"<item><title>{'&a;' * 2_000}</title></item>"
    text = f'<?xml version="1.0" encoding="{declared}"?>{doctype}<rss version="2.0"><channel>{item}</channel></rss>'
    started = time.process_time()
    (entry,) = parse(text.encode(encoding), URL, None).entries
    assert len(entry.title) <= 1_000
    assert "AAA" not in entry.title.upper()
    assert time.process_time() - started < 5


@pytest.mark.parametrize("encoding", ["utf-7", "cp037", "hz", "iso2022_jp"])
def test_an_encoding_that_could_hide_declarations_is_refused(encoding: str) -> None:
    assert "ask its owner for UTF-8" in reason(b'<?xml version="1.0" encoding="%s"?><rss version="2.0"/>' % encoding.encode())
    assert "ask its owner for UTF-8" in reason(rss(""), f"text/xml; charset={encoding}")


def test_external_entities_are_not_read() -> None:
    body = rss("<item><title>&x;</title></item>", before='<!DOCTYPE rss [<!ENTITY x SYSTEM "file:///etc/hostname">]>')
    assert "&x;" in parse(body, URL, None).entries[0].title


@pytest.mark.parametrize("body", [b"/etc/hostname", b"http://127.0.0.1/feed", b"file:///etc/hostname", b"/dev/zero"])
def test_a_body_that_looks_like_a_file_or_an_address_is_not_opened(body: bytes) -> None:
    assert "there is no feed at this address" in reason(body)


def test_a_web_page_is_named_as_such_with_the_address_of_its_feed() -> None:
    page = b"""<!DOCTYPE html><html><head><link rel="stylesheet" href="x.css"><link rel='alternate home' type='application/atom+xml'
        href='/a.xml?x=1&amp;y=2'></head><body>hi</body></html>"""
    assert reason(page) == "this is a web page, not a feed; use its feed https://feed.test/a.xml?x=1&y=2"
    assert reason(b"<html><body>hi") == "this is a web page, not a feed; look for the site's feed address and use that"
    assert "web page" in reason(b"<html><link rel=alternate type=application/rss+xml href='javascript:x'>" + b"<!--" * 100_000)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b'<opml version="2.0"><head/><body><outline xmlUrl="x"/></body></opml>', "OPML"),
        (b"plain words", "neither RSS, Atom nor JSON Feed"),
        (b"\x89PNG\r\n\x1a\n\0\0", "neither RSS, Atom nor JSON Feed"),
        (b'{"a": 1}', "not a JSON Feed"),
        (b'{"a": ', "cannot be read"),
        (b'{"a": ' + b"[" * 100_000, "cannot be read"),
        (b"<!DOCTYPE", "neither"),
    ],
)
def test_what_is_no_feed_gets_a_reason(body: bytes, words: str) -> None:
    assert words in reason(body)


def test_a_torn_feed_gives_the_entries_that_arrived_and_an_empty_one_none() -> None:
    whole = rss("<item><guid>1</guid><title>a</title></item><item><guid>2</guid><title>b</title></item>")
    assert [entry.guid for entry in parse(whole[: whole.index(b"<guid>2")], URL, None).entries][:1] == ["1"]
    assert parse(rss(""), URL, None).entries == ()


def test_white_space_and_a_byte_order_mark_before_the_declaration_do_no_harm() -> None:
    assert len(parse(b"\xef\xbb\xbf\n\n " + rss("<item><title>x</title></item>"), URL, None).entries) == 1


def test_odd_dates_and_ttls_are_left_out() -> None:
    item = "<item><guid>{0}</guid><pubDate>{0}</pubDate></item>"
    items = item.format("yesterday") + item.format("Mon, 01 Jan 99999 00:00:00 GMT")
    found = parse(rss(items, "<ttl>soon</ttl>"), URL, None)
    assert found.ttl_s is None
    assert found.entries[0].published_at is None


RSS = b"<rss version='2.0'><channel><item><guid>1</guid>%s</item></channel></rss>"
ATOM = b"<feed xmlns='http://www.w3.org/2005/Atom'><entry><id>1</id>%s</entry></feed>"
JSON = b'{"version": "https://jsonfeed.org/version/1.1", "items": [{"id": "1", "tags": %s}]}'


@pytest.mark.parametrize(
    "body",
    [
        RSS % b"<category>A &amp; B</category><category>x</category><category>x</category>",
        ATOM % b"<category term='a' label='A &amp; B'/><category term='x'/>",
        JSON % b'["A & B", 5, " ", "x"]',
    ],
    ids=["RSS", "Atom", "JSON Feed"],
)
def test_categories_are_tags(body: bytes) -> None:
    (entry,) = parse(body, "https://feed.test/", None).entries
    assert entry.tags == ("A & B", "x")


def test_tags_are_few_and_short() -> None:
    many = b"".join(b"<category>%d%s</category>" % (number, b"x" * 100) for number in range(50))
    (entry,) = parse(RSS % many, "https://feed.test/", None).entries
    assert (len(entry.tags), {len(tag) for tag in entry.tags}) == (10, {60})
