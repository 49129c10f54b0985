"""Hostile input: never a 5xx, never a hang, never many times its size in memory."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from itertools import product
from pathlib import Path
from string import ascii_letters

import pytest
from flask import Flask
from werkzeug.datastructures import Authorization
from werkzeug.serving import BaseWSGIServer
from werkzeug.serving import make_server

from kit import PASSWORD
from kit import TESTS
from kit import USERNAME
from kit import Ants
from kit import Heard
from kit import callback
from kit import detail
from kit import make_app

JSON = "application/json"
XML = "application/xml"


def doctype(subset: str, content: str = "&a;") -> str:
    return (
        f"<!DOCTYPE CALLBACK [{subset}]><CALLBACK><details><detail><messageId>{content}</messageId>"
        "<status><name>DELIVERED</name></status></detail></details></CALLBACK>"
    )


NESTED_BOMB = '<!ENTITY b0 "lol">' + "".join(
    f'<!ENTITY b{level + 1} "{f"&b{level};" * 10}">' for level in range(12)
)
MALFORMED = {
    "JSON nested 100,000 deep": ("[" * 100_000 + "]" * 100_000, JSON),
    "JSON objects nested 100,000 deep": ('{"a":' * 100_000 + "1" + "}" * 100_000, JSON),
    "JSON nested and never closed": ("[" * 1_000_000, JSON),
    "XML nested 100,000 deep": ("<a>" * 100_000 + "</a>" * 100_000, XML),
    "XML nested and never closed": ("<a>" * 1_000_000, XML),
    "nested entities": (doctype(NESTED_BOMB, "&b12;"), XML),
    "quadratic entities": (
        doctype(f'<!ENTITY a "{"x" * 100_000}">', "&a;" * 100_000),
        XML,
    ),
    "a local file": (doctype('<!ENTITY a SYSTEM "file:///etc/passwd">'), XML),
    "an external DTD in a file": ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', XML),
    "a public DTD": ('<!DOCTYPE a PUBLIC "-//x" "http://127.0.0.1:9/"><a/>', XML),
    "a parameter entity": (doctype('<!ENTITY % a SYSTEM "file:///etc/passwd"> %a;', "x"), XML),
    "a million attributes": (
        "<a"
        + "".join(
            f' {"".join(name)}=""' for name in islice(product(ascii_letters, repeat=4), 10**6)
        )
        + "/>",
        XML,
    ),
    "attributes that seem to end their tag": (
        "<a" + "".join(f' b{number}=">"' for number in range(2_000)) + "><details/></a>",
        XML,
    ),
    "attributes in apostrophes": (
        "<a" + "".join(f" b{number}='\">'" for number in range(2_000)) + "><details/></a>",
        XML,
    ),
    "an attribute of a megabyte": (f"<a {'b' * 1_000_000}='' " + 'c="" ' * 3_000 + "/>", XML),
    "a tag that is long, again and again": (
        "<a>" + "=" * 2501 + ("<" * 9_999 + ">") * 800,
        XML,
    ),
    "a NUL in XML": ("<a>\0</a>", XML),
    "a reference to NUL": ("<a>&#0;</a>", XML),
    "a reference to a surrogate": ("<a>&#xD800;</a>", XML),
    "an unknown encoding": (b"<?xml version='1.0' encoding='\xff'?><a>\xff</a>", XML),
    "an encoding that is no text": (b'<?xml version="1.0" encoding="bz2"?><a>\xff</a>', XML),
    "an encoding that is slow": (b'<?xml version="1.0" encoding="idna"?><a>\xff</a>', XML),
    "an encoding with a path": (
        b'<?xml version="1.0" encoding="..os.path"?><a>\xff</a>',
        XML,
    ),
    "an empty body": (b"", JSON),
    "zeros": (bytes(1000), JSON),
    "half a character of UTF-16": (b"\xff\xfe<", XML),
    "dense arrays": ('{"details": [], "x": [[]' + ",[]" * 500_000 + "]}", JSON),
    "dense numbers": ('{"details": [], "x": [0' + ",0.1" * 500_000 + "]}", JSON),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(ants: Ants, heard: Heard, name: str) -> None:
    body, content_type = MALFORMED[name]
    assert ants.post(body, content_type).status_code == 400
    assert heard.names == ["callback_rejected"]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ('{"details": [], "details": [%s]}', JSON),
        (
            '{"details": [{"messageId": "2", "messageId": "1", "status": {"name": "DELIVERED"}}]}',
            JSON,
        ),
        ('{"details": [%s], "x": "' + "x" * 1_000_000 + '"}', JSON),
        ('{"details": [%s], "x": 1' + "0" * 999 + "}", JSON),
        ('{"details": [%s], ' + ",".join(f'"x{n}": ""' for n in range(100_000)) + "}", JSON),
        ("<C><details>{}</details>" + "<x/>" * 100_000 + "</C>", XML),
        ("<C><details>{}</details><!--" + "-a" * 100_000 + "--></C>", XML),
        ("<C><details>{}</details><!--" + "a=" * 10_000 + "--></C>", XML),
        ("<C><details>{}</details><x>" + "a=\"'>" * 10_000 + "</x></C>", XML),
        ("<C><details>{}</details><![CDATA[" + "a=b&" * 10_000 + "]]></C>", XML),
        ('\n<?xml version="1.0"?><C><details>{}</details></C>', XML),
    ],
)
def test_what_is_odd_but_well_formed(
    ants: Ants, heard: Heard, body: str, content_type: str
) -> None:
    """Of duplicate members of JSON the last one counts."""
    one = '{"messageId": "1", "status": {"name": "DELIVERED"}}'
    element = "<detail><messageId>1</messageId><status><name>DELIVERED</name></status></detail>"
    body = body.replace("%s", one).replace("{}", element)
    assert ants.post(body, content_type).json == {"accepted": 1, "rejected": 0}
    assert heard.messages[0].message_id == "1"


def test_duplicate_members_of_xml_cost_their_own_message_only(ants: Ants, heard: Heard) -> None:
    body = (
        "<C><details><detail><messageId>1</messageId><messageId>2</messageId>"
        "<status><name>X</name></status></detail>"
        "<detail><messageId>3</messageId><status><name>X</name></status></detail></details></C>"
    )
    response = ants.post(body, XML)
    assert response.get_json()["errors"].keys() == {"0"}
    assert heard.messages[0].message_id == "3"


def test_unicode_errors_do_not_fill_pythons_cache_of_codecs(ants: Ants) -> None:
    """A sender can make up as many names as it likes; none is looked up, imported or kept."""
    import encodings

    def cache() -> int:
        return len(encodings._cache)

    before = cache()
    for number in range(50):
        ants.post(b'{"a": "\xff"}', f"{JSON}; charset=made-up-{number}")
    assert cache() == before


MEMORY = """
import os
import sys
from pathlib import Path
from kit import Ants, make_app

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

