"""A tiny engine: random float64 models in the roles of a run, and what `guided.generate` answers to its requests."""

import random
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tiny import language_model
from trimtab.config.guide import DecoderConfig
from trimtab.config.search import SamplingConfig
from trimtab.models.cached_model import CachedModel
from trimtab.models.roles import Role, Roles
from trimtab.search.guided_model import GuidedModel
from trimtab.search.hypothesis import Hypothesis
from trimtab.search.proposer import LanguageModelProposer
from trimtab.serve.engine_entry import search_of
from trimtab.serve.engine_parts import DecoderParts, RoleParts
from trimtab.serve.requests import (
    ChoiceEnd,
    Event,
    GenerationRequest,
    RequestEnd,
    RequestFailed,
    SearchStep,
    TextPiece,
    Token,
    Usage,
)

DECODERS: dict[str, DecoderConfig] = {
    name: DecoderConfig.model_validate(settings)
    for name, settings in {
        "base": {},
        "bon": {"successors": 5},
        "cbs": {"width": 3, "successors": 2, "chunk": 2},
        "cbs of long chunks": {"width": 2, "successors": 3, "chunk": 5},
        "cbs of parts of sentences": {"width": 2, "successors": 3, "chunk": 6, "chunk_ends": ["e", " "]},
        "eft": {"beta": 0.5},
        "tuned": {"model": "tuned"},
        "cbs over eft": {"width": 2, "successors": 2, "chunk": 3, "beta": 1.0},
        "groups": {"width": 4, "successors": 2, "chunk": 2, "groups": 2, "duplicates": "drop"},
        "pool": {"width": 3, "successors": 2, "chunk": 2, "pool": 2},
        "vote": {"successors": 6, "vote": r"\w"},
        "rejecting": {"successors": 6, "reject": {"at": [3, 6]}},
        "by a function": {"width": 2, "successors": 2, "chunk": 2, "value": "served:vowels"},
        "by both": {
            "successors": 3,
            "chunk": 3,
            "value": [{"by": "served:vowels", "steps": "sum"}, {"by": "implicit", "per_token": True}],
        },
    }.items()
}
PROMPTS = ["I really", "This was the worst film that I have ever seen.", "x", "Here is a movie", "", "é 😀"]
STOPS: list[tuple[str, ...]] = [(), (), (), ("e",), (" a", "i"), ("the worst",), ("\ufffd", "q")]
SAMPLINGS = [
    SamplingConfig(temperature=1.0, top_k=0),
    SamplingConfig(),
    SamplingConfig(temperature=1.3, top_k=0, top_p=0.9),
    SamplingConfig(temperature=0.9, top_k=20, repetition_penalty=1.3),
    SamplingConfig(temperature=0),
]


def vowels(texts: Sequence[str]) -> list[float]:
    return [sum(letter in "aeiou" for letter in text) for text in texts]


class TinyRoles(Roles):
    """Models that are held, by their roles."""

    def __init__(self, models: Mapping[Role, CachedModel]) -> None:
        self._held = dict(models)

    def __getitem__(self, role: Role) -> CachedModel:
        return self._held[role]

    @property
    def served(self) -> None:
        return None


def tiny_roles() -> TinyRoles:
    return TinyRoles({
        "large": language_model(0, ends=range(40, 52)),
        "tuned": language_model(5, ends=range(40, 52)),
        "untuned": language_model(6),
    })  # fmt: skip


def tiny_parts() -> RoleParts:
    return RoleParts(tiny_roles())


def random_request(chance: random.Random, number: int) -> GenerationRequest:
    name = chance.choice(list(DECODERS))
    prompt = chance.choice(PROMPTS)
    if chance.random() < 0.2:
        prompt = " ".join("".join(chance.choices(string.ascii_lowercase, k=4)) for _ in range(chance.randrange(1, 25)))
    return GenerationRequest(
        id=f"r{number}",
        prompt=prompt,
        decoder=DECODERS[name],
        sampling=chance.choice(SAMPLINGS),
        max_new_tokens=chance.choice([1, 2, 5, 9, 14, 20]),
        n=chance.choice([1, 1, 1, 2, 3]),
        seed=chance.choice([0, 1, 2**40]),
        stop=chance.choice(STOPS),
        stream=chance.random() < 0.5,
        logprobs=chance.choice([None, None, 0, 3]),
    )


@dataclass
class Answer:
    """All events of a request, put together: by choice, its text, tokens and end."""

    texts: dict[int, str] = field(default_factory=dict)
    tokens: dict[int, list[Token]] = field(default_factory=dict)
    pieces: dict[int, list[str]] = field(default_factory=dict)
    ends: dict[int, ChoiceEnd] = field(default_factory=dict)
    steps: list[SearchStep] = field(default_factory=list)
    prompt: dict[int, TextPiece] = field(default_factory=dict)
    usage: Usage | None = None
    error: Exception | None = None

    @classmethod
    def of(cls, events: Iterable[Event]) -> "Answer":
        answer = cls()
        for event in events:
            assert answer.usage is None and answer.error is None, "an event after the last"
            match event:
                case TextPiece(prompt=True):
                    assert event.choice not in answer.prompt and event.choice not in answer.texts
                    answer.prompt[event.choice] = event
                case TextPiece():
                    assert event.choice not in answer.ends
                    answer.texts[event.choice] = answer.texts.get(event.choice, "") + event.text
                    answer.tokens.setdefault(event.choice, []).extend(event.tokens)
                    answer.pieces.setdefault(event.choice, []).append(event.text)
                case ChoiceEnd():
                    assert event.choice not in answer.ends
                    answer.ends[event.choice] = event
                case SearchStep():
                    answer.steps.append(event)
                case RequestEnd():
                    answer.usage = event.usage
                case RequestFailed():
                    answer.error = event.error
        return answer


@dataclass(frozen=True, repr=False)
class Delimited(GuidedModel):
    """A guided model whose chunks may end early, as a run's decoder's may."""

    chunk_ends: tuple[str, ...] = ()

    def _proposer(self) -> LanguageModelProposer:
        return replace(super()._proposer(), chunk_ends=self.chunk_ends)


def guided(request: GenerationRequest, parts: DecoderParts) -> GuidedModel:
    """The guided model of Python that answers as the request's decoder does."""
    search, ends = search_of(replace(request, stream=False)), request.decoder.chunk_ends
    return Delimited(parts.model, parts.value, search, request.sampling, request.stop, request.seed, chunk_ends=ends)


def expected(request: GenerationRequest, parts: DecoderParts) -> list[Hypothesis]:
    """The best hypothesis of each choice, one request at a time and without the engine."""
    assert not isinstance(request.prompt, tuple)
    return [group[0] for group in guided(request, parts).hypotheses([request.prompt] * request.n)]
