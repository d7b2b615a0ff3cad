"""Reviews are read from whatever spells them, cleaned, and split so that no review plays two parts."""

import json
import random
from pathlib import Path

import datasets
import pandas
import pytest

from trimtab.assets.catalog import CATALOG
from trimtab.assets.resolve import Assets
from trimtab.config.data import DataConfig
from trimtab.data.reviews import clean, load_reviews, split_reviews
from trimtab.errors import DataError
from trimtab.records import Prompt, Review

WORDS = ["film", "plot", "actor", "scene", "music", "great", "awful", "slow", "bright", "dull", "funny", "sad"]


def text_of(number: int) -> str:
    """A text of 20 words that no other number has."""
    draw = random.Random(number)
    return " ".join([f"Review{number}", *(draw.choice(WORDS) for _ in range(19))])


def made(count: int, half: str = "train") -> list[Review]:
    return [
        Review(f"{half}{number:05d}", text_of(number), number % 2, half)  # type: ignore[arg-type]
        for number in range(count)
    ]


REVIEWS = [*made(200), *made(100, "test")]
CONFIG = DataConfig(
    reward_reviews=60, reward_heldout=20, judge_reviews=50, tuning_prompts=30, validation_prompts=10, test_prompts=40
)


def reviews_at(place: Path) -> list[Review]:
    return load_reviews(Assets(cache=place.parent / "cache"), str(place))


def parts(split: dict[str, list[Review] | list[Prompt]]) -> list[list[str]]:
    def ids(part: list[Review] | list[Prompt]) -> list[str]:
        return [entry.source if isinstance(entry, Prompt) else entry.id for entry in part]

    names = ("reward_train", "reward_heldout", "judge_train", "tuning", "validation", "test")
    return [ids(split[name]) for name in names]


def test_no_review_plays_two_parts() -> None:
    found = [review for part in parts(split_reviews(REVIEWS, CONFIG, seed=0)) for review in part]
    assert len(found) == len(set(found)) == 60 + 20 + 50 + 30 + 10 + 40


def test_test_prompts_alone_come_from_the_test_half() -> None:
    halves = {review.id: review.split for review in REVIEWS}
    *training, test = parts(split_reviews(REVIEWS, CONFIG, seed=0))
    assert {halves[review] for part in training for review in part} == {"train"}
    assert {halves[review] for review in test} == {"test"}


def test_the_split_depends_on_seed_and_set_alone() -> None:
    first = split_reviews(REVIEWS, CONFIG, seed=0)
    shuffled = random.Random(1).sample(REVIEWS, len(REVIEWS))
    assert split_reviews(shuffled, CONFIG, seed=0) == first
    assert split_reviews(REVIEWS, CONFIG, seed=1)["test"] != first["test"]


def test_more_of_a_part_keeps_what_it_had() -> None:
    """A run of 200 test prompts begins with the 96 of the quick one."""
    first = split_reviews(REVIEWS, CONFIG, seed=0)
    more = split_reviews(REVIEWS, CONFIG.model_copy(update={"test_prompts": 90, "reward_reviews": 90}), seed=0)
    assert more["test"][:40] == first["test"] and len(more["test"]) == 90
    assert more["reward_train"][:60] == first["reward_train"]
    assert (more["tuning"], more["validation"], more["reward_heldout"]) == (
        first["tuning"],
        first["validation"],
        first["reward_heldout"],
    )


def test_prompts_are_first_words_of_their_review() -> None:
    texts = {review.id: review.text for review in REVIEWS}
    split = split_reviews(REVIEWS, CONFIG, seed=0)
    assert [prompt.id for prompt in split["test"][:2]] == ["test-00000", "test-00001"]
    for prompt in [*split["tuning"], *split["validation"], *split["test"]]:
        assert isinstance(prompt.text, str)
        assert texts[prompt.source].startswith(prompt.text + " ")  # cut at a word's end, and something follows


def test_lengths_are_drawn_evenly_with_both_ends() -> None:
    reviews = made(3000, "test") + made(200)
    config = CONFIG.model_copy(update={"test_prompts": 3000, "prompt_words": (2, 4)})
    lengths = [len(str(prompt.text).split()) for prompt in split_reviews(reviews, config, seed=0)["test"]]
    # 3 lengths, 1000 each expected, standard deviation 26: four of them.
    assert set(lengths) == {2, 3, 4}
    assert all(abs(lengths.count(length) - 1000) < 104 for length in (2, 3, 4))


