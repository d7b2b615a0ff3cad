"""Writes docs/reference.md and the JSON schema of experiment files, both from the configuration's own classes.

A field's meaning is the string below it in the class, its example that of `Field(examples=[...])`. A field without one
of them is an error.

    $ python docs/write_reference.py            # or: make reference
"""

import ast
import inspect
import json
import re
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from trimtab.config import fields
from trimtab.config.experiment import Experiment
from trimtab.config.faults import part_in
from trimtab.config.models import Config
from trimtab.config.reward import JudgeConfig
from trimtab.plugins.registry import registry
from trimtab.study.study_file import StudyConfig

ROOT = Path(__file__).parents[1]
PAGE, SCHEMA = ROOT / "docs" / "reference.md", ROOT / "src" / "trimtab" / "config" / "experiment.schema.json"
REGISTERED = {
    fields.Loss: "loss",
    fields.Strategy: "strategy",
    fields.RewardKind: "reward kind",
}
NAMES = {JudgeConfig: ["sentiment"]}
"""Parts that are given by one of these names, too."""
PAIR = {
    "type": "string",
    "description": "The name of a pair that `trimtab guides` lists; it sets `small` and `guide.tuned`.",
    "examples": ["zephyr"],
    "title": "Pair",
}
"""A field of `guide` in files alone: reading replaces it by its models."""
INTRODUCTION = """# Reference of all fields

*Written by `make reference` from the configuration itself; a test compares.*

An experiment file is YAML. Each table below is one part: its fields with type, default, meaning and an example.
A field that is left out has its default; `name` alone is needed. `--set tune.beta=0.2
guide.decoders.0.chunk=10` changes fields from the command line. `trimtab init` writes a file to start from
([own-data.md](own-data.md)), and `trimtab check FILE` names every fault in one.

**In an editor** a JSON schema completes, explains and checks fields while a file is written. `trimtab schema`
prints where the schema lies. The first line of a file names it for every editor with the YAML language server
(VS Code with the extension *YAML*, Neovim, Emacs, Helix, Zed), and `trimtab init` writes this line:

    # yaml-language-server: $schema=PATH

PyCharm takes the path under *JSON Schema Mappings*. In VS Code, `"yaml.schemas": {"PATH":
"experiments/*.yaml"}` in the settings covers a folder.
"""


def descriptions(part: type[Config]) -> dict[str, str]:
    """The meaning of each field: the string below it, in the class or in the one that it inherits the field from."""
    found: dict[str, str] = {}
    for owner in reversed(part.__mro__):
        if issubclass(owner, Config) and owner is not Config:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
            assert isinstance(tree, ast.ClassDef)
            for before, node in zip(tree.body, tree.body[1:], strict=False):
                match before, node:
                    case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                        found[name] = " ".join(text.split())
    for name, field in part.model_fields.items():
        if not found.get(name):
            raise SystemExit(f"{part.__name__}.{name} has no description: write one as a string below the field")
        if field.examples is None and part_in(field.annotation) is None:
            raise SystemExit(f"{part.__name__}.{name} has no example: give it by Field(examples=[...])")
    return found


def parts(whole: type[Config]) -> dict[type[Config], list[str]]:
    """Every part of a configuration, in order, with the paths at which it stands."""
    found: dict[type[Config], list[str]] = {}

    def visit(part: type[Config], path: str) -> None:
        found.setdefault(part, []).append(path)
        for name, field in part.model_fields.items():
            inner, several = part_in(field.annotation), "tuple" in str(field.annotation)
            if inner is not None:
                visit(inner, f"{path}.{name}".lstrip(".") + ("[]" if several else ""))

    visit(whole, "")
    return found


def schema() -> dict[str, Any]:
    """The JSON schema of experiment and study files."""
    made = Experiment.model_json_schema(ref_template="#/$defs/{model}")
    definitions = made.pop("$defs")
    definitions |= {"Experiment": made, "StudyConfig": StudyConfig.model_json_schema()}
    for part in [*parts(Experiment), StudyConfig]:
        values, meanings = definitions[part.__name__], descriptions(part)
        for name, meaning in meanings.items():
            values["properties"][name]["description"] = meaning
        for name, noun in registered(part):
            # names in an `anyOf` are offered by editors, and a plug-in's name is no fault
            del values["properties"][name]["type"]
            names = [entry.name for entry in registry(noun).values() if entry.name not in ("function", "service")]
            values["properties"][name]["anyOf"] = [{"enum": names}, {"type": "string"}]
        if part.shorthand or part in NAMES:
            text = {"enum": NAMES[part]} if part in NAMES else {"type": "string"}
            definitions[part.__name__] = {"anyOf": [text, values], "description": values["description"]}
    definitions["GuideConfig"]["properties"]["pair"] = PAIR
    del definitions["ModelConfig"]["anyOf"][1]["required"]  # `guide.tuned` may be an adapter alone
    del definitions["DecoderConfig"]["properties"]["name"]["default"]  # the name is made of the settings
    definitions["Experiment"]["properties"]["judge"]["anyOf"].append({"enum": ["sentiment"]})  # a judge by its name
    del definitions["Experiment"]["required"]  # an experiment within a study has the study's name
    definitions["StudyConfig"]["properties"]["experiment"]["anyOf"][1] = {"$ref": "#/$defs/Experiment"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",  # the newest that all editors know
        "title": "trimtab experiment or study",
        "if": {"required": ["experiment"]},
        "then": {"$ref": "#/$defs/StudyConfig"},
        "else": {"allOf": [{"$ref": "#/$defs/Experiment"}, {"required": ["name"]}]},
        "$defs": definitions,
    }


