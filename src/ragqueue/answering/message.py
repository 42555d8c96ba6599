"""The answer's message in the log: text, then each citation right after its marker; and what an earlier run left of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ragqueue.answering.citations import CitationScanner, Piece
from ragqueue.events.pen import Pen
from ragqueue.jobs.views import ANNOTATION, DELTA, RESTARTED, annotation
from ragqueue.types import Event, Hit, Outcome

OPENED, PART_OPENED = "response.output_item.added", "response.content_part.added"
TEXT_DONE, PART_DONE, DONE = "response.output_text.done", "response.content_part.done", "response.output_item.done"


@dataclass(slots=True)
class Progress:
    """What the log holds of an answer."""

    begun: bool = False
    sources: Sequence[Mapping[str, Any]] | None = None
    grounding: str = ""
    index: int = 1  # of the last message among the outputs
    logged: Counter[str] = field(default_factory=Counter)  # how often each type of event was written for that message
    text: str = ""
    finish: str | None = None  # known once the message began to close


def progress_of(kept: Sequence[Event]) -> Progress:
    """Return what earlier runs wrote, as far as the last message goes."""
    past = Progress()
    for event in kept:
        if event.type == "response.in_progress":
            past.begun = True
        elif event.type == "ragqueue:sources":
            past.sources, past.grounding = event.data["sources"], event.data["grounding"]
        elif index := event.data.get("output_index"):  # output 0 is the search
            if event.type == OPENED:
                past = Progress(past.begun, past.sources, past.grounding, index)
            past.logged[event.type] += 1
            past.text += event.data.get("delta", "")
            past.finish = event.data.get("finish", past.finish)
    return past


class Message:
    """Writes the answer; what the log holds already is not written again."""

    def __init__(self, pen: Pen, hits: Sequence[Hit], past: Progress, *, continues: bool) -> None:
        self._pen, self._hits = pen, hits
        self._logged, self._shown = past.logged, len(past.text)
        self._open(past.index)
        if continues:
            # For its citations: those that the earlier run did not get to are written now.
            self._show([*self._scanner.feed(past.text), *self._scanner.close()])
        elif past.text:
            self.text = past.text
            self.restart()

    def write(self, text: str) -> None:
        """Add text to the answer."""
        self._show(self._scanner.feed(text))

    def restart(self) -> None:
        """Tell every reader to drop the old text: its item ends incomplete, and a new one begins."""
        self._pen.write(RESTARTED, {"reason": "cannot_continue", "output_index": self._index})
        self._pen.write(DONE, {"output_index": self._index, "item": self._item("incomplete")})
        self._logged, self._shown = Counter(), 0
        self._open(self._index + 1)

    def close(self, finish: str) -> None:
        """Write the events that close the message."""
        self._show(self._scanner.close())
        item = self._item("completed")
        ids = {"content_index": 0, "item_id": item["id"], "finish": finish}
        self._write(TEXT_DONE, ids | {"text": self.text})
        self._write(PART_DONE, ids | {"part": item["content"][0]})
        self._write(DONE, {"item": item, "finish": finish})

    def outcome(self, about: Mapping[str, Any]) -> Outcome:
        """Return the answer as it stands, with what else is known about it."""
        citations = [asdict(citation) for citation in self._scanner.citations]
        told = {"text": self.text, "citations": citations, "invalid_markers": self._scanner.invalid, "log_end": self._pen.end}
        return Outcome("succeeded", result=told | dict(about))

    def _open(self, index: int) -> None:
        self._index, self._scanner = index, CitationScanner(self._hits)
        self.text = ""
        self._annotations: list[dict[str, Any]] = []
        self._write(OPENED, {"item": self._item("in_progress") | {"content": []}})
        self._write(PART_OPENED, {"content_index": 0, "part": {"type": "output_text", "text": "", "annotations": []}})

    def _show(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            if fresh := piece.text[max(0, self._shown - len(self.text)) :]:
                self._pen.write(DELTA, {"output_index": self._index, "content_index": 0, "delta": fresh})
            self.text += piece.text
            for citation in piece.citations:
                cited = annotation(asdict(citation), len(self._annotations), self._index)
                self._annotations.append(cited["annotation"])
                self._write(ANNOTATION, cited)

    def _write(self, type_: str, data: dict[str, Any]) -> None:
        """Write an event of the message, unless an earlier run did."""
        if self._logged[type_]:
            self._logged[type_] -= 1
        else:
            self._pen.write(type_, {"output_index": self._index} | data)

    def _item(self, status: str) -> dict[str, Any]:
        content = [{"type": "output_text", "text": self.text, "annotations": list(self._annotations)}]
        return {"type": "message", "id": f"msg_{self._pen.job_id}_{self._index}", "role": "assistant", "status": status, "content": content}