def test_reviews_too_short_to_go_on_are_no_prompts() -> None:
    short = [Review(f"s{number}", f"Only {number} words here", 1, "test") for number in range(50)]
    with pytest.raises(DataError, match="only 0 are unused"):
        split_reviews([*made(200), *short], CONFIG.model_copy(update={"prompt_words": (2, 4)}), seed=0)


@pytest.mark.parametrize(
    ("field", "count"), [("reward_reviews", 150), ("judge_reviews", 81), ("tuning_prompts", 999), ("test_prompts", 101)]
)
def test_too_many_asked_for_names_field_and_counts(field: str, count: int) -> None:
    with pytest.raises(DataError, match=rf"data\.{field} asks for {count} reviews.*lower data\.{field}"):
        split_reviews(REVIEWS, CONFIG.model_copy(update={field: count}), seed=0)


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("Bad.<br /><br />Very bad.", "Bad. Very bad."),
        ("a<BR>b<br/>c", "a b c"),
        ("an <i>old</i> film</p>", "an old film"),
        ("Tom &amp; Jerry &#39;n&#39; co", "Tom & Jerry 'n' co"),
        ("well\x85 it\x92s", "well… it’s"),
        ("  much\n\tspace\u00a0here ", "much space here"),
        ("3 < 4 and 5 > 4, I <3 it", "3 < 4 and 5 > 4, I <3 it"),
    ],
)
def test_texts_are_cleaned(raw: str, plain: str) -> None:
    assert clean(raw) == plain


TEXTS = ["A fine film, truly.", "Bad; don't watch it.", "Très “bien” 😀, NA"]


def write(path: Path, *, text: str, label: str, labels: list[object]) -> Path:
    table = pandas.DataFrame({text: TEXTS, label: labels, "split": ["train", "test", "train"]})
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_dict("records")), encoding="utf-8")
    else:
        table.to_csv(path, index=False, encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("text", "label", "labels"),
    [
        ("review", "sentiment", ["positive", "negative", "Positive"]),
        ("text", "label", [1, 0, 1]),
        ("text", "label", [1.0, 0.0, 1.0]),
        ("text", "label", ["pos", "neg", "1"]),
        ("text", "label", [True, False, True]),
    ],
)
def test_columns_of_every_format(tmp_path: Path, suffix: str, text: str, label: str, labels: list[object]) -> None:
    reviews = reviews_at(write(tmp_path / f"reviews{suffix}", text=text, label=label, labels=labels))
    assert [(review.text, review.label, review.split) for review in reviews] == [
        (TEXTS[0], 1, "train"),
        (TEXTS[1], 0, "test"),
        (TEXTS[2], 1, "train"),
    ]


def test_a_byte_order_mark_is_no_part_of_a_column_or_line(tmp_path: Path) -> None:
    for name, content in (("a.csv", "review,sentiment\nFine film,positive\n"), ("b.jsonl", '{"text":"Bad","label":0}')):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert reviews_at(tmp_path / "a.csv")[0].text == "Fine film"
    assert reviews_at(tmp_path / "b.jsonl")[0].label == 0


