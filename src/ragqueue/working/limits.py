"""The limits that the system puts on this process."""

import sys

if sys.platform != "win32":
    import resource

WANTED = 65_536  # open files: a stream, a connection to a model, each is one
FALLBACK = 10_240  # what macOS allows where its hard limit says "no limit"
WINDOWS = 8_192  # sockets are no files there, and nothing bounds them as low as this


def open_files() -> int:
    """Return how many files this process may have open."""
    if sys.platform == "win32":
        return WINDOWS
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return WANTED if soft == resource.RLIM_INFINITY else soft


def raise_open_files() -> int:
    """Raise the soft limit of open files as far as the hard one lets us, and return it."""
    if sys.platform == "win32":
        return WINDOWS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    for limit in (most, FALLBACK):
        if soft != resource.RLIM_INFINITY and soft < limit:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                break
            except (ValueError, OSError):
                continue
    return open_files()
