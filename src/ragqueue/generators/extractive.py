"""Answer without a model: quote the sentences that speak to the question in reading order, each with the number of its passage."""

import re
from collections.abc import AsyncGenerator, Collection

from ragqueue.errors import GenerationFailed
from ragqueue.generators.base import Generator
from ragqueue.language.sentences import Embed, weigh
from ragqueue.types import Delta, Prompt

SENTENCES = 3  # a fourth gains nothing


class ExtractiveGenerator(Generator):
    model = "extractive"
    continues = False  # what took a moment is begun anew

    def __init__(self, embed: Embed | None = None, *, languages: Collection[str] | None = None) -> None:
        self._embed, self._languages = embed, languages

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Delta, None]:
        chunks = [hit.chunk for hit in prompt.hits]
        documents = [chunk.document_id for chunk in chunks]
        places = [(documents.index(chunk.document_id), chunk.start) for chunk in chunks]
        found = await weigh(prompt.question, [chunk.text for chunk in chunks], self._embed, self._languages)
        once = {sentence.text: sentence for sentence in reversed(found)}.values()
        ordered = sorted(once, key=lambda sentence: (places[sentence.passage], sentence.start))
        best = sorted(ordered, key=lambda sentence: -sentence.score)[:SENTENCES]
        if not best:
            raise GenerationFailed("the passages hold no sentence that could be quoted", retryable=False)
        for at, sentence in enumerate(sentence for sentence in ordered if sentence in best):
            # The source's own [3] must not be read as a citation of ours: Markdown shows \[3] as [3].
            text = re.sub(r"\[(?=\d)", r"\\[", sentence.text)
            yield Delta(f"{' ' if at else ''}{text} [{sentence.passage + 1}]")
        yield Delta(finish="stop")
