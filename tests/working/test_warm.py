"""A worker process has loaded what its first question would wait for."""

import sys
from pathlib import Path

import pytest

from campaigns.house import bench


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process has loaded")
def test_a_worker_that_beats_has_loaded_the_libraries_of_its_first_question() -> None:
    with bench({"RAGQUEUE_QUEUE": "sql"}) as house:
        house.serve()
        worker = house.work(1)

        loaded = Path(f"/proc/{worker}/maps").read_text()

    assert {name for name in ("faiss", "onnxruntime", "tokenizers") if name not in loaded} == set()
