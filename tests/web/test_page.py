import html
import json
import re
import subprocess
import threading
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ragqueue.web import PAGE, STATIC
from tests.needs import missing
from tests.web.double import QUOTE, Double

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
    " --disable-background-networking --disable-component-update"
    " --disable-sync --virtual-time-budget=30000 --dump-dom"
)
SCRIPT, STYLE = STATIC["page.js"], STATIC["page.css"]


class Elements(HTMLParser):
    """Every element of the page with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def elements() -> list[tuple[str, dict[str, str | None]]]:
    parser = Elements()
    parser.feed(PAGE.read_text(encoding="utf-8"))
    return parser.found


def test_the_page_holds_no_inline_style_or_handler(
    elements: list[tuple[str, dict[str, str | None]]],
) -> None:
    names = [name for _, attributes in elements for name in attributes]
    assert [name for name in names if name == "style" or name.startswith("on")] == []
    assert "style" not in [tag for tag, _ in elements]


def test_every_script_of_the_page_is_a_file(
    elements: list[tuple[str, dict[str, str | None]]],
) -> None:
    sources = [attributes.get("src") for tag, attributes in elements if tag == "script"]
    assert sources == ["/static/page.js"]


def test_the_page_loads_only_files_that_the_server_has(
    elements: list[tuple[str, dict[str, str | None]]],
) -> None:
    links = {attributes.get(name) for _, attributes in elements for name in ("src", "href")}
    links -= {None, "data:,"}
    assert links == {f"/static/{name}" for name in STATIC}


@pytest.mark.parametrize("file", [PAGE, SCRIPT, STYLE], ids=lambda file: file.name)
def test_no_file_names_another_host(file: Path) -> None:
    forbidden = r"(?:\w+:)?//[a-z0-9][\w.-]*\.\w+|@import|url\("
    assert re.findall(forbidden, file.read_text(encoding="utf-8"), re.IGNORECASE) == []


def test_the_script_makes_no_markup_or_code_of_text() -> None:
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc"
        r"|eval\(|new Function|createContextualFragment"
    )
    assert re.findall(forbidden, SCRIPT.read_text(encoding="utf-8")) == []


def test_every_id_that_the_script_uses_is_in_the_page(
    elements: list[tuple[str, dict[str, str | None]]],
) -> None:
    used = set(re.findall(r'\$\("([^"]+)"\)', SCRIPT.read_text(encoding="utf-8")))
    assert used
    assert used <= {attributes.get("id") for _, attributes in elements}


def test_every_field_has_a_label(elements: list[tuple[str, dict[str, str | None]]]) -> None:
    fields = {attributes["id"] for tag, attributes in elements if tag in ("input", "textarea")}
    assert fields == {attributes["for"] for tag, attributes in elements if tag == "label"}


def visit(profile: Path, *, locked: bool) -> tuple[dict[str, Any], Double]:
    """Return what a browser saw while the script `drive.js` used the page, and its server."""
    if not CHROMIUM.exists():
        missing(f"no browser at {CHROMIUM}: apt-get install chromium")
    # The browser's virtual clock can outrun a server that the machine kept waiting:
    # then the script is not done.
    for attempt in range(3):
        server = Double(Path(__file__).with_name("drive.js"), locked=locked)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            command = [
                str(CHROMIUM),
                *FLAGS.split(),
                f"--user-data-dir={profile / str(attempt)}",
                server.url,
            ]
            done = subprocess.run(command, capture_output=True, timeout=120, check=True)
        finally:
            server.shutdown()
            server.server_close()
        if found := re.search(r'data-seen="([^"]*)"', done.stdout.decode()):
            seen: dict[str, Any] = json.loads(html.unescape(found[1]))
            return seen, server
    pytest.fail(f"the script did not reach its end in three visits: {done.stdout.decode()}")


Visit = tuple[dict[str, Any], Double]


@pytest.fixture(scope="module")
def visited(tmp_path_factory: pytest.TempPathFactory) -> Visit:
    return visit(tmp_path_factory.mktemp("profile"), locked=False)


@pytest.fixture(scope="module")
def seen(visited: Visit) -> dict[str, Any]:
    return visited[0]


def test_nothing_fails_and_the_content_policy_holds(seen: dict[str, Any]) -> None:
    assert (seen["errors"], seen["violations"]) == ([], [])


def test_the_page_says_that_no_worker_runs(seen: dict[str, Any]) -> None:
    assert seen["ready"] == "No worker is running"


def test_the_documents_are_listed(seen: dict[str, Any]) -> None:
    assert seen["documents"] == "ferries.pdf"


def test_shift_enter_does_not_send(seen: dict[str, Any]) -> None:
    assert seen["sentByShiftEnter"] is False


def test_a_lost_connection_is_taken_up_after_the_last_event(visited: Visit) -> None:
    assert visited[1].resumed_after == "2"


def test_an_answer_is_shown_once_as_plain_text(seen: dict[str, Any]) -> None:
    assert seen["cited"] == {
        "answer": "`a[1]` <b>is code</b>. It leaves at nine [1] [2].",
        "error": None,
        "status": "The answer is complete.",
    }
    assert seen["bold"] == 0


def test_only_a_marker_with_a_citation_becomes_a_button(seen: dict[str, Any]) -> None:
    assert (seen["label"], seen["otherCitations"]) == ("Source 1, ferries.pdf, page 4", 0)
    assert seen["before"].endswith("It leaves at nine [")


def test_a_focused_citation_shows_its_quote(seen: dict[str, Any]) -> None:
    assert QUOTE in seen["tip"]


def test_the_panel_marks_the_quote_at_code_points(seen: dict[str, Any]) -> None:
    assert seen["mark"] == QUOTE


def test_focus_moves_into_the_panel_and_back_to_the_last_citation(seen: dict[str, Any]) -> None:
    assert (seen["panelHasFocus"], seen["focusReturns"]) == (True, True)


def test_a_list_in_a_code_block_is_no_citation(seen: dict[str, Any]) -> None:
    assert seen["code"]["before"].endswith("It leaves at nine [")
    assert seen["code"]["answer"] == "```\nx = [1]\n```\n\nIt leaves at nine [1]"


def test_an_answer_that_its_sources_do_not_carry_says_so(seen: dict[str, Any]) -> None:
    assert seen["code"]["note"] == "Not every claim is carried by the source that it names."
    assert seen["uncited"]["note"] == "No source carries this answer."


def test_a_restarted_answer_drops_its_old_text(seen: dict[str, Any]) -> None:
    assert seen["restarted"]["answer"] == "The second text."


def test_an_answer_of_which_no_event_came_is_shown_from_its_end(seen: dict[str, Any]) -> None:
    assert (seen["retold"]["answer"], seen["retoldCitations"]) == ("First [1], then [1].", 2)


def test_a_failed_answer_says_why(seen: dict[str, Any]) -> None:
    assert seen["failed"]["error"] == "the model went away"


def test_a_question_that_the_sources_do_not_answer_shows_the_nearest_passages(
    seen: dict[str, Any],
) -> None:
    assert seen["nearestPassages"] == [f"ferries.pdf, page 4{QUOTE}"]


def test_stop_cancels_the_answer_on_the_server(visited: Visit) -> None:
    assert visited[1].cancelled.is_set()
    assert (visited[0]["busyWhileStreaming"], visited[0]["stopNote"]) == (True, "Stopped.")


def test_a_file_that_cannot_be_read_says_why(visited: Visit) -> None:
    assert b'filename="broken.pdf"' in visited[1].uploaded
    assert visited[0]["upload"] == "broken.pdfthe file is not a PDF"


def test_a_locked_server_is_opened_with_a_key(tmp_path: Path) -> None:
    seen, _ = visit(tmp_path, locked=True)
    assert (seen["errors"], seen["violations"]) == ([], [])
    assert seen["keyNote"].startswith("an API key is needed")
    assert (seen["documents"], seen["keyFormHidden"]) == ("ferries.pdf", True)
