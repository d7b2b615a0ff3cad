"""The results of a run by the names of its decoders: the links to them, and what reads them.

`runs/demo/decoders/bon-16/generations` and `.../scores` lead to the artifacts that were last made or used.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trimtab.errors import ConfigurationError, RunError
from trimtab.evaluation.comparison import Judged
from trimtab.evaluation.coverage import answers
from trimtab.records import Generation, Prompt, Score, read_jsonl
from trimtab.store.files import link_to, write_json
from trimtab.store.remote import local_run

GENERATIONS, SCORES = "generations", "scores"
ARTIFACTS = "artifacts.json"
"""The file in a report's folder that names the artifacts that the report is of."""


@dataclass(frozen=True)
class Decoded:
    """A decoder's generations, and each prompt's source by its id; scores of its answers and their reward, if any."""

    run: Path
    decoder: str
    generations: list[Generation]
    sources: dict[str, str]
    scores: list[Score]
    reward: str

    @property
    def name(self) -> str:
        return f"{self.run.name}:{self.decoder}"

    @property
    def answers(self) -> list[Generation]:
        """The decoder's answer to each prompt: its generation of lowest index."""
        return answers(self.generations)

    def judged(self) -> dict[str, Judged]:
        """Reward and length of each answer, by a key that is the same for the same prompt of another run.

        The key is the prompt and how many answers to it came before: short prompts occur more than once.

        Raises:
            RunError: the answers have not been scored.
        """
        if not self.scores:
            raise RunError(f"{self.name} has not been scored: run `trimtab evaluate` first")
        by_prompt = {answer.prompt_id: answer for answer in self.answers}
        judged: dict[str, Judged] = {}
        counts: Counter[str] = Counter()
        for score in self.scores:
            answer = by_prompt[score.prompt_id]
            prompt = json.dumps(answer.prompt)
            judged[f"{prompt} {counts[prompt]}"] = Judged(score.reward, len(answer.text.strip()))
            counts[prompt] += 1
        return judged


def point(run: Path, decoder: str, kind: str, folder: Path) -> None:
    """Link a decoder's `generations` or `scores` to a folder of the run, in place of an earlier link."""
    link = run / "decoders" / decoder / kind
    link.parent.mkdir(parents=True, exist_ok=True)
    link_to(link, Path("..", "..", folder.name))


def note_artifacts(report: Path, folders: Mapping[str, Path]) -> None:
    """Write in a report's folder which artifact of each step it is of."""
    write_json(report / ARTIFACTS, {step: folder.name for step, folder in folders.items()})


def reported_artifacts(report: Path) -> set[str]:
    """The names of the artifacts that a report is of; none where the report does not name them."""
    file = report / ARTIFACTS
    return set(json.loads(file.read_text(encoding="utf-8")).values()) if file.is_file() else set()


def decoders_of(run: Path) -> list[str]:
    """The names of a run's decoders.

    Raises:
        RunError: it has decoded nothing, or is no run.
    """
    names = sorted(path.name for path in (run / "decoders").glob("*"))
    if not names:
        raise RunError(f"{run} has decoded nothing: give the directory of a run, or run `trimtab guide` first")
    return names


def read_decoded(name: str) -> Decoded:
    """The results that `RUN:DECODER` names, such as `runs/quickstart:bon-16`.

    Raises:
        ConfigurationError: it is no such name.
        RunError: there is no such run, or it has no such decoder.
    """
    run, _, decoder = name.rpartition(":")
    if not run or not decoder:
        raise ConfigurationError(f"{name!r} names no decoder of a run: write it as runs/quickstart:bon-16")
    folder = local_run(run, "data", "guide", "evaluate")
    generations, scores = (folder / "decoders" / decoder / kind for kind in (GENERATIONS, SCORES))
    if not (generations / "records.jsonl").is_file():
        decoders = sorted(path.name for path in (folder / "decoders").glob("*"))
        known = f"it has {', '.join(decoders)}" if decoders else "it has decoded nothing: run `trimtab guide` first"
        raise RunError(f"{run} has no decoder {decoder}: {known}")
    scored = (scores / "records.jsonl").is_file()
    return Decoded(
        run=folder,
        decoder=decoder,
        generations=read_jsonl(generations / "records.jsonl", Generation),
        sources=_sources(folder, generations),
        scores=read_jsonl(scores / "records.jsonl", Score) if scored else [],
        reward=_inputs(scores)[1] if scored else "",
    )


def _inputs(artifact: Path) -> list[str]:
    """The digests of an artifact's inputs."""
    made_from = json.loads((artifact / "made_from.json").read_text(encoding="utf-8"))
    return [str(digest) for digest in made_from["inputs"]]


def _sources(run: Path, generations: Path) -> dict[str, str]:
    """The source of each test prompt, by its id; none where the prompts are those of preference data."""
    for digest in _inputs(generations):
        file = run / f"data-{digest}" / "test.jsonl"
        if file.is_file():
            return {prompt.id: prompt.source for prompt in read_jsonl(file, Prompt)}
    return {}
