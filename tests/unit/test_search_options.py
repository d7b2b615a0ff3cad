"""Each option of the search equals a naive reference: one prompt at a time, no cache, everything read anew."""

from collections.abc import Callable, Sequence

import pytest
import torch

from identities import EXACT, SEED, log_ratio
from tiny import language_model
from trimtab.config.search import EarlyRejection, SamplingConfig
from trimtab.errors import ConfigurationError
from trimtab.models.sampling import draw, prompt_key, uniforms
from trimtab.records import Prompt
from trimtab.search.chunk_beam import Search
from trimtab.search.hypothesis import Hypothesis
from trimtab.search.proposer import LanguageModelProposer
from trimtab.search.selection import by_vote
from trimtab.search.value import ImplicitValue

PROMPTS = [Prompt("a", "I really"), Prompt("b", "This was the worst film")]
SAMPLING = SamplingConfig(temperature=0.5, top_k=3)  # so narrow that some samples are the same
ENDS = range(40, 80)
Ids = list[int]


class Naive:
    """The three models, and the pieces that references are made of."""

    def __init__(self, chunk_ends: Sequence[str] = ()) -> None:
        self.base, self.tuned, self.untuned = language_model(0, ends=ENDS), language_model(1), language_model(2)
        self.chunk_ends = chunk_ends

    def found(self, search: Search) -> list[list[Hypothesis]]:
        proposer = LanguageModelProposer(self.base, SAMPLING, SEED, chunk_ends=self.chunk_ends)
        return search.run(PROMPTS, proposer, ImplicitValue(self.tuned, self.untuned, self.base))

    def value(self, prompt: Prompt, ids: Ids) -> float:
        return log_ratio(self.tuned, self.untuned, prompt, ids)

    def ranked(self, prompt: Prompt, responses: list[Ids]) -> list[Ids]:
        return sorted(responses, key=lambda ids: -self.value(prompt, ids))

    def closed(self, ids: Ids, length: int) -> bool:
        return len(ids) >= length or (bool(ids) and ids[-1] in self.base.vocabulary.eos_ids)

    def text(self, prompt: Prompt, ids: Ids) -> str:
        return self.base.vocabulary.decode_response(self.base.vocabulary.encode_prompt(prompt.text, "{prompt}"), ids)

    def grown(self, prompt: Prompt, slot: int, ids: Ids, tokens: int, length: int) -> Ids:
        """The response, continued alone by up to `tokens` tokens, its end or the end of its chunk."""
        start = self.base.vocabulary.encode_prompt(prompt.text, "{prompt}")
        before, ids = self.text(prompt, ids), list(ids)
        for _ in range(tokens):
            if self.closed(ids, length) or any(end in self.text(prompt, ids)[len(before) :] for end in self.chunk_ends):
                break
            with torch.no_grad():
                logits = self.base.model(input_ids=torch.tensor([[*start, *ids]]), use_cache=False).logits[:, -1]
            ids += draw(logits, [0], uniforms(SEED, [prompt_key(prompt.id)], [slot], [len(ids)]), SAMPLING)
        return ids

    def step(self, prompt: Prompt, beams: list[Ids], search: Search, first: bool, place: int = 0) -> list[Ids]:
        """The open beams' candidates; `place` is that of the first beam among all of the prompt's."""
        successors = search.candidates // search.groups if first else search.successors
        return [
            self.grown(prompt, (place + n) * successors + k, beam, search.chunk or 0, search.max_new_tokens)
            for n, beam in enumerate(beams)
            for k in range(successors)
            if not self.closed(beam, search.max_new_tokens)
        ]

    def check(self, search: Search, reference: Callable[["Naive", Search, Prompt], list[Ids]]) -> None:
        for prompt, group in zip(PROMPTS, self.found(search), strict=True):
            assert [each.token_ids for each in group] == reference(self, search, prompt)
            for each in group:
                assert abs(each.value - self.value(prompt, each.token_ids)) < EXACT


def beam_search(naive: Naive, search: Search, prompt: Prompt) -> list[Ids]:
    """Chunk-level beam search, its groups one after the other as if no other were there."""
    found: list[Ids] = []
    width = search.width // search.groups
    for group in range(search.groups):
        beams: list[Ids] = [[]]
        first = True
        while first or not all(naive.closed(beam, search.max_new_tokens) for beam in beams):
            place = group if first else group * width
            new = naive.step(prompt, beams, search, first, place)
            held = [beam for beam in beams if naive.closed(beam, search.max_new_tokens)]
            ranked = naive.ranked(prompt, held + new)
            if search.duplicates == "drop":
                ranked = [ids for n, ids in enumerate(ranked) if ids not in ranked[:n]]
            beams, first = ranked[:width], False
        found += beams
    return naive.ranked(prompt, found)


@pytest.mark.parametrize("groups", [2, 4])
def test_groups_are_searches_that_do_not_compete(groups: int) -> None:
    Naive().check(Search(4, 2, 3, 9, groups=groups), beam_search)


def test_dropped_duplicates_make_room_for_others() -> None:
    search = Search(4, 3, 3, 9, duplicates="drop")
    Naive().check(search, beam_search)
    assert any(
        len({tuple(each.token_ids) for each in group}) < len(group)
        for group in Naive().found(Search(4, 3, 3, 9, duplicates="keep"))
    ), "nothing was there to drop"


