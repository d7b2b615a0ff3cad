"""Ctrl-C and SIGTERM where a library turns what they raise into an error of its own."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel, model_serializer
from tokenizers import Tokenizer, models, pre_tokenizers

from trimtab import cli
from trimtab.assets.resolve import Assets
from trimtab.errors import RunError
from trimtab.executors.work import Setup
from trimtab.executors.workers import InProcess
from trimtab.store.log import recording
from trimtab.store.progress import Watch
from trimtab.store.status import read_statuses
from trimtab.store.stopping import Terminated, stopping

Interrupt = Callable[[], None]


def serialize(interrupt: Interrupt) -> None:
    """pydantic raises an error of its own in the place of any exception in a serializer."""

    class Model(BaseModel):
        @model_serializer
        def write(self) -> dict[str, int]:
            interrupt()
            return {}

    Model().model_dump()


def name_in_class(interrupt: Interrupt) -> None:
    """Python 3.11 raises a RuntimeError in the place of any exception in `__set_name__`, as of a dataclass's fields."""

    class Field:
        def __set_name__(self, owner: type, name: str) -> None:
            interrupt()

    type("Owner", (), {"field": Field()})


def tokenize(interrupt: Interrupt) -> None:
    """tokenizers raises a plain Exception in the place of any exception in a user's part, and drops that."""

    class Splits:
        def pre_tokenize(self, text: object) -> None:
            interrupt()

    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Splits())
    tokenizer.encode("a")


def explain(interrupt: Interrupt) -> None:
    """trimtab's own code makes a line of a library's error."""
    try:
        serialize(interrupt)
    except ValueError:
        raise RunError("the folder holds no tokenizer") from None


CHAINED = [serialize, name_in_class, explain]


def interrupted() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("library", CHAINED)
def test_the_library_hides_the_signal(library: Callable[[Interrupt], None]) -> None:
    """Without this the other tests would show nothing."""
    with pytest.raises(Exception, match=r".") as raised:
        library(interrupted)
    assert not isinstance(raised.value, KeyboardInterrupt)


@pytest.mark.parametrize("library", CHAINED)
def test_what_came_of_a_signal_stops_as_the_signal(library: Callable[[Interrupt], None]) -> None:
    def terminated() -> None:
        raise Terminated

    with pytest.raises(Terminated), stopping():
        library(terminated)


def test_other_errors_stay() -> None:
    with pytest.raises(RunError, match="full"), stopping():
        raise RunError("the disk is full")


def explained() -> None:
    raise RunError("the disk is full")


def of_itself() -> None:
    error = ValueError("full")
    raise error from error


def of_its_cause() -> None:
    try:
        raise RunError("late") from ValueError("full")
    except RunError as error:
        assert error.__cause__ is not None
        raise error.__cause__  # noqa: B904 (as openai's client does it)


def of_its_cause_alone() -> None:
    try:
        raise RunError("late") from ValueError("full")
    except RunError as error:
        assert error.__cause__ is not None
        raise error.__cause__ from None


@pytest.mark.parametrize("raising", [of_itself, of_its_cause, of_its_cause_alone])
def test_a_chain_that_leads_back_to_itself_has_an_end(raising: Callable[[], None]) -> None:
    """Ray and openai's client raise such ones."""
    signal.alarm(20)
    try:
        with pytest.raises(ValueError, match="full"), stopping():
            raising()
    finally:
        signal.alarm(0)


def test_an_interrupt_that_was_there_before_is_no_stop() -> None:
    """As in a notebook whose cell tries once more after Ctrl-C."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        with pytest.raises(RunError, match="full"), stopping():
            explained()


@pytest.mark.parametrize("library", CHAINED)
def test_a_signal_ends_all_work_of_the_process_and_not_one_step(
    library: Callable[[Interrupt], None], tmp_path: Path
) -> None:
    begun: list[str] = []
    workers = InProcess(Setup(tmp_path, Assets()))
    workers.submit(library, interrupted)
    workers.submit(begun.append, "the next step")
    with pytest.raises(KeyboardInterrupt):
        workers.work()
    assert begun == []


@pytest.mark.parametrize("library", CHAINED)
def test_the_status_says_that_the_run_was_stopped(library: Callable[[Interrupt], None], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), recording(tmp_path, Watch(), previous=None):
        library(interrupted)
    (status,) = read_statuses(tmp_path)
    assert status.end == "stopped by Ctrl-C"


@pytest.mark.parametrize("library", [*CHAINED, tokenize])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_ends_in_the_line_that_says_how_to_go_on(
    library: Callable[[Interrupt], None],
    number: signal.Signals,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["trimtab", "run", "quickstart"])
    monkeypatch.setattr(
        "trimtab.cli.options.load_experiment", lambda *_, **__: library(lambda: os.kill(os.getpid(), number))
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    assert capsys.readouterr().err == "trimtab: stopped; to resume: trimtab run quickstart\n"
