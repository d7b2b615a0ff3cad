"""Clients that do not belong into trimtab's own environment: OpenAI's npm package and litellm.

`.ci/run` installs them into the folder `clients` of trimtab's cache, or into TRIMTAB_CLIENTS; elsewhere they are
skipped.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from serving import RunningServer, serving
from trimtab.assets.resolve import Assets

SCRIPTS = Path(__file__).parents[1] / "clients"
PLACE = Path(os.environ.get("TRIMTAB_CLIENTS", Assets().cache / "clients"))
PACKAGE, PYTHON = PLACE / "npm", PLACE / "litellm" / "bin" / "python"
MESSAGES = [{"role": "user", "content": "Was it good?"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serving(tmp_path_factory.mktemp("models")) as running:
        yield running


def found_by(command: Sequence[str | Path]) -> dict[str, object]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the network first
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def check(found: dict[str, object], server: RunningServer) -> None:
    guided = server.guided("cbs-2-3-4", seed=5, max_new_tokens=12)
    (hypotheses,) = guided.hypotheses([MESSAGES])
    assert found["chat"] == found["streamed"] == hypotheses[0].text
    assert found["usage"] == len(hypotheses[0].token_ids)
    assert found["completion"] == guided.generate("I really")
    assert found["refused"] == [400, "response_format"]


@pytest.mark.skipif(not (PACKAGE / "node_modules" / "openai").is_dir() or shutil.which("node") is None, reason="no npm")
def test_openais_npm_package(server: RunningServer) -> None:
    found = found_by(["node", SCRIPTS / "openai_client.mjs", server.url, PACKAGE])
    check(found, server)
    assert found["models"] == server.service.names.listed()
    assert found["seed"] == 5


@pytest.mark.skipif(not PYTHON.exists(), reason="no litellm")
def test_litellm(server: RunningServer) -> None:
    check(found_by([PYTHON, SCRIPTS / "litellm_client.py", server.url]), server)