def registered(part: type[Config]) -> Iterator[tuple[str, str]]:
    """The fields that hold a name in a registry, and the noun of that registry."""
    for name, field in part.model_fields.items():
        for kind, noun in REGISTERED.items():
            if typing.get_args(kind)[1] in field.metadata:
                yield name, noun


def page(definitions: dict[str, Any]) -> str:
    """The page: a section with a table for each part."""
    sections = [INTRODUCTION]
    for part, paths in {**parts(Experiment), StudyConfig: ["study"]}.items():
        values = definitions[part.__name__]
        values = values["anyOf"][1] if "anyOf" in values else values
        about = " ".join((inspect.getdoc(part) or "").split())
        where = f"`{'`, `'.join(paths)}`: " if paths not in ([""], ["study"]) else ""
        lines = [f"\n## {heading(part)}\n", f"{where}{linked(about)}\n"]
        lines += ["| field | type | default | meaning | example |", "|---|---|---|---|---|"]
        needed = [name for name, field in part.model_fields.items() if field.is_required()]
        for name, facts in values["properties"].items():
            default = "needed" if name in needed else default_of(part.model_fields.get(name))
            cells = [f"`{name}`", type_of(facts), default, facts["description"], example_of(name, facts)]
            lines.append("| " + " | ".join(re.sub(r"(?<!\\)\|", r"\|", cell) for cell in cells) + " |")
        sections.append("\n".join(lines) + "\n")
    return "".join(sections)


def heading(part: type[Config]) -> str:
    """A part's title, such as `Reward training` for RewardTrainingConfig."""
    name = part.__name__.removesuffix("Config")
    return " ".join(re.findall(r"[A-Z][a-z]*", name)).capitalize().replace("Lora", "LoRA").replace("Sft", "SFT")


def linked(text: str) -> str:
    """The text with links to the pages that it names."""
    return re.sub(r"docs/([\w-]+\.md)", r"[\1](\1)", text)


def type_of(facts: dict[str, Any]) -> str:
    """A field's type in words, such as `whole number, at least 1, or null`."""
    if "anyOf" in facts:
        kinds = [type_of(kind) for kind in facts["anyOf"]]
        if kinds[0].startswith("one of") and kinds[1] == "text":
            return f"{kinds[0]}, or a plug-in's"
        return " or ".join(dict.fromkeys(kinds)) if len(kinds[0].split()) == 1 else ", or ".join(kinds)
    if "$ref" in facts:
        name = re.sub(r"Config$", "", facts["$ref"].rpartition("/")[2])
        anchor = "-".join(re.findall(r"[A-Z][a-z]*", name)).lower()
        return f"[{anchor.replace('-', ' ').replace('lora', 'LoRA')}](#{anchor})"
    if "enum" in facts:
        return "one of " + ", ".join(f"`{name}`" for name in facts["enum"])
    if "const" in facts:
        return f"`{facts['const']}`"
    kind = facts["type"]
    if kind == "array":
        if "prefixItems" in facts:
            return "two whole numbers"
        return f"list: {type_of(facts['items'])}"
    names = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true or false",
        "null": "null",
    }
    limits = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    words = [names.get(kind, "mapping")] + [f"{word} {facts[limit]:g}" for limit, word in limits.items()
                                            if limit in facts and facts[limit] < 2**31 - 1]  # fmt: skip
    return ", ".join(words)


def default_of(field: FieldInfo | None) -> str:
    """A default as it would be written; of a part what differs from the defaults in its own table."""
    if field is not None and field.default_factory is not None:
        return "depends"
    default = None if field is None else field.default
    if isinstance(default, Config):
        default = default.model_dump(mode="json", exclude_unset=True)
        return f"`{yaml_of(default)}`" if default else "its defaults"
    if isinstance(default, tuple) and default and isinstance(default[0], Config):
        return "`[{model: large}]`"
    return "empty" if default in ((), "", {}) else f"`{yaml_of(default)}`"


def example_of(name: str, facts: dict[str, Any]) -> str:
    return f"`{name}: {yaml_of(facts['examples'][0])}`" if "examples" in facts else ""


def yaml_of(value: Any) -> str:
    """A value on one line of YAML, keys without quotation marks."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {yaml_of(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(yaml_of, value)) + "]"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./:-]*", value):
        return value
    return json.dumps(value)


def written() -> dict[Path, str]:
    """Both files, by their paths."""
    made = schema()
    return {PAGE: page(made["$defs"]), SCHEMA: json.dumps(made, indent=1) + "\n"}


if __name__ == "__main__":
    for path, text in written().items():
        path.write_text(text, encoding="utf-8")
        print(path)
