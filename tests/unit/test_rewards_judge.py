"""The second judge: it learns, it comes back from disk unchanged, and it pickles nothing."""

import json

import numpy as np
import pytest

from trimtab.errors import DataError
from trimtab.records import Review
from trimtab.rewards.judge import fit_judge, load_judge


def reviews(count: int, start: int = 0) -> list[Review]:
    made = []
    for number in range(start, start + count):
        word = ("awful", "lovely")[number % 2]
        text = f"the film of {number} was {word} and the cast {word} too"
        made.append(Review(id=str(number), text=text, label=number % 2, split="train"))
    return made


@pytest.fixture(scope="module")
def judge():
    return fit_judge(reviews(80), reviews(20, start=100), seed=0, snippet_words=(6, 12))[0]


def test_scores_have_the_sign_of_the_label_and_read_prompt_and_response(judge):
    low, high, prompt_only = judge.score(["the film was", "the film was", "lovely"], [" awful", " lovely", ""])
    assert low < 0 < high
    assert prompt_only > 0


def test_report_counts_what_was_measured():
    _, report = fit_judge(reviews(80), reviews(20, start=100), seed=0, snippet_words=(6, 12))
    assert report["accuracy_50_words"] == 1.0
    assert (report["heldout"], report["snippets"]) == (20, 400)


def test_scores_after_save_and_load_are_identical(judge, tmp_path):
    judge.save(tmp_path)
    texts = ["the film was lovely", "unknown words only", "awful cast, awful"]
    assert load_judge(tmp_path).score(texts, [""] * 3) == judge.score(texts, [""] * 3)


def test_saved_weights_need_no_pickle(judge, tmp_path):
    judge.save(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["vocabulary.json", "weights.npz"]
    with np.load(tmp_path / "weights.npz", allow_pickle=False) as weights:
        assert len(weights["idf"]) == len(json.loads((tmp_path / "vocabulary.json").read_text()))


def test_same_seed_gives_the_same_judge(judge):
    again = fit_judge(reviews(80), reviews(20, start=100), seed=0, snippet_words=(6, 12))[0]
    other = fit_judge(reviews(80), reviews(20, start=100), seed=1, snippet_words=(6, 12))[0]
    texts = ["the film was lovely", "awful"]
    assert again.score(texts, ["", ""]) == judge.score(texts, ["", ""]) != other.score(texts, ["", ""])


def test_flops_grow_with_the_words_known(judge):
    before = judge.flops
    judge.score(["lovely"], [" zzz"])
    assert judge.flops - before == 2.0


def test_no_texts_give_no_scores(judge):
    assert judge.score([], []) == []


def test_one_label_only_is_refused():
    with pytest.raises(DataError, match="only one label"):
        fit_judge(reviews(80)[::2], reviews(4), seed=0, snippet_words=(6, 12))


def test_damaged_folder_is_named(judge, tmp_path):
    with pytest.raises(DataError, match="holds no judge"):
        load_judge(tmp_path)
    judge.save(tmp_path)
    (tmp_path / "vocabulary.json").write_text('["film"]')
    with pytest.raises(DataError, match="holds 1 words"):
        load_judge(tmp_path)
