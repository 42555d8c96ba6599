"""Answer without a model: quote the sentences of the passages that speak to the question."""

import re
from collections.abc import AsyncGenerator, Collection, Sequence

from ragqueue.errors import GenerationFailed
from ragqueue.generators.base import Generator
from ragqueue.language.evidence import PASSAGES, Embed, Sentence, weigh
from ragqueue.types import Delta, Hit, Prompt

SENTENCES = 3  # a fourth gains nothing
_MARKER_LIKE = re.compile(r"\[(?=\d)")


class ExtractiveGenerator(Generator):
    """Quotes the sentences that answer, in reading order, each followed by the number of its passage."""

    model = "extractive"
    continues = True

    def __init__(self, embed: Embed | None = None, *, languages: Collection[str] | None = None) -> None:
        self._embed, self._languages = embed, languages

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Delta, None]:
        """Yield a sentence at a time. Raises GenerationFailed when there is none or the prefix is not its own."""
        texts = [hit.chunk.text for hit in prompt.hits[:PASSAGES]]
        sentences = _in_reading_order(await weigh(prompt.question, texts, self._embed, self._languages), prompt.hits)
        if not sentences:
            raise GenerationFailed("the passages hold no sentence that could be quoted", retryable=False)
        for text in _pieces(sentences, prompt.prefix):
            yield Delta(text)
        yield Delta(finish="stop")


def _in_reading_order(sentences: Sequence[Sentence], hits: Sequence[Hit]) -> list[Sentence]:
    documents = [hit.chunk.document_id for hit in hits]
    once = {sentence.text: sentence for sentence in reversed(sentences)}.values()

    def place(sentence: Sentence) -> tuple[int, int]:
        chunk = hits[sentence.passage].chunk
        return documents.index(chunk.document_id), chunk.start + sentence.start

    return sorted(once, key=place)


def _pieces(sentences: Sequence[Sentence], prefix: str) -> list[str]:
    """Return what is still to be said after the prefix.

    Cosines differ in the last digits with the batch that a sentence was embedded in, so the prefix tells which
    sentences were chosen, not the scores of today.
    """
    pieces: list[str] = []
    chosen = _best(sentences, 0, SENTENCES)
    at = said = 0
    while prefix:
        likely = [*(index for index in chosen if index >= at), *range(at, len(sentences))]
        for at in likely:  # the next is the first that the prefix begins with, or is the beginning of
            text = _quoted(sentences[at], said)
            if prefix.startswith(text) or text.startswith(prefix):
                break
        else:
            raise GenerationFailed("the text so far was not written by this generator from these passages: it cannot be continued")
        at, said = at + 1, said + 1
        pieces += [text[len(prefix) :]] if len(text) > len(prefix) else []
        prefix = prefix[len(text) :]
    best = _best(sentences, at, SENTENCES - said)
    return pieces + [_quoted(sentences[index], said + n) for n, index in enumerate(best)]


def _best(sentences: Sequence[Sentence], after: int, limit: int) -> list[int]:
    ranked = sorted(range(after, len(sentences)), key=lambda at: -sentences[at].score)
    return sorted(ranked[: max(0, limit)])


def _quoted(sentence: Sentence, said: int) -> str:
    # The source's own [3] must not be read as a citation of ours: Markdown shows \[3] as [3].
    text = _MARKER_LIKE.sub(r"\\[", sentence.text)
    return f"{' ' if said else ''}{text} [{sentence.passage + 1}]"
