"""The port to a generator: a prompt becomes a stream of text."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator

from ragqueue.types import Delta, Prompt


class Generator(ABC):
    # The name shown to users.
    model: str
    # Whether `stream` can go on after `prompt.prefix`; else it starts anew and ignores it.
    continues: bool
    # How many of `prompt.hits` it uses, best first; None: as many as the prompt holds.
    passages: int | None = None
    # Whether it embeds the sentences of the best passages anyway,
    # so that judging them costs nothing.
    weighs_sentences: bool = False

    @abstractmethod
    def stream(self, prompt: Prompt) -> AsyncGenerator[Delta, None]:
        """Yield the answer; the last Delta carries `finish`.

        Closing it ends the call to the model. Raises GenerationFailed, Unavailable.
        """

    async def close(self) -> None:  # noqa: B027 - most generators hold nothing
        """Release every connection."""
