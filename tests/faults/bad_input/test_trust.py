"""What others wrote runs nothing: no pickle is opened, nothing leaves the cache, and the report shows text as text."""

import ast
import html.parser
import io
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import rich.console

import trimtab
from bad_input.world import World, command
from trimtab import cli
from trimtab.assets.catalog import CATALOG
from trimtab.assets.resolve import Assets
from trimtab.config.experiment import Experiment
from trimtab.evaluation.evaluate import Cost, Row, model_names, summarise
from trimtab.evaluation.scoring import score_decoder
from trimtab.records import Generation
from trimtab.report.page import write_report
from trimtab.report.tables import terminal_table

HOSTILE = [
    "<script>alert(1)</script>",
    'text"}]</script><script>alert(2)</script>',
    "<!-- --> <img src=x onerror=alert(3)> &lt;b&gt; &amp;amp;",
    "{{ 7 * 7 }} {% raw %} ${7*7}",
    "\u202eright to left\u202c \x1b[31mred\x1b[0m \x00 \u2028",
]
NAME = "a/$x$_<script>alert(4)</script>[red][/nope]\x1b[31m|b"


class Page(html.parser.HTMLParser):
    """The scripts, event attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.scripts: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self._inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self._inside = tag == "script"
        self.scripts += [""] if self._inside else []

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[-1] += data
        else:
            self.text += data


def reported(folder: Path, texts: list[str], name: str) -> tuple[Experiment, list[Row], str]:
    """The page of a run whose large model has this name and wrote these texts to prompts of the same kind."""
    experiment = Experiment.model_validate(
        {"name": "demo", "large": {"name": name}, "guide": {"decoders": [{}, {"successors": 2}]},
         "evaluate": {"bootstrap": 100, "examples": len(texts)}}
    )  # fmt: skip
    generations = {
        decoder.name: [Generation(f"p{n}", text, 0, [1], [2], text, "length") for n, text in enumerate(texts)]
        for decoder in experiment.guide.decoders
    }
    gold = trimtab.FunctionReward(lambda some: [float(len(text)) for text in some])
    scores = {
        decoder: score_decoder(decoder, each, gold, gold, lambda some: ([-1.0] * len(some), [1] * len(some)))
        for decoder, each in generations.items()
    }
    costs = {decoder: Cost(1e9, 1.0) for decoder in scores}
    settings = experiment.guide, experiment.evaluate, experiment.seed, model_names(experiment.small, experiment.base)
    rows = summarise(*settings, scores, generations, lambda text: list(text.encode()), costs)
    folder.mkdir()
    page = write_report(folder, experiment, rows, scores, generations, {"data": 1.0}, {"note": texts[0]})
    return experiment, rows, page.read_text(encoding="utf-8")


def test_the_page_shows_what_a_model_wrote_and_runs_none_of_it(tmp_path: Path) -> None:
    tame = Page(reported(tmp_path / "tame", ["a"] * len(HOSTILE), "a/b")[2])
    wild = Page(reported(tmp_path / "wild", HOSTILE, NAME)[2])
    assert len(wild.scripts) == len(tame.scripts) and wild.handlers == tame.handlers
    assert not [script for script in wild.scripts if "alert" in script and "alert" not in "".join(tame.scripts)]
    for text in HOSTILE[:4]:
        assert wild.text.count(" ".join(text.split())) >= 2, text  # as prompt, and as answer
    table = (tmp_path / "wild" / "table.md").read_text(encoding="utf-8")
    assert "<script>" not in table and "\x1b" not in table


def test_the_terminal_shows_names_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment, rows, _ = reported(tmp_path / "report", HOSTILE, NAME)
    file = io.StringIO()
    rich.console.Console(file=file, width=200, force_terminal=True, color_system="truecolor").print(
        terminal_table(rows)
    )
    assert "[red][/nope]\\x1b[31m" in file.getvalue() and "\x1b[31m" not in file.getvalue()
    folder = tmp_path / "[bold]folder[/x]"
    cli._print_report(SimpleNamespace(experiment=experiment, report=rows, set_aside=[], path=folder))
    printed = capsys.readouterr().out
    assert "[red][/nope]" in printed and "[bold]folder[/x]" in printed and "\x1b[31m" not in printed


def test_folders_with_brackets_in_their_names_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "[red]models[/x]").mkdir(parents=True)
    (tmp_path / "paths.yaml").write_text("imdb: '[red]models[/x]'\n")
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr("sys.argv", ["trimtab", "assets", "--path-map", str(tmp_path / "paths.yaml")])
    cli.main()
    assert "[red]models[/x]" in capsys.readouterr().out


class Spy:
    """A pickle that leaves a file where it is opened."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, ("ran", "w")


@pytest.mark.parametrize("name", ["train.pkl", "train.pickle", "train.pt", "train.npy", "train.csv", "train.parquet"])
def test_a_pickle_in_the_place_of_data_is_not_opened(world: World, name: str) -> None:
    for split in ("train", "validation"):
        world.write(f"pairs/{name.replace('train', split)}", pickle.dumps(Spy()))
    assert command(world, "pairs", f"data.preferences={world.bad / 'pairs'}").code == 2
    assert command(world, "data", f"data.reviews={world.bad / 'pairs'}").code == 2
    assert not Path("ran").exists()


def test_no_module_opens_pickles() -> None:
    """Nothing imports pickle (but the name of its error) or calls a reader that would open one."""
    for file in Path(trimtab.__file__).parent.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        taken = {
            (node.module, alias.name)
            for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
        }  # fmt: skip
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        words = {
            (key.arg, ast.unparse(key.value))
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            for key in node.keywords
        }
        assert not imported & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}, file
        assert not {name for module, name in taken if module == "pickle"} - {"UnpicklingError"}, file
        assert not calls & {"pandas.read_pickle", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"}, file
        loads = [
            {(key.arg, ast.unparse(key.value)) for key in node.keywords}
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
        ]
        assert all(("weights_only", "True") in keywords for keywords in loads), file
        assert not words & {("allow_pickle", "True"), ("trust_remote_code", "True"), ("weights_only", "False")}, file


def test_the_catalogue_names_files_in_their_folder() -> None:
    for entry in CATALOG.values():
        for file in entry.files:
            assert Path(file.name).name == file.name and file.name not in (".", "..")


def test_which_of_two_places_is_taken_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder named like a data set of the catalogue shadows it; the path map shadows both."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imdb").mkdir()
    (tmp_path / "other").mkdir()
    local, mapped = Assets(cache=tmp_path / "cache"), Assets(cache=tmp_path / "cache")
    mapped._paths["imdb"] = tmp_path / "other"
    assert [local.dataset("imdb") for _ in range(2)] == [Path("imdb")] * 2
    assert caplog.messages == ["imdb: the local path is taken, not what `trimtab assets` lists; rename it to have that"]
    caplog.clear()
    assert mapped.dataset("imdb") == tmp_path / "other"
    assert caplog.messages == [f"imdb: the path map's {tmp_path / 'other'} is taken, not the local path of that name"]
