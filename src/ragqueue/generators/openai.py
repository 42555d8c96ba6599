"""Write answers with any server that speaks OpenAI's chat completions: OpenAI, vLLM, Ollama, llama.cpp, TGI, LM Studio."""

import asyncio
import re
from base64 import b64encode
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

import aiohttp
import httpx2
import msgspec
import openai

from ragqueue.adapters import Given, Option
from ragqueue.errors import (
    ConfigError,
    GenerationFailed,
    RagqueueError,
    Unavailable,
    without_password,
)
from ragqueue.generators.base import Generator
from ragqueue.types import Delta, Prompt

FIRST, GAP, AFTER_FINISH = (
    30.0,
    15.0,
    1.0,
)  # seconds that are waited for the first token, the next, and the usage after the last
CONTINUE = {
    "continue_final_message": True,
    "add_generation_prompt": False,
}  # for vLLM and SGLang; others ignore it
FAULTS = (TimeoutError, openai.APIError, httpx2.HTTPError, aiohttp.ClientError, ConnectionError)
EMPTY = "gave an empty answer: if it spent its tokens on thinking, raise its limit"
REFUSED = {
    "content_filter": "held back the answer (content filter)",
    "tool_calls": "asked for a tool instead of answering",
}
FAILED = REFUSED | dict.fromkeys(
    ("", "abort", "error", "cancelled"),
    "ended its answer without a finish reason: the server broke it off",
)
_KEY = "it refused the API key: check OPENAI_API_KEY"
_LONG = "the prompt is longer than the model can read: lower RAGQUEUE_CONTEXT"
_TOO_LONG = re.compile(
    r"context.{0,20}(length|size|window)|maximum.{0,20}tokens|too (long|large)", re.IGNORECASE
)
_ADVICE = {
    401: _KEY,
    403: _KEY,
    404: "no such model or path: check LLM_MODEL and OPENAI_BASE_URL (it usually ends in /v1)",
    413: _LONG,
}


OPENAI_URL = "https://api.openai.com/v1"
SPARE_CONNECTIONS = 10  # beyond one for each answer that is written at once


class Place(NamedTuple):
    """Where a model is served, in the parts that the SDK wants apart."""

    url: str
    headers: dict[str, str]
    query: dict[str, object]

    @classmethod
    def of(cls, base_url: str) -> Self:
        """Return the parts of a URL: user and password become basic authentication, as curl does it. Raises ConfigError."""
        try:
            parts = urlsplit(base_url)
            host, port = parts.hostname, parts.port
        except ValueError:  # its text may quote a password
            host, port = None, None
        if host is None or parts.scheme not in ("http", "https"):
            shown = without_password(base_url)
            problem = f"OPENAI_BASE_URL is {shown!r}: it must look like http://host:port/v1 or https://host/v1"
            raise ConfigError(
                f"{problem}, with user:password@ before the host where it asks for them"
            )
        name = f"[{host}]" if ":" in host else host
        netloc = name if port is None else f"{name}:{port}"
        headers = {}
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        url = urlunsplit((parts.scheme, netloc, parts.path, "", ""))
        return cls(url, headers, dict(parse_qsl(parts.query, keep_blank_values=True)))