ants = Ants(make_app().test_client())
for content_type in ("application/json", "application/xml"):
    ants.post("<a/>", content_type)
for line in sys.stdin:
    if os.fork():
        os.wait()
        continue
    path, content_type = line.split()
    body = Path(path).read_bytes()
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    status = ants.post(body, content_type).status_code
    print(status, (peak() - before) / len(body), flush=True)
    os._exit(0)
"""

BODY_BYTES = 700_000
DENSE = {
    "arrays": ('{"details":[],"x":[[]', ",[]", "]}", JSON),
    "objects": ('{"details":[],"x":[{}', ",{}", "]}", JSON),
    "nested arrays": ('{"details":[],"x":[[]', ",[[[[[[]]]]]]", "]}", JSON),
    "numbers": ('{"details":[],"x":[0', ",0.1", "]}", JSON),
    "strings": ('{"details":[],"x":[0', ',"ab"', "]}", JSON),
    "names": ('{"details":[],"x":{"a":1', ',"%06x":1', "}}", JSON),
    "elements": ("<a><details/>", "<b%06x/>", "</a>", XML),
    "nested elements": ("<a><details/>", "<b><b><b/></b></b>", "</a>", XML),
    "references": ("<a><b>", "&lt;", "</b></a>", XML),
    "attributes": ("<a>", '<b c="1" d="2" e="3"/>', "</a>", XML),
    "attributes of one tag": ("<a ", 'b%06x="" ', "/>", XML),
    "attributes that seem to end their tag": ("<a ", 'b%06x=">" ', "/>", XML),
    "depth": ("", "<a>", "", XML),
}


@pytest.fixture(scope="module")
def process_for_each_body() -> Iterator[subprocess.Popen[str]]:
    """Given a file and its type, it says in what status and how many times its size it ends."""
    with subprocess.Popen(
        [sys.executable, "-c", MEMORY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=TESTS,
        text=True,
    ) as process:
        yield process
        process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("name", DENSE)
def test_memory(name: str, process_for_each_body: subprocess.Popen[str], tmp_path: Path) -> None:
    head, unit, tail, content_type = DENSE[name]
    count = BODY_BYTES // len(unit.replace("%06x", "123456"))
    units = (unit % number if "%" in unit else unit for number in range(count))
    file = tmp_path / "body"
    file.write_bytes((head + "".join(units) + tail).encode())
    process = process_for_each_body
    assert process.stdin
    assert process.stdout
    print(file, content_type, file=process.stdin, flush=True)
    status, multiple = process.stdout.readline().split()
    assert int(status) < 500
    # What Python's own parsers take for the densest of them, and no more.
    assert float(multiple) < 50


@pytest.fixture
def server(app: Flask) -> Iterator[BaseWSGIServer]:
    """The application behind a real HTTP server."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def talk(server: BaseWSGIServer, headers: str, body: bytes) -> http.client.HTTPResponse:
    pair = Authorization("basic", {"username": USERNAME, "password": PASSWORD})
    head = (
        "POST /sms/callback HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Authorization: {pair}\r\nContent-Type: application/json\r\n{headers}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head.encode() + body)
        connection.shutdown(socket.SHUT_WR)
        response = http.client.HTTPResponse(connection)
        response.begin()
        response.read()
        return response


BODY = b'{"details": [{"messageId": "1", "status": {"name": "DELIVERED"}}]}'


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (f"Content-Length: {len(BODY)}", 200),
        (f"Content-Length: {len(BODY) - 1}", 400),
        (f"Content-Length: {len(BODY) + 1}", 400),
        ("Content-Length: 0", 400),
        ("Content-Length: -1", 400),
        ("Content-Length: many", 400),
        ("Content-Length: 99999999999999999999", 413),
        ("X-Nothing: 1", 400),
    ],
)
def test_content_length(server: BaseWSGIServer, heard: Heard, headers: str, status: int) -> None:
    assert talk(server, headers, BODY).status == status
    assert ("callback_rejected" in heard.names) is (status != 200)


def test_a_chunked_body(server: BaseWSGIServer, heard: Heard) -> None:
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    assert talk(server, "Transfer-Encoding: chunked", chunks).status == 200
    assert len(heard.messages) == 1


def test_a_chunked_body_over_the_limit() -> None:
    app = make_app(ANTS_DR_MAX_CONTENT_LENGTH=1000)
    ants = Ants(app.test_client())
    body = callback(detail(text="x" * 1000))
    response = ants.post(
        body, environ_overrides={"CONTENT_LENGTH": "", "wsgi.input_terminated": True}
    )
    assert response.status_code == 413
