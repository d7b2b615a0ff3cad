"""The notebook is kept without outputs, and its cells run one after the other, on tiny models under the real names."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from links import broken_links
from small_run import SETTINGS
from tiny_hub import tiny_hub

ROOT = Path(__file__).parents[2]
FILE = ROOT / "examples/quickstart.ipynb"


def test_it_is_kept_without_outputs() -> None:
    notebook = nbformat.read(FILE, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells and all(cell.outputs == [] and cell.execution_count is None for cell in cells)


def test_its_cells_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TRIMTAB_PATH_MAP", str(tiny_hub(tmp_path / "hub")))
    (tmp_path / "examples").mkdir()
    (tmp_path / "experiments").symlink_to(ROOT / "experiments", target_is_directory=True)
    notebook = nbformat.read(FILE, as_version=4)
    (cell,) = [cell for cell in notebook.cells if "settings = [" in cell.source]
    cell.source = cell.source.replace('["seed=1"]', repr(SETTINGS))
    assert repr(SETTINGS) in cell.source
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path / "examples")}}).execute()
    printed = ["".join(output.get("text", "") for output in cell.get("outputs", [])) for cell in notebook.cells]
    assert "short words\n    This film" in printed[2] and "nats  '" in printed[10] and printed[12].strip()
    shown = "".join(output["data"]["text/plain"] for output in notebook.cells[4].outputs if "data" in output)
    assert "cbs-2-2-3" in shown
    assert (tmp_path / "examples" / printed[6].strip()).is_file()


def test_its_links_lead_somewhere() -> None:
    texts = [cell.source for cell in nbformat.read(FILE, as_version=4).cells if cell.cell_type == "markdown"]
    assert broken_links("\n".join(texts), FILE.parent) == []
