"""The answer's message in the log: text, then each citation right after its marker; and what an earlier run left of it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ragqueue.answering.citations import CitationScanner, Piece
from ragqueue.events.pen import Pen
from ragqueue.jobs import views
from ragqueue.jobs.views import DELTA, RESTARTED, annotation
from ragqueue.types import Citation, Event, Hit


@dataclass(slots=True)
class Progress:
    """What the log holds of an answer."""

    begun: bool = False
    sources: Sequence[Mapping[str, Any]] | None = None
    grounding: str = ""
    output_index: int | None = None  # of the open message
    part_open: bool = False
    text: str = ""
    citations: int = 0
    closed: list[str] = field(default_factory=list)  # closing events of the message that were written
    finish: str | None = None  # known once the first of them was


def progress_of(kept: Sequence[Event]) -> Progress:
    """Return what earlier runs wrote, as far as the last message goes."""
    past = Progress()
    for event in kept:
        match event.type:
            case "response.in_progress":
                past.begun = True
            case "ragqueue:sources":
                past.sources, past.grounding = event.data["sources"], event.data["grounding"]
            case "response.output_item.added" if event.data["item"]["type"] == "message":
                past = Progress(past.begun, past.sources, past.grounding, event.data["output_index"])
            case "response.content_part.added":
                past.part_open = True
            case views.DELTA:
                past.text += event.data["delta"]
            case views.ANNOTATION:
                past.citations += 1
            case "response.output_text.done" | "response.content_part.done" | "response.output_item.done" if past.output_index is not None:
                past.closed.append(event.type)
                past.finish = event.data.get("finish")
    return past


class Message:
    """Writes the answer; what readers were already shown is not written again."""

    def __init__(self, pen: Pen, hits: Sequence[Hit], past: Progress, *, continues: bool) -> None:
        self._pen, self._hits = pen, hits
        self._scanner = CitationScanner(hits)
        self.text = ""
        self.citations: list[Citation] = []
        self._index = past.output_index
        self._closed = list(past.closed)
        self._shown = past.citations  # annotations that the log holds
        if past.output_index is None:
            self._open(1)
        elif not past.part_open:
            self._open_part()
        if past.text and not continues:
            self.text = past.text
            self.restart()
        elif past.text:
            self._take_over(past.text)

    @property
    def end(self) -> int:
        """The sequence number of the last event written."""
        return self._pen.end

    @property
    def invalid(self) -> list[int]:
        """Numbers in the text that name no passage."""
        return self._scanner.invalid

    def write(self, text: str) -> None:
        """Add text to the answer."""
        for piece in self._scanner.feed(text):
            self._show(piece)

    def restart_unless(self, wanted: str) -> None:
        """Begin a new message when what was shown is not the beginning of the text that is wanted now."""
        if self.text and not wanted.startswith(self.text):
            self.restart()

    def restart(self) -> None:
        """Tell every reader to drop the old text: its item ends incomplete, and a new one begins."""
        assert self._index is not None
        self._pen.write(RESTARTED, {"reason": "cannot_continue", "output_index": self._index})
        self._pen.write("response.output_item.done", {"output_index": self._index, "item": self._item("incomplete")})
        self.text, self.citations, self._scanner = "", [], CitationScanner(self._hits)
        self._open(self._index + 1)

    def close(self, finish: str) -> None:
        """Write the events that close the message."""
        for piece in self._scanner.close():
            self._show(piece)
        item = self._item("completed")
        part = item["content"][0]
        ids = {"output_index": self._index, "content_index": 0, "item_id": item["id"], "finish": finish}
        closing = {
            "response.output_text.done": ids | {"text": self.text},
            "response.content_part.done": ids | {"part": part},
            "response.output_item.done": {"output_index": self._index, "item": item, "finish": finish},
        }
        for type_, data in closing.items():
            if type_ not in self._closed:
                self._pen.write(type_, data)

    def _take_over(self, text: str) -> None:
        """Read what was shown again, for its citations: those that the earlier run did not get to are written now."""
        self.text = text
        for piece in self._scanner.feed(text):
            for citation in piece.citations:
                self._cite(citation)

    def _show(self, piece: Piece) -> None:
        if piece.text:
            self.text += piece.text
            self._pen.write(DELTA, {"output_index": self._index, "content_index": 0, "delta": piece.text})
        for citation in piece.citations:
            self._cite(citation)

    def _cite(self, citation: Citation) -> None:
        self.citations.append(citation)
        if len(self.citations) > self._shown:
            self._shown += 1
            assert self._index is not None
            self._pen.write(views.ANNOTATION, annotation(asdict(citation), len(self.citations) - 1, self._index))

    def _open(self, index: int) -> None:
        self._index, self._closed, self._shown = index, [], 0
        self._pen.write("response.output_item.added", {"output_index": index, "item": self._item("in_progress") | {"content": []}})
        self._open_part()

    def _open_part(self) -> None:
        part = {"type": "output_text", "text": "", "annotations": []}
        self._pen.write("response.content_part.added", {"output_index": self._index, "content_index": 0, "part": part})

    def _item(self, status: str) -> dict[str, Any]:
        annotations = [annotation(asdict(citation), i)["annotation"] for i, citation in enumerate(self.citations)]
        content = [{"type": "output_text", "text": self.text, "annotations": annotations}]
        return {"type": "message", "id": f"msg_{self._pen.job_id}_{self._index}", "role": "assistant", "status": status, "content": content}
