"""Read an answer from the events of a stream of chat completions."""

from typing import Any

import msgspec


class Answer:
    """What the events of one answer have said so far."""

    def __init__(self) -> None:
        self.finish = ""
        self.error = ""  # raised after the text before it was passed on
        self.alive = False  # the last read brought a sign of life
        self.begun = False  # some read did
        self.worded = False  # the answer has a word
        self.usage: dict[str, int] = {}
        self._rest = b""

    def take(self, data: bytes) -> str:
        """Read what the network brought and return the text that it adds.

        The SDK's own reading costs three times the CPU.
        """
        *events, self._rest = (self._rest + data).replace(b"\r", b"").split(b"\n\n")
        self.alive = False
        text = ""
        for event in events:
            text += self._read_event(event)
        self.begun = self.begun or self.alive
        self.worded = self.worded or bool(text.strip())
        return text

    def _read_event(self, event: bytes) -> str:
        lines = event.split(b"\n")
        data = b"\n".join([line[5:].strip() for line in lines if line.startswith(b"data:")])
        if not data or data == b"[DONE]" or self.error:
            return ""
        try:
            return self._read(msgspec.json.decode(data))
        except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, TypeError):
            self.error = "the model server sent an event that is no chunk of a chat completion"
            return ""

    def _read(self, chunk: dict[str, Any]) -> str:
        if chunk.get("error"):
            self.error = (
                "the model server reported an error in the middle of the answer: see its log"
            )
        usage = chunk.get("usage")
        if usage:
            self.usage = _counts(usage)
        text = ""
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            content = delta.get("content")
            finish = choice.get("finish_reason")
            if content:
                text += content
            if finish:
                self.finish = finish
            # Thinking is not part of the answer, but a sign of life.
            # A comment or an empty delta is none.
            if content or finish or delta.get("reasoning") or delta.get("reasoning_content"):
                self.alive = True
        return text


def _counts(usage: dict[str, Any]) -> dict[str, int]:
    """Return the counts of tokens that a server gives, by our names."""
    counts = {
        "input_tokens": usage.get("prompt_tokens"),
        "output_tokens": usage.get("completion_tokens"),
    }
    return {name: count for name, count in counts.items() if isinstance(count, int)}
