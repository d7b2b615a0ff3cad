"""`trimtab init`: writes a commented experiment for one's own prompts, reward and models.

$ trimtab init my-questions.yaml --prompts questions.csv --column question --reward my_reward.py:score
"""

import functools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pydantic
from tyro.conf import Positional, arg

from trimtab.cli.options import PathMap
from trimtab.config.faults import faults_in
from trimtab.config.fields import CHAT
from trimtab.config.file import parse_experiment
from trimtab.config.reward import RewardConfig
from trimtab.config.yaml_values import parse_yaml
from trimtab.errors import AssetError, ConfigurationError, DataError, ModelError

if TYPE_CHECKING:
    from trimtab.assets.resolve import Assets
    from trimtab.records import Prompt

SCHEMA = Path(__file__).parents[1] / "config" / "experiment.schema.json"
TEMPLATE = Path(__file__).with_name("experiment.yaml.j2")
SMALL = "HuggingFaceTB/SmolLM2-135M-Instruct"
REWARD = "trimtab.rewards.concise:concise"
MAX_TEST, MAX_VALIDATION, MAX_TUNING = 64, 16, 128
FEWEST_PROMPTS = 20
"""From how many test prompts on the report gives a verdict: its `MIN_PROMPTS`, which takes long to import."""
_CHAT_NAME = re.compile(r"instruct|chat|(?<![a-z])it(?![a-z])", re.IGNORECASE)
_PLAIN_TEXT = re.compile(r"[A-Za-z0-9./_][\w./:@+-]*")


def schema() -> None:
    """Print the path of the JSON schema of experiment files, for an editor."""
    print(SCHEMA)


def init(
    file: Annotated[Path, Positional, arg(metavar="[FILE]")] = Path("experiment.yaml"),
    prompts: str = "trimtab/instructions",
    column: str | None = None,
    reward: Annotated[str, arg(metavar="FILE.PY:FUNCTION|MODEL|ADDRESS")] = REWARD,
    small: str = SMALL,
    large: str | None = None,
    path_map: PathMap = None,
) -> None:
    """Write a commented experiment for your own prompts, reward and models, which runs as it is. Overwrites nothing.

    Args:
        file: The new experiment file; the experiment is named after it.
        prompts: A CSV, JSON lines, JSON, Parquet or text file, a folder of such files, or a data set's name.
        column: The column of the prompts, texts or lists of messages; without it the usual names are looked for.
        reward: What an answer is worth: a Python function, a classifier or reward model, or a service.
        small: The model that is tuned, and then steers.
        large: The model that is steered; without it the small one as it is before tuning.
    """
    file = file if file.suffix else file.with_suffix(".yaml")
    if file.exists():
        raise ConfigurationError(f"{file} exists: give the name of a new file")
    if not file.parent.is_dir():
        raise ConfigurationError(f"{file} cannot be written, there is no folder {file.parent}: create it")
    from trimtab.assets.catalog import find
    from trimtab.assets.resolve import Assets
    from trimtab.store.files import write_text

    assets = Assets(path_map=path_map)
    text = experiment_text(file, prompts, column, reward, small, small if large is None else large, assets)
    parse_experiment(parse_yaml(text), origin=str(file))
    write_text(file, [text])
    for name in dict.fromkeys((small, large or small)):
        if find(name) is None and _tokenizer_folder(name, assets) is None:
            print(f"not checked: {name} has no tokenizer that can be read here, so that its template is a guess")
    print(f"{file} is written. Next:\n  trimtab check {file}\n  trimtab run {file}")


def experiment_text(
    file: Path, prompts: str, column: str | None, reward: str, small: str, large: str, assets: "Assets"
) -> str:
    """The experiment file, its comments included.

    Raises:
        TrimtabError: the prompts cannot be read, are too few, or lack the column; the reward is none; or prompts are
            conversations and a model has no chat template.
    """
    import jinja2

    found = read_prompts(prompts, column, assets)
    templates = {name: template_of(name, assets) for name in (small, large)}
    plain = [name for name, template in templates.items() if template != CHAT]
    if plain and not isinstance(found[0].text, str):
        raise ModelError(
            f"{prompts} holds conversations and {plain[0]} has no chat template: name a model that has one"
        )
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["yaml"] = _yaml
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        file=file,
        name=re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("-._") or "experiment",
        schema=SCHEMA,
        small=small,
        large=large,
        small_template=templates[small],
        large_template=templates[large],
        prompts=prompts,
        column=column,
        count=len(found),
        **split(len(found)),
        reward=reward,
        starter_reward=REWARD,
        **reward_facts(reward, assets),
    )


