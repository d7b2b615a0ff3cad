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

GENERATIONS, SCORES = "generations", "scores"
ARTIFACTS = "artifacts.json"
"""The file in a report's folder that names the artifacts that the report is of."""
EXPERIMENT = "experiment.json"
"""The file in a report's folder that holds the experiment that the report is of."""


@dataclass(frozen=True)
class Decoded:
    """A decoder's answers, one a prompt, and each prompt's source by its id; scores and their reward, if any."""

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


def read_decoded(name: str) -> Decoded:
    """The results that `RUN:DECODER` names, such as `runs/quickstart:bon-16`.

    Raises:
        ConfigurationError: it is no such name.
        RunError: there is no such run, or it has no such decoder.
    """
    run, _, decoder = name.rpartition(":")
    if not run or not decoder:
        raise ConfigurationError(f"{name!r} names no decoder of a run: write it as runs/quickstart:bon-16")
    generations, scores = (Path(run, "decoders", decoder, kind) for kind in (GENERATIONS, SCORES))
    if not (generations / "records.jsonl").is_file():
        decoders = sorted(path.name for path in Path(run, "decoders").glob("*"))
        known = f"it has {', '.join(decoders)}" if decoders else "it has decoded nothing: run `trimtab guide` first"
        raise RunError(f"{run} has no decoder {decoder}: {known}")
    scored = (scores / "records.jsonl").is_file()
    return Decoded(
        run=Path(run),
        decoder=decoder,
        answers=answers(read_jsonl(generations / "records.jsonl", Generation)),
        sources=_sources(Path(run), generations),
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
