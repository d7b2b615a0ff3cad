"""What the decoders of a run have made, by name: links that follow the newest artifacts, and what reads them.

`runs/demo/decoders/bon-16/generations` and `.../scores` lead to the artifacts that were last made or used.

    >>> read_decoded("runs/demo:bon-16").generations[0].text                            # doctest: +SKIP
    ' liked this film'
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trimtab.errors import ConfigurationError, RunError
from trimtab.evaluation.comparison import Judged
from trimtab.evaluation.coverage import answers
from trimtab.records import Generation, Prompt, PromptInput, Score, read_jsonl
from trimtab.store.files import link_to, write_json

GENERATIONS, SCORES = "generations", "scores"
ARTIFACTS = "artifacts.json"
"""The file of a report that says what it is of."""


@dataclass(frozen=True)
class Decoded:
    """A decoder's answers, one a prompt; their scores where they have been made, and which reward gave them."""

    run: Path
    decoder: str
    answers: list[Generation]
    sources: dict[str, str]
    scores: list[Score]
    reward: str

    @property
    def name(self) -> str:
        return f"{self.run.name}:{self.decoder}"

    def judged(self) -> dict[str, Judged]:
        """Reward and length of each answer, by what was asked, so that prompts of two runs can be told to be the same.

        A key is the prompt and how many answers to the same prompt came before: short prompts occur more than once.

        Raises:
            RunError: the answers have not been scored.
        """
        if not self.scores:
            raise RunError(f"{self.name} has not been scored: run `trimtab evaluate` first")
        texts = {each.prompt_id: each for each in self.answers}
        judged: dict[str, Judged] = {}
        asked: Counter[str] = Counter()
        for score in self.scores:
            answer = texts[score.prompt_id]
            prompt = json.dumps(answer.prompt)
            judged[f"{prompt} {asked[prompt]}"] = Judged(score.reward, len(answer.text.strip()))
            asked[prompt] += 1
        return judged


def point(run: Path, decoder: str, kind: str, folder: Path) -> None:
    """Name a folder of the run as what a decoder has made of this kind, whatever bore the name before."""
    link = run / "decoders" / decoder / kind
    link.parent.mkdir(parents=True, exist_ok=True)
    link_to(link, Path("..", "..", folder.name))


def note_artifacts(report: Path, folders: Mapping[str, Path]) -> None:
    """Write beside a report which artifact of each stage it is of."""
    write_json(report / ARTIFACTS, {stage: folder.name for stage, folder in folders.items()})


def reported_artifacts(report: Path) -> set[str]:
    """The names of the artifacts that a report is of; none of one that does not say so."""
    file = report / ARTIFACTS
    return set(json.loads(file.read_text(encoding="utf-8")).values()) if file.is_file() else set()


def read_decoded(place: str) -> Decoded:
    """What stands behind `RUN:DECODER`, such as `runs/quickstart:bon-16`.

    Raises:
        ConfigurationError: it is no such name.
        RunError: there is no such run, or it has no such decoder.
    """
    run, separator, decoder = place.rpartition(":")
    if not separator or not run or not decoder:
        raise ConfigurationError(f"{place!r} names no decoder of a run: write it as runs/quickstart:bon-16")
    folder = Path(run) / "decoders" / decoder
    if not (folder / GENERATIONS / "records.jsonl").is_file():
        there = sorted(path.name for path in folder.parent.glob("*")) if folder.parent.is_dir() else []
        known = f"it has {', '.join(there)}" if there else "it has decoded nothing: run `trimtab guide` first"
        raise RunError(f"{run} has no decoder {decoder}: {known}")
    scored = (folder / SCORES / "records.jsonl").is_file()
    return Decoded(
        run=Path(run),
        decoder=decoder,
        answers=answers(read_jsonl(folder / GENERATIONS / "records.jsonl", Generation)),
        sources=_sources(Path(run), folder / GENERATIONS),
        scores=read_jsonl(folder / SCORES / "records.jsonl", Score) if scored else [],
        reward=_inputs(folder / SCORES)[1] if scored else "",
    )


def alpaca_eval(decoded: Decoded, generator: str) -> list[dict[str, str]]:
    """The answers as AlpacaEval's `model_outputs.json` has them: instruction, output, generator and dataset.

    A conversation of several messages is an instruction with the role before each; white space around an answer is
    left out. `dataset` is the source that the instructions' own file gives.
    """
    return [
        {
            "instruction": _instruction(each.prompt),
            "output": each.text.strip(),
            "generator": generator,
            "dataset": decoded.sources.get(each.prompt_id, ""),
        }
        for each in decoded.answers
    ]


def _instruction(prompt: PromptInput) -> str:
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def _inputs(artifact: Path) -> list[str]:
    made_from = json.loads((artifact / "made_from.json").read_text(encoding="utf-8"))
    return [str(digest) for digest in made_from["inputs"]]


def _sources(run: Path, generations: Path) -> dict[str, str]:
    """Where each test prompt comes from, by its id; nothing where they are those of preference data."""
    for digest in _inputs(generations):
        file = run / f"data-{digest}" / "test.jsonl"
        if file.is_file():
            return {prompt.id: prompt.source for prompt in read_jsonl(file, Prompt)}
    return {}