def read_prompts(prompts: str, column: str | None, assets: "Assets") -> "list[Prompt]":
    """The different prompts, at least three: one to tune, one to validate and one to test on.

    Raises:
        AssetError, DataError: there are none, or a row lacks the column.
    """
    from trimtab.config.data import ColumnsConfig, InstructionsConfig
    from trimtab.data.instructions import load_instructions

    named = {} if column is None else {"columns": ColumnsConfig(prompt=column)}
    try:
        found = load_instructions(InstructionsConfig(name=prompts, **named), assets)
    except DataError as error:  # which names fields of an experiment, and there is none yet
        message = str(error).replace("mend data.instructions.columns", "give one of them as --column")
        raise DataError(message.replace("name it in columns.prompt", "name it as --column")) from None
    if len(found) < 3:
        noun = "prompt" if len(found) == 1 else "prompts"
        raise DataError(f"{prompts} holds {len(found)} different {noun}: give at least 3, and better 100")
    return found


def split(count: int) -> dict[str, int]:
    """How many of so many prompts are for what: a third to test on, up to `MAX_TEST`, most others to tune on.

    Where half of them suffice for a verdict, no fewer than it takes are for testing.

    >>> split(192), split(40), split(3)
    ({'test': 64, 'validation': 16, 'tuning': 112}, {'test': 20, 'validation': 3, 'tuning': 17}, \
{'test': 1, 'validation': 1, 'tuning': 1})
    """
    least = FEWEST_PROMPTS if count >= 2 * FEWEST_PROMPTS else 1
    test = min(max(count // 3, least), MAX_TEST)
    validation = min(max(count // 12, 1), MAX_VALIDATION)
    return {"test": test, "validation": validation, "tuning": min(count - test - validation, MAX_TUNING)}


def template_of(model: str, assets: "Assets") -> str:
    """`chat` where the model's tokenizer has a chat template, or where only its name is to be had and says so."""
    folder = _tokenizer_folder(model, assets)
    if folder is None:
        return CHAT if _CHAT_NAME.search(model) else "{prompt}"
    if (folder / "chat_template.jinja").is_file():
        return CHAT
    return CHAT if _read_json(folder / "tokenizer_config.json").get("chat_template") else "{prompt}"


def reward_facts(reward: str, assets: "Assets") -> dict[str, Any]:
    """What kind of reward this is, and the positive label of a classifier.

    Raises:
        ConfigurationError: it names a file without a function, no function, or one of other arguments.
        ModelError: it is a model that classifies nothing.
    """
    try:
        config = RewardConfig.model_validate(reward)
    except pydantic.ValidationError as error:
        raise ConfigurationError("; ".join(faults_in(error, RewardConfig, "--reward"))) from None
    if config.function is not None:
        from trimtab.plugins.user_functions import named_function
        from trimtab.rewards.function import FunctionReward

        FunctionReward(named_function(config.function), config.function)
        return {"kind": "function"}
    if config.address is not None:
        return {"kind": "service"}
    folder = _tokenizer_folder(reward, assets)
    facts = {} if folder is None else _read_json(folder / "config.json")
    if folder is not None and not str(facts.get("architectures")).count("ForSequenceClassification"):
        raise ModelError(
            f"--reward: {reward} is no classifier or reward model: name one, or a function as my_reward.py:score"
        )
    labels = [str(label) for label in dict(facts.get("id2label") or {"0": 0, "1": 1}).values()]
    positive = next((label for label in labels if "pos" in label.lower()), 1)
    return {"kind": "scalar" if len(labels) == 1 else "classifier", "positive_label": positive}


@functools.cache  # the hub is asked once
def _tokenizer_folder(model: str, assets: "Assets") -> Path | None:
    """The folder of a model's tokenizer and configuration; None where it cannot be had without the weights."""
    from trimtab.assets.catalog import find

    try:
        return assets.tokenizer(model)
    except AssetError:
        entry = find(model)
        return None if entry is None else assets.present(entry)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # a tokenizer without it
        return {}


def _yaml(value: object) -> str:
    """A text on one line of YAML, in quotation marks where it would be read as something else."""
    plain = isinstance(value, str) and _PLAIN_TEXT.fullmatch(value) and parse_yaml(f"[{value}]") == [value]
    return str(value) if plain else json.dumps(value, ensure_ascii=False)
