"""Where a model is served: what a base URL says, in the parts that the SDK wants apart."""

from base64 import b64encode
from typing import NamedTuple, Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

from ragqueue.errors import ConfigError, without_password


class Place(NamedTuple):
    """Where a model is served, in the parts that the SDK wants apart."""

    url: str
    headers: dict[str, str]
    query: dict[str, object]

    @classmethod
    def of(cls, base_url: str) -> Self:
        """Return the parts of a URL. Raises ConfigError.

        User and password become basic authentication, as curl does it.
        """
        try:
            parts = urlsplit(base_url)
            server = _server_of(parts)
        except ValueError:
            # Its text may quote a password.
            server = ""
        if not server or parts.scheme not in ("http", "https"):
            raise ConfigError(
                f"OPENAI_BASE_URL is {without_password(base_url)!r}: "
                "it must look like http://host:port/v1 or https://host/v1, "
                "with user:password@ before the host where it asks for them"
            )
        return cls(
            url=urlunsplit((parts.scheme, server, parts.path, "", "")),
            headers=_authorization_of(parts),
            query=dict(parse_qsl(parts.query, keep_blank_values=True)),
        )


def _server_of(parts: SplitResult) -> str:
    """Return the `host:port` of a URL, nothing when it has no host. Raises ValueError."""
    host = parts.hostname
    port = parts.port
    if host is None:
        return ""
    if ":" in host:
        host = f"[{host}]"
    if port is None:
        return host
    return f"{host}:{port}"


def _authorization_of(parts: SplitResult) -> dict[str, str]:
    """Return the header for the user and password of a URL, none when it has no user."""
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
