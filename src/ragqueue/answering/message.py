"""The answer's message in the log: text, then each citation right after its marker, with a quote that stands in the documents."""

from collections.abc import Mapping, Sequence
from typing import Any

from ragqueue.answering.citations import CitationScanner
from ragqueue.answering.echo import EchoFilter
from ragqueue.answering.grounding import settle
from ragqueue.events.pen import Pen
from ragqueue.jobs.views import ANNOTATION, DELTA, RESTARTED, annotation
from ragqueue.storable import as_text
from ragqueue.types import Hit, Outcome

OPENED, DONE, SOURCES = (
    "response.output_item.added",
    "response.output_item.done",
    "ragqueue:sources",
)


class Message:
    """Writes the answer; what an earlier run left of it in the log is taken over, and not written again."""

    def __init__(self, pen: Pen) -> None:
        self._pen, self._index, self._logged, self.text = (
            pen,
            1,
            0,
            "",
        )  # its output, its events in the log but for its text
        self.sources: Mapping[str, Any] | None = None  # what the earlier run found
        self.finish: str | None = None  # known once the earlier run began to close
        self._annotations: list[dict[str, Any]] = []
        for event in pen.kept:
            if event.type == SOURCES:
                self.sources = event.data
            elif index := event.data.get("output_index"):  # output 0 is the search
                if event.type == OPENED:
                    self._index, self._logged, self.text = index, 0, ""
                self._logged += event.type != DELTA
                self.text += event.data.get("delta", "")
                self.finish = event.data.get("finish", self.finish)

    def begin(self, hits: Sequence[Hit], *, continues: bool) -> None:
        """Go on after the text that an earlier run wrote, or tell every reader to drop it when it cannot be continued."""
        if self.text and not continues:  # its item ends incomplete, and a new one begins
            self._pen.write(RESTARTED, {"reason": "cannot_continue", "output_index": self._index})
            self._pen.write(DONE, {"output_index": self._index, "item": self._item("incomplete")})
            self._index, self._logged, self.text = self._index + 1, 0, ""
        past, self.text, self._shown = self.text, "", len(self.text)
        self._echo, self._scanner = EchoFilter(), CitationScanner(hits)
        self._write(OPENED, {"item": self._item("in_progress") | {"content": []}})
        self._write(
            "response.content_part.added",
            {"content_index": 0, "part": {"type": "output_text", "text": "", "annotations": []}},
        )
        self._show(
            past, last=True
        )  # for its citations: those that were not written yet are written now

    def write(self, text: str, *, last: bool = False) -> None:
        """Add what a generator says to the answer; of the last, nothing is held back."""
        self._show(self._echo.feed(as_text(text), last=last), last=last)

    def _show(self, text: str, *, last: bool) -> None:
        for shown, citations in self._scanner.feed(text, last=last):
            if fresh := shown[max(0, self._shown - len(self.text)) :]:
                self._pen.write(
                    DELTA, {"output_index": self._index, "content_index": 0, "delta": fresh}
                )
            self.text += shown
            for citation in citations:
                cited = annotation(citation._asdict(), len(self._annotations), self._index)
                self._annotations.append(cited["annotation"])
                self._write(ANNOTATION, cited)

    def close(self, finish: str) -> None:
        """Write the events that close the message."""
        self.write("", last=True)
        item = self._item("completed")
        ids = {"content_index": 0, "item_id": item["id"], "finish": finish}
        self._write("response.output_text.done", ids | {"text": self.text})
        self._write("response.content_part.done", ids | {"part": item["content"][0]})
        self._write(DONE, {"item": item, "finish": finish})

    def outcome(self, about: Mapping[str, Any]) -> Outcome:
        """Return the answer as it stands, with what else is known about it; its grounding is settled by what it cites."""
        found, invalid = self._scanner.citations, self._scanner.invalid
        told = {
            "text": self.text,
            "citations": [citation._asdict() for citation in found],
            "invalid_markers": invalid,
        }
        grounding = (
            {"grounding": settle(about["grounding"], found, invalid)}
            if "grounding" in about
            else {}
        )
        return Outcome(
            "succeeded", result=told | {"log_end": self._pen.end} | dict(about) | grounding
        )

    def _write(self, type_: str, data: dict[str, Any]) -> None:
        """Write the message's next event, unless an earlier run did: all but the text follow from the text."""
        if self._logged:
            self._logged -= 1
        else:
            self._pen.write(type_, {"output_index": self._index} | data)

    def _item(self, status: str) -> dict[str, Any]:
        content = [
            {"type": "output_text", "text": self.text, "annotations": list(self._annotations)}
        ]
        return {
            "type": "message",
            "id": f"msg_{self._pen.job_id}_{self._index}",
            "role": "assistant",
            "status": status,
            "content": content,
        }