class OpenAIGenerator(Generator):
    """Streams in one try, for the job's are the only retries. What broke off goes in the last message to a model that `continues`."""

    def __init__(
        self,
        model: str,
        *,
        base_url: str,
        api_key: str | None,
        continues: bool = False,
        max_connections: int = 512,
    ) -> None:
        place = Place.of(base_url)
        self.model, self.continues, self._base_url = model, continues, without_password(base_url)
        # Our own limits cover the waiting. `pool` also bounds connecting, by aiohttp's meaning of it.
        timeout = httpx2.Timeout(connect=5.0, read=None, write=None, pool=FIRST)
        # None would mean aiohttp's 100, not "no limit". The SDK insists on a key; local servers ask for none.
        http = openai.DefaultAioHttpClient(limits=httpx2.Limits(max_connections=max_connections))
        self._client = openai.AsyncOpenAI(
            base_url=place.url,
            api_key=api_key or "none",
            max_retries=0,
            timeout=timeout,
            http_client=http,
            default_headers=place.headers,
            default_query=place.query,
        )

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Delta, None]:
        now = asyncio.get_running_loop().time
        prefix, limit, answer = prompt.prefix if self.continues else "", now() + FIRST, _Answer()
        try:
            async with asyncio.timeout_at(limit):
                opened = await self._open(prompt, prefix)
            async with opened:
                media_type = opened.response.headers.get("content-type", "")
                if media_type.startswith(("text/html", "application/json")):
                    told = f"{self._base_url} answered with {media_type!r}, no stream: check OPENAI_BASE_URL (it usually ends in /v1)"
                    raise GenerationFailed(told, retryable=False)
                chunks = opened.response.aiter_bytes()
                data: bytes | None = b""
                while data is not None:
                    async with asyncio.timeout_at(limit):
                        data = await anext(chunks, None)
                    # Some servers leave out the empty line that ends the last event.
                    if text := answer.take(b"\n\n" if data is None else data):
                        yield Delta(text)
                    if answer.error:
                        raise GenerationFailed(answer.error)
                    if answer.alive:
                        limit = now() + (AFTER_FINISH if answer.finish else GAP)
        except FAULTS as error:
            if not answer.finish:
                raise self._explained(error, begun=answer.begun) from error
        if failed := FAILED.get(answer.finish, "" if answer.worded or prefix else EMPTY):
            raise GenerationFailed(
                f"the model {self.model!r} {failed}", retryable=answer.finish not in REFUSED
            )
        yield Delta(
            finish="length"
            if answer.finish in ("length", "max_tokens", "model_length")
            else "stop",
            usage=answer.usage,
        )

    async def close(self) -> None:
        await self._client.close()

    async def _open(self, prompt: Prompt, prefix: str) -> openai.AsyncStream[Any]:
        messages: Any = [
            {"role": "system", "content": prompt.system},
            {"role": "user", "content": prompt.user},
        ]
        messages += [{"role": "assistant", "content": prefix}] if prefix else []
        more = {"stream_options": {"include_usage": True}} | (CONTINUE if prefix else {})
        return await self._client.chat.completions.create(
            model=self.model, messages=messages, stream=True, extra_body=more
        )

    def _explained(self, error: Exception, *, begun: bool) -> RagqueueError:
        """Return our error for one of the transport's. What the server wrote stays out: it may quote the prompt or the key."""
        server = f"the model server at {self._base_url}"
        if isinstance(error, TimeoutError):
            return GenerationFailed(f"{server} sent nothing for {GAP if begun else FIRST:g} s")
        if begun:
            return GenerationFailed(f"the connection to {server} broke in the middle of the answer")
        if not isinstance(error, openai.APIStatusError):
            return Unavailable(
                f"{server} cannot be reached, or closed the connection: is it running?"
            )
        server = f"{server}, asked for {self.model!r}, answered HTTP {error.status_code}"
        if error.code == "insufficient_quota":
            return GenerationFailed(f"{server}: no quota is left, see its billing", retryable=False)
        if error.status_code in (408, 409, 425, 429) or error.status_code >= 500:
            wait = re.fullmatch(r"\d{1,4}", error.response.headers.get("retry-after", ""))
            return GenerationFailed(
                f"{server}: it is overloaded or failing",
                retry_after=float(wait[0]) if wait else None,
            )
        told = _LONG if _TOO_LONG.search(str(error)) else "check that it serves this model for chat"
        return GenerationFailed(
            f"{server}: {_ADVICE.get(error.status_code, told)}", retryable=False
        )


class _Answer:
    """What the events of one answer have said so far."""

    def __init__(self) -> None:
        self.finish = self.error = ""  # the error is raised after the text before it was passed on
        self.alive = self.begun = self.worded = (
            False  # a sign of life in the last read; one ever; a word of the answer
        )
        self.usage: dict[str, int] = {}
        self._rest = b""

    def take(self, data: bytes) -> str:
        """Read what the network brought and return the text that it adds: the SDK's own reading costs three times the CPU."""
        *events, self._rest = (self._rest + data).replace(b"\r", b"").split(b"\n\n")
        self.alive, text = False, ""
        for event in events:
            said = b"\n".join(
                [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
            )
            if said and said != b"[DONE]" and not self.error:
                try:
                    text += self._read(msgspec.json.decode(said))
                except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, TypeError):
                    self.error = (
                        "the model server sent an event that is no chunk of a chat completion"
                    )
        self.begun, self.worded = self.begun or self.alive, self.worded or bool(text.strip())
        return text

    def _read(self, chunk: dict[str, Any]) -> str:
        if chunk.get("error"):
            self.error = (
                "the model server reported an error in the middle of the answer: see its log"
            )
        if usage := chunk.get("usage"):
            counts = {
                "input_tokens": usage.get("prompt_tokens"),
                "output_tokens": usage.get("completion_tokens"),
            }
            self.usage = {name: count for name, count in counts.items() if isinstance(count, int)}
        text = ""
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            text += delta.get("content") or ""
            self.finish = choice.get("finish_reason") or self.finish
            # Thinking is not part of the answer, but a sign of life. A comment or an empty delta is none.
            signs = (
                delta.get("content"),
                delta.get("reasoning"),
                delta.get("reasoning_content"),
                choice.get("finish_reason"),
            )
            self.alive = self.alive or any(signs)
        return text


OPTIONS = {
    "OPENAI_API_KEY": Option(
        "Key for the OpenAI-compatible server", secret=True, one_of="where it is served"
    ),
    "OPENAI_BASE_URL": Option(
        "URL of the OpenAI-compatible server, up to /v1", one_of="where it is served"
    ),
    "RAGQUEUE_MODEL_CONTINUES": Option(
        "Whether the model can continue a half-written answer (vLLM, llama.cpp, prefill)",
        default=False,
    ),
}


def open(given: Given) -> OpenAIGenerator:
    """Return the generator of a model, named as `openai:NAME` or by NAME alone. Raises ConfigError."""
    return OpenAIGenerator(
        given.name or given.url,
        base_url=given.options["OPENAI_BASE_URL"] or OPENAI_URL,
        api_key=given.options["OPENAI_API_KEY"],
        continues=given.options["RAGQUEUE_MODEL_CONTINUES"],
        max_connections=given.at_once + SPARE_CONNECTIONS,
    )
