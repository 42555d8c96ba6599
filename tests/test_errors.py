"""What is shown of a URL, of an error, and what is no text."""

import pytest

from ragqueue.errors import InvalidRequest, told, without_password
from ragqueue.storable import as_text, check_storable

SECRET = "hunter2CANARY"
URLS = {
    "plain": f"redis://u:{SECRET}@127.0.0.1:1/0",
    "hash in the password": f"redis://:{SECRET}#x@127.0.0.1:1",
    "slash": f"redis://:a/{SECRET}@127.0.0.1:1",
    "question mark": f"redis://:a?{SECRET}@127.0.0.1:1",
    "percent": f"redis://:%zz{SECRET}@127.0.0.1:1",
    "at": f"redis://:a@{SECRET}@127.0.0.1:1",
    "colon": f"redis://:a:{SECRET}@127.0.0.1:1",
    "password in the query": f"redis://127.0.0.1:1/0?password={SECRET}",
    "at in the query": f"redis://127.0.0.1:1/0?password=a@{SECRET}",
    "key in the query": f"https://host/v1?api-key={SECRET}&x=1",
    "as port": f"redis://127.0.0.1:{SECRET}/0",
    "no scheme": f"u:{SECRET}@127.0.0.1:1",
    "newline": f"redis://u:{SECRET}\n@127.0.0.1:1",
    "bracket": f"redis://u:{SECRET}[@127.0.0.1:1",
    "unix": f"unix://u:{SECRET}@/nonexistent.sock?db=0",
    "engine": f"rq+redis://u:{SECRET}@127.0.0.1:1/0",
    "fragment": f"redis://127.0.0.1:1/0#{SECRET}",
}


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
def test_no_secret_of_a_url_is_shown(url: str) -> None:
    assert SECRET not in without_password(url)


@pytest.mark.parametrize(
    ("url", "visible"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("rq+redis://u:p@10.0.0.1:6379/1", "rq+redis://****@10.0.0.1:6379/1"),
        ("redis://[::1]:6379/0?db=1", "redis://[::1]:6379/0?db=****"),
        ("sql", "sql"),
        ("scripted:rate=20&tokens=10", "scripted:rate=20&tokens=10"),
        ("python:package.module:Class", "python:package.module:Class"),
        (
            "Write to me @ home. See https://x.example/?a=b",
            "Write to me @ home. See https://x.example/?a=b",
        ),
    ],
)
def test_what_is_no_secret_is_shown(url: str, visible: str) -> None:
    assert without_password(url) == visible


@pytest.mark.parametrize(
    ("error", "text"), [(TimeoutError(), "TimeoutError"), (ValueError("why"), "why")]
)
def test_no_error_says_nothing(error: Exception, text: str) -> None:
    assert told(error) == text


@pytest.mark.parametrize(
    "value",
    ["a\x00b", "\ud800", {"a": ["\udfff"]}, {"\x00": 1}, 2**63, float("inf"), float("nan")],
)
def test_what_cannot_be_stored_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest):
        check_storable("it", value)


def test_what_can_be_stored_passes() -> None:
    check_storable("it", {"text": "ü 漢 🦆\n\t", "list": [1, 2.5, None, True], "most": 2**63 - 1})


def test_what_a_program_says_becomes_text() -> None:
    assert as_text("a\x00b\ud800c") == "a\ufffdb\ufffdc"