@pytest.mark.parametrize("name", ["bad.csv", "bad.jsonl"])
def test_broken_utf8_names_the_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"text,label\ncaf\xe9,1\n")
    with pytest.raises(DataError, match=rf"{name} is not UTF-8"):
        reviews_at(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "", "a.csv cannot be read"),
        ("a.csv", "text,label\n", "no reviews"),
        ("a.csv", "text,stars\nFine,5\n", "no column sentiment or label"),
        ("a.csv", "text,label\nFine,5\n", "row 1 has label '5'"),
        ("a.csv", "text,label\nFine,1\n ,0\n", "row 2 has no text"),
        ("a.csv", "text,label,split\nFine,1,dev\n", "split 'dev'"),
        ("a.csv", 'text,label\n"open,1\n', "a.csv cannot be read"),
        ("a.jsonl", '{"text": "Fine", "label": 1}\n{', "line 2 is not JSON"),
        ("a.jsonl", "[1]", "not a JSON object"),
        ("a.parquet", "nonsense", "a.parquet cannot be read"),
        ("a.txt", "Fine", "neither CSV"),
    ],
)
def test_what_cannot_be_meant_is_one_line(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=says) as caught:
        reviews_at(tmp_path / name)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_folders_file_names_say_the_half(tmp_path: Path) -> None:
    """As the hub lays IMDB out; its unlabelled part has label -1 and is not read."""
    folder = tmp_path / "imdb" / "plain_text"
    folder.mkdir(parents=True)
    for half, label in (("train", 1), ("test", 0), ("unsupervised", -1)):
        table = pandas.DataFrame({"text": [f"A film of the {half} part"], "label": [label]})
        table.to_parquet(folder / f"{half}-00000-of-00001.parquet")
    reviews = reviews_at(tmp_path / "imdb")
    assert {(review.text, review.label, review.split) for review in reviews} == {
        ("A film of the train part", 1, "train"),
        ("A film of the test part", 0, "test"),
    }


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["neg", "pos"], [0, 1]),
        (["pos", "neg"], [1, 0]),
        (["Positive", "Negative"], [1, 0]),
        (["1", "2"], [0, 1]),  # as Yelp's stars are called, where 0 is negative
        (["0", "1"], [0, 1]),
    ],
)
def test_numbered_labels_mean_what_their_names_say(tmp_path: Path, names: list[str], labels: list[int]) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    table = datasets.Dataset.from_dict({"text": ["First film", "Second film"], "label": [0, 1]}, features)
    table.to_parquet(tmp_path / "train.parquet")
    assert [review.label for review in reviews_at(tmp_path)] == labels


def test_names_of_numbered_labels_that_say_neither_are_one_line(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["good", "bad"])}
    )
    datasets.Dataset.from_dict({"text": ["A film"], "label": [0]}, features).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataError, match="row 1 has label 'good': write positive or negative, or 1 or 0"):
        reviews_at(tmp_path)


def test_a_text_of_both_halves_is_a_train_review_only(tmp_path: Path) -> None:
    """Copies that differ in case, spaces, markup or punctuation would leak from the train into the test half."""
    rows = ["Good<br />film!,1,test", "good film,1,train", "Good film.,1,test", "Another film,0,test"]
    (tmp_path / "a.csv").write_text("text,label,split\n" + "\n".join(rows))
    assert [(review.text, review.split) for review in reviews_at(tmp_path / "a.csv")] == [
        ("Good film!", "train"),
        ("Another film", "test"),
    ]


def test_a_text_with_two_labels_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nSame words,1\nsame words.,0\nOther words,0\n")
    assert [review.text for review in reviews_at(tmp_path / "a.csv")] == ["Other words"]


def test_without_a_split_halves_are_fixed_by_the_text(tmp_path: Path) -> None:
    rows = [f"{text_of(number)},{number % 2}" for number in range(400)]
    (tmp_path / "a.csv").write_text("review,sentiment\n" + "\n".join(rows))
    (tmp_path / "b.csv").write_text("review,sentiment\n" + "\n".join(reversed(rows[:200])))
    whole = {review.id: review for review in reviews_at(tmp_path / "a.csv")}
    assert all(whole[review.id] == review for review in reviews_at(tmp_path / "b.csv"))
    # 200 expected, standard deviation 10: four of them.
    assert abs(sum(review.split == "train" for review in whole.values()) - 200) < 40


def test_the_catalogues_imdb_gets_its_official_halves(tmp_path: Path) -> None:
    """Rows of the second file that are not IMDB's have no say; a train text that stands twice is one train review."""
    assets = Assets(cache=tmp_path / "cache", path_map=None)
    for name, file, content in (
        ("imdb", "reviews.csv", "review,sentiment\nOne<br />film,positive\nTwo films,negative\nOne film,positive\n"),
        ("imdb-train-half", "train-half.csv", "text,label,source\nOne film,1,imdb\nTwo films,0,rotten_tomatoes\n"),
    ):
        folder = assets.cache / "downloads" / f"{name}-{CATALOG[name].digest}"
        folder.mkdir(parents=True)
        (folder / file).write_text(content)
    (tmp_path / "paths.yaml").write_text(f"imdb: {assets.catalogued('imdb')}")
    reviews = load_reviews(Assets(cache=assets.cache, path_map=tmp_path / "paths.yaml"), "imdb")
    assert [(review.text, review.label, review.split) for review in reviews] == [
        ("One film", 1, "train"),
        ("Two films", 0, "test"),
    ]
