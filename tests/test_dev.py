import re
import tomllib
from pathlib import Path

import pytest

import dev

ROOT = Path(__file__).parents[1]
LOCK_LINE = re.compile(r"([a-z0-9-]+)==[^ ]+( ; [^\\]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?")


@pytest.fixture
def installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Move the script to an empty folder, and return the steps of installation it takes there."""
    steps: list[list[str]] = []
    (tmp_path / "requirements.lock").write_text("click==8.5.1\n", encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text("", encoding="utf-8")
    (tmp_path / ".venv").mkdir()
    python = tmp_path / ".venv" / "python"
    python.touch()
    for name, path in (
        ("ROOT", tmp_path),
        ("LOCK", tmp_path / "requirements.lock"),
        ("VENV", python.parent),
        ("PYTHON", python),
    ):
        monkeypatch.setattr(dev, name, path)
    monkeypatch.setattr(dev, "MARKER", python.parent / "marker")
    monkeypatch.setattr(dev, "usable", lambda *, need_pip: True)
    monkeypatch.setattr(dev, "install", lambda command, failure: steps.append(command))
    return steps


def test_a_task_sees_nothing_that_sets_up_ragqueue() -> None:
    shell = {
        "RAGQUEUE_QUEUE": "x",
        "OPENAI_API_KEY": "x",
        "REDIS_URL": "x",
        "Vector_DB_Path": "x",
        "LLM_MODEL": "x",
        "PYTHONPATH": "x",
    }

    env = dev.environment(shell | {"PATH": "/bin", "CI": "true"})

    assert not env.keys() & shell.keys()
    assert (env["PATH"], env["CI"]) == ("/bin", "true")


def test_a_task_reads_no_env_file_and_uses_one_thread() -> None:
    env = dev.environment({"OMP_NUM_THREADS": "8"})

    assert (env["RAGQUEUE_ENV_FILE"], env["OMP_NUM_THREADS"]) == ("", "1")


def test_a_task_keeps_its_data_in_its_own_folder(tmp_path: Path) -> None:
    env = dev.environment({"VECTOR_DB_PATH": "/mine"}, tmp_path)

    assert (env["RAGQUEUE_DATA"], env["VECTOR_DB_PATH"]) == (
        str(tmp_path / "data"),
        str(tmp_path / "vectors"),
    )


def test_an_environment_of_this_lock_is_used_again(installs: list[list[str]]) -> None:
    dev.make_environment()
    installs.clear()

    dev.make_environment()

    assert installs == []


def test_a_changed_lock_is_installed(installs: list[list[str]]) -> None:
    dev.make_environment()
    installs.clear()
    dev.LOCK.write_text("click==8.5.2\n", encoding="utf-8")

    dev.make_environment()

    assert [str(dev.LOCK) in step for step in installs] == [True, False]


def test_a_failed_installation_is_not_taken_for_a_finished_one(
    installs: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    dev.make_environment()
    dev.LOCK.write_text("click==8.5.2\n", encoding="utf-8")

    def fail(command: list[str], failure: str) -> None:
        raise dev.Stop(failure)

    monkeypatch.setattr(dev, "install", fail)

    with pytest.raises(dev.Stop, match="cannot be installed"):
        dev.make_environment()
    assert not dev.MARKER.exists()


def test_line_ends_of_a_checkout_do_not_change_the_environment(installs: list[list[str]]) -> None:
    before = dev.fingerprint()

    dev.LOCK.write_bytes(dev.LOCK.read_bytes().replace(b"\n", b"\r\n"))

    assert dev.fingerprint() == before


def test_a_folder_without_a_python_is_not_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev, "PYTHON", tmp_path / "python")

    assert not dev.usable(need_pip=False)


def test_a_failing_step_shows_what_it_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(dev.Stop, match="no luck"):
        dev.install([dev.sys.executable, "-c", "print('hash mismatch'); exit(1)"], "no luck")

    assert "hash mismatch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dance"], "unknown task 'dance'"),
        (["bench"], "bench what?"),
        (["bench", "x"], "queue, stream"),
    ],
)
def test_a_wrong_word_gets_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = dev.main(words)

    printed = capsys.readouterr().err
    assert status == 2
    assert said in printed
    assert printed.count("\n") == 1


def test_an_old_python_gets_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dev, "OLDEST", (99, 0))

    status = dev.main(["test"])

    assert (status, capsys.readouterr().err.count("newer is needed")) == (2, 1)


def test_a_debian_python_without_ensurepip_gets_the_line_that_mends_it() -> None:
    assert dev.without_ensurepip(True, as_root=True).endswith(": apt-get install python3-venv")


def test_the_lock_has_hashes_and_names_no_host() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()

    assert [line for line in lines if not LOCK_LINE.fullmatch(line)] == []


def test_the_lock_holds_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    locked = re.findall(
        r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE
    )

    names = {re.split(r"[^A-Za-z0-9_.-]", line)[0].lower().replace("_", "-") for line in wanted}

    assert names <= set(locked)
