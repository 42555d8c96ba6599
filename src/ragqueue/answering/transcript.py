"""What the log tells of an answer: its search, its sources, its text with citations, its end.

This room alone writes the events of an answer. What an earlier run left of them in the log is
taken over, and not written again: all but the text follow from the text.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs

from ragqueue.answering.citations import CitationScanner
from ragqueue.answering.echo import EchoFilter
from ragqueue.answering.grounding import settle
from ragqueue.events.pen import Pen
from ragqueue.jobs.stream import (
    ANNOTATION,
    DELTA,
    IN_PROGRESS,
    ITEM_ADDED,
    ITEM_DONE,
    PART_ADDED,
    PART_DONE,
    RESTARTED,
    SEARCHED,
    SEARCHING,
    SOURCES,
    TEXT_DONE,
    annotation,
)
from ragqueue.retrieval.views import hit_view
from ragqueue.storable import as_text
from ragqueue.types import Hit, Outcome

SEARCH_INDEX = 0  # of the search among the items of the response; the answer's items follow
FIRST_ANSWER_INDEX = 1


class Transcript:
    """Writes the log of one answer, or goes on with what an earlier run wrote."""

    def __init__(self, pen: Pen) -> None:
        self.text = ""  # of the answer so far
        self.past_sources: Mapping[str, Any] | None = None  # what an earlier run found
        self.finish: str | None = None  # known once an earlier run began to close
        self._pen = pen
        self._index = FIRST_ANSWER_INDEX
        # Events of this item that an earlier run wrote, its deltas left out. They are counted down
        # while the same events come again, and that is why a takeover is exact.
        self._written = 0
        self._shown_to = 0  # characters of the text that stand in the log
        self._annotations: list[dict[str, Any]] = []
        self._echo = EchoFilter()
        self._scanner = CitationScanner(())
        self._read_past()

    def _read_past(self) -> None:
        """Learn from the log what earlier runs wrote."""
        for event in self._pen.kept:
            if event.type == SOURCES:
                self.past_sources = event.data
                continue
            index = event.data.get("output_index")
            if not index:  # not of an item of the answer
                continue
            if event.type == ITEM_ADDED:
                self._index = index
                self._written = 0
                self.text = ""
            if event.type == DELTA:
                self.text += event.data.get("delta", "")
            else:
                self._written += 1
            self.finish = event.data.get("finish", self.finish)

    def drop_past(self) -> None:
        """Forget what an earlier run found: it may not be shown any more."""
        self.past_sources = None
        self.finish = None

    def is_by(self, model: str) -> bool:
        """Say whether an earlier run wrote with this model, from sources that may be shown."""
        return self.past_sources is not None and self.past_sources.get("model") == model

    def searching(self, question: str) -> None:
        """Tell that the search began, unless an earlier run did."""
        if any(event.type == IN_PROGRESS for event in self._pen.kept):
            return
        response = {"id": self._pen.job_id, "object": "response", "status": "in_progress"}
        self._pen.write(IN_PROGRESS, {"response": response})
        item = self._search(question, "in_progress")
        self._pen.write(ITEM_ADDED, {"output_index": SEARCH_INDEX, "item": item})
        self._pen.write(SEARCHING, {"output_index": SEARCH_INDEX, "item_id": item["id"]})

    def found(
        self, question: str, hits: Sequence[Hit], grounding: str, model: str
    ) -> Mapping[str, Any]:
        """Tell the passages of the prompt, how far they carry an answer, and who will write it.

        Returns what was told.
        """
        item = self._search(question, "completed")
        self._pen.write(SEARCHED, {"output_index": SEARCH_INDEX, "item_id": item["id"]})
        self._pen.write(ITEM_DONE, {"output_index": SEARCH_INDEX, "item": item})
        sources = [
            {"n": n, "chunk": hit.chunk.number, **hit_view(hit)} for n, hit in enumerate(hits, 1)
        ]
        told = {"sources": sources, "grounding": grounding, "model": model}
        self._pen.write(SOURCES, told)
        return told

    def _search(self, question: str, status: str) -> dict[str, Any]:
        return {
            "type": "file_search_call",
            "id": f"fs_{self._pen.job_id}",
            "queries": [question],
            "status": status,
        }

    def begin(self, hits: Sequence[Hit], *, continues: bool) -> None:
        """Go on after the text that an earlier run wrote.

        When it cannot be continued, every reader is told to drop it: its item ends incomplete,
        and a new one begins.
        """
        if self.text and not continues:
            index = {"output_index": self._index}
            self._pen.write(RESTARTED, {"reason": "cannot_continue", **index})
            self._pen.write(ITEM_DONE, {**index, "item": self._item("incomplete")})
            self._index += 1
            self._written = 0
            self.text = ""
        past = self.text
        self.text = ""
        self._shown_to = len(past)
        self._scanner = CitationScanner(hits)
        self._write(ITEM_ADDED, {"item": self._item("in_progress") | {"content": []}})
        part = {"type": "output_text", "text": "", "annotations": []}
        self._write(PART_ADDED, {"content_index": 0, "part": part})
        # For its citations: those that were not written yet are written now.
        self._show(past, last=True)

    def write(self, text: str, *, last: bool = False) -> None:
        """Add what a generator says to the answer; of the last, nothing is held back."""
        self._show(self._echo.feed(as_text(text), last=last), last=last)

    def _show(self, text: str, *, last: bool) -> None:
        for piece, citations in self._scanner.feed(text, last=last):
            fresh = piece[max(0, self._shown_to - len(self.text)) :]
            if fresh:
                delta = {"output_index": self._index, "content_index": 0, "delta": fresh}
                self._pen.write(DELTA, delta)
            self.text += piece
            for citation in citations:
                cited = annotation(structs.asdict(citation), len(self._annotations), self._index)
                self._annotations.append(cited["annotation"])
                self._write(ANNOTATION, cited)

    def close(self, finish: str) -> None:
        """Write the events that close the answer."""
        self.write("", last=True)
        item = self._item("completed")
        end = {"content_index": 0, "item_id": item["id"], "finish": finish}
        self._write(TEXT_DONE, end | {"text": self.text})
        self._write(PART_DONE, end | {"part": item["content"][0]})
        self._write(ITEM_DONE, {"item": item, "finish": finish})

    def outcome(self, about: Mapping[str, Any]) -> Outcome:
        """Return the answer as it stands, with what else is known about it.

        Its grounding, when it is among that, is settled by what the answer cites.
        """
        citations = self._scanner.citations
        invalid = self._scanner.invalid
        result = {
            "text": self.text,
            "citations": [structs.asdict(citation) for citation in citations],
            "invalid_markers": invalid,
            "log_end": self._pen.end,
            **about,
        }
        if "grounding" in about:
            result["grounding"] = settle(about["grounding"], citations, invalid)
        return Outcome(state="succeeded", result=result)

    def _write(self, type_: str, data: dict[str, Any]) -> None:
        """Write the item's next event, unless an earlier run did."""
        if self._written:
            self._written -= 1
        else:
            self._pen.write(type_, {"output_index": self._index, **data})

    def _item(self, status: str) -> dict[str, Any]:
        part = {
            "type": "output_text",
            "text": self.text,
            "annotations": list(self._annotations),
        }
        return {
            "type": "message",
            "id": f"msg_{self._pen.job_id}_{self._index}",
            "role": "assistant",
            "status": status,
            "content": [part],
        }