def test_chunks_end_at_a_delimiter_and_rows_that_wait_lose_nothing() -> None:
    naive = Naive(chunk_ends=["s", "o"])
    naive.check(Search(3, 2, 6, 14), beam_search)
    plain = [each.token_ids for group in Naive().found(Search(3, 2, 6, 14)) for each in group]
    assert plain != [each.token_ids for group in naive.found(Search(3, 2, 6, 14)) for each in group]


def test_early_rejection_drops_the_worst_of_what_best_of_n_samples() -> None:
    search = Search(successors=8, max_new_tokens=12, keep=8, reject=EarlyRejection(share=0.4, at=(2, 5, 40)))

    def reference(naive: Naive, search: Search, prompt: Prompt) -> list[Ids]:
        samples = [naive.grown(prompt, slot, [], 12, 12) for slot in range(8)]
        for length, stay in ((2, 5), (5, 3)):  # 8 * 0.6 and 5 * 0.6, rounded up
            samples.sort(key=lambda ids: -naive.value(prompt, ids[:length]))
            samples = samples[:stay]
        return naive.ranked(prompt, samples)

    Naive().check(search, reference)


def test_what_has_finished_leaves_its_slot_for_the_pool() -> None:
    search = Search(3, 2, 2, 10, pool=3, keep=3)

    def reference(naive: Naive, search: Search, prompt: Prompt) -> list[Ids]:
        pool: list[Ids] = []
        beams: list[Ids] = [[]]
        first = True
        while beams and len(pool) < 3:
            new = naive.ranked(prompt, naive.step(prompt, beams, search, first))
            pool += [ids for ids in new[:3] if naive.closed(ids, 10)]
            beams, first = [ids for ids in new if not naive.closed(ids, 10)][:3], False
        return naive.ranked(prompt, pool)[:3]

    Naive().check(search, reference)


def hypotheses(*entries: tuple[str, float]) -> list[Hypothesis]:
    return [Hypothesis(PROMPTS[0], [], [n], text, "eos", value) for n, (text, value) in enumerate(entries)]


def test_a_vote_sums_the_weights_of_equal_answers() -> None:
    """exp(1) + exp(1) > exp(1.5): the answer of two outweighs the best single one; what answers nothing is last."""
    ranked = hypotheses(("no number", 9.0), ("it is 7", 1.5), ("so 5", 1.0), ("5, no: 4, no: 5", 1.0))
    assert [each.text for each in by_vote(r"\d+", ranked)] == ["so 5", "5, no: 4, no: 5", "it is 7", "no number"]
    assert next(each.text for each in by_vote(r"is (\d)", ranked)) == "it is 7"
    assert by_vote("x", []) == []


@pytest.mark.parametrize(
    ("pattern", "text", "answer"),
    [
        (r"boxed\{(\d+)\}|answer is (\d+)", r"so \boxed{4}", "4"),
        (r"boxed\{(\d+)\}|answer is (\d+)", "the answer is 4", "4"),
        (r"(a)|(b)|(c)", "a b c", "c"),
        (r"answer is (\d+)(?:\.(\d+))?", "answer is 4.5", "4"),
        (r"answer is (?:(\d+)|(yes))", "answer is yes", "yes"),
        (r"none|answer is (\d+)", "answer is 4, or none", None),
        (r"\d+", "no number", None),
        (r"(?:x)(?P<named>\d)", "x4", "4"),
    ],
)
def test_an_answer_is_the_first_group_that_took_part(pattern: str, text: str, answer: str | None) -> None:
    """Of several alternatives with a group each, any may give the answer: two equal answers outweigh the better one."""
    ranked = [Hypothesis(PROMPTS[0], [], [n], each, "eos", value) for n, (each, value) in enumerate(
        [("no", 0.1), (text, 0.0), (text, 0.0)]
    )]  # fmt: skip
    assert [each.text for each in by_vote(pattern, ranked)] == ([text, text, "no"] if answer else ["no", text, text])
    assert (
        answer is None
        or by_vote(pattern, [*ranked, Hypothesis(PROMPTS[0], [], [9], answer, "eos", 0.0)])[0].text == text
    )


def test_a_vote_may_choose_what_is_not_best() -> None:
    naive = Naive()
    best = naive.found(Search(successors=12, max_new_tokens=4, keep=12))
    voted = naive.found(Search(successors=12, max_new_tokens=4, keep=12, vote="(?s)^.?"))
    for before, after in zip(best, voted, strict=True):
        assert sorted(each.token_ids for each in before) == sorted(each.token_ids for each in after)
        assert [each.token_ids for each in after] == [each.token_ids for each in by_vote("(?s)^.?", before)]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"width": 4, "chunk": 2, "groups": 3}, "groups is 3 and width 4"),
        ({"width": 4, "chunk": 2, "groups": 2, "pool": 2}, "pool and groups do not go together"),
        ({"successors": 4, "pool": 2}, "give chunk"),
        ({"chunk": 2, "successors": 4, "reject": EarlyRejection(at=(2,))}, "and no chunk"),
        ({"vote": "("}, "no regular expression"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, object], fault: str) -> None:
    with pytest.raises(ConfigurationError, match=fault):
        Search(**settings)  # type: ignore[arg-type]
