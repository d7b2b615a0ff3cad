"""docs/serving.md: its commands are parsed by the real command line, its file is sound, its Python runs against a real
server, and its tables hold every option, route and setting."""

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from serving import RunningServer, serving
from trimtab import cli
from trimtab.config.file import parse_experiment
from trimtab.serve.options import ServeOptions
from trimtab.serve.search_settings import CLIENT_SETTINGS, FLAGS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> RunningServer:
    with serving(tmp_path_factory.mktemp("models")) as running:
        yield running


def test_commands_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[ServeOptions] = []
    monkeypatch.setattr("trimtab.serve.command.run_command", served.append)
    lines = [line for block in blocks("bash") for line in block.replace("\\\n", "").splitlines()]
    for line in lines:
        words = shlex.split(line.removeprefix("OMP_NUM_THREADS=1 ").rstrip("&"), comments=True)
        if words[:2] == ["trimtab", "serve"]:
            monkeypatch.setattr("sys.argv", words)
            cli.main()
    assert [options.port for options in served] == [8000, 8000, 8000, 8001, 8002]
    assert served[2].large and served[2].tuned and served[2].untuned


def test_the_file_is_sound() -> None:
    (block,) = blocks("yaml")
    assert parse_experiment(yaml.safe_load(block), origin="serving.md").guide.decoders[0].name == "careful"


def test_the_python_runs(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks("python")
    exec(block.replace("http://127.0.0.1:8000/v1", server.url), {})
    assert "cbs-2-3-4-by-implicit-per-token" in capsys.readouterr().out


def test_the_page_names_every_option_route_setting_and_code(server: RunningServer) -> None:
    for option in fields(ServeOptions):
        flag = f"--{option.name.replace('_', '-')}"
        assert flag in PAGE or option.name in ("source", "template", "runs", "path_map"), flag
    for route in server.get("/openapi.json").json()["paths"]:
        assert route.replace("{model}", "NAME") in PAGE, route
    for name in (*CLIENT_SETTINGS, *FLAGS):
        assert re.search(rf"[`\"]{name}[`\"]", PAGE), name
    for file in ("trimtab.service", "Dockerfile", "nginx.conf", "ray_serve.py"):
        assert (ROOT / "examples/serving" / file).is_file()


def test_the_units_drain_is_shorter_than_systemds_patience() -> None:
    unit = (ROOT / "examples/serving/trimtab.service").read_text()
    drain, stop = re.search(r"--drain-seconds (\d+)", unit), re.search(r"TimeoutStopSec=(\d+)", unit)
    assert drain and stop and int(drain[1]) < int(stop[1])
    command = re.search(r"ExecStart=\S+/trimtab (serve .*)", unit)
    assert command and {"--api-key-variable", "--port"} <= {*command[1].split()}
