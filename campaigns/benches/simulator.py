"""The OpenAI-compatible server that the streams of the benches come from."""

import subprocess
import sys
from contextlib import ExitStack

from campaigns.house import clean_environment

SPREAD = 4.0  # seconds over which the streams begin


def simulator(stack: ExitStack, rate: int, tokens: int) -> str:
    """Start the OpenAI-compatible server and return its URL."""
    options = f"rate={rate}&tokens={tokens}&stamp=1"
    command = [sys.executable, "-m", "ragqueue.testing.openai_server", options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=clean_environment())
    stack.callback(process.wait)
    stack.callback(process.terminate)
    assert process.stdout is not None
    return process.stdout.readline().split()[-1].strip()
