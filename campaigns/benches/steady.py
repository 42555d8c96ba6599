"""What a token costs while all streams run and nobody asks or leaves.

Taken over a whole run, what a question costs (retrieval, the job's rows) would be counted with
the tokens, and a plain server that retrieves nothing could not be compared.
"""

import asyncio
from collections.abc import Callable, Mapping

from campaigns.house import cpu_seconds

SHARE = 0.4  # of a run's seconds


async def us_per_token(
    processes: Mapping[str, int], tokens: Callable[[], int], seconds: float
) -> dict[str, float]:
    """Watch for so many seconds; return CPU (us) a token of each process (name -> pid).

    `tokens` says how many have come so far.
    """
    first = tokens()
    before = {name: cpu_seconds(pid) for name, pid in processes.items()}
    await asyncio.sleep(seconds)
    used = {name: cpu_seconds(pid) - before[name] for name, pid in processes.items()}
    came = max(1, tokens() - first)
    return {name: round(cpu / came * 1e6, 1) for name, cpu in used.items()}
