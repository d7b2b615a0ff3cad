"""Reviews and preference data that cannot be used."""

import datetime
import json
from collections.abc import Callable
from typing import Any

import pandas

from bad_input.world import Said, World, command

REVIEWS, INSTRUCTIONS, PAIRS = "Reviews", "Instructions", "A preference data set"


def reviews(name: str, content: str | bytes) -> Callable[[World], Said]:
    """`trimtab data` with a file of reviews of this content."""
    return lambda world: command(world, "data", f"data.reviews={world.write(name, content)}")


def instructions(name: str, content: str) -> Callable[[World], Said]:
    """`trimtab data` with a file of instructions of this content."""
    return lambda world: command(world, "data", f"data.instructions={world.write(name, content)}")


def conversation(rejected: Any) -> Callable[[World], Said]:
    """Pairs whose chosen answer is a message."""
    row = {"prompt": "Hi", "chosen": [{"role": "assistant", "content": "Ho"}], "rejected": rejected}

    def happen(world: World) -> Said:
        for split in ("train", "validation"):
            world.write(f"pairs/{split}.jsonl", json.dumps(row) + "\n")
        return command(world, "pairs", f"data.preferences={world.bad / 'pairs'}")

    return happen


def pairs(*rows: dict[str, Any], stage: str = "pairs", more: tuple[str, ...] = ()) -> Callable[[World], Said]:
    """A stage with a preference data set, the same rows in each split."""
    return lambda world: command(
        world, stage, f"data.preferences={world.pairs(*rows)}", "data.test_prompts=1", "tune.max_length=64", *more
    )


def lists_for_texts(world: World) -> Said:
    pandas.DataFrame({"text": [["a", "b"]], "label": [1]}).to_parquet(world.bad / "lists.parquet")
    return command(world, "data", f"data.reviews={world.bad / 'lists.parquet'}")


def dates(world: World) -> Said:
    table = pandas.DataFrame({"prompt": ["When?"], "chosen": [datetime.date(2021, 1, 1)], "rejected": ["Then."]})
    (world.bad / "pairs").mkdir()
    for split in ("train", "validation"):
        table.to_parquet(world.bad / "pairs" / f"{split}.parquet")
    return command(world, "pairs", f"data.preferences={world.bad / 'pairs'}")


def asked(content: object, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": content}


def no_validation_split(world: World) -> Said:
    return command(world, "pairs", f"data.preferences={world.pairs({}, splits=('train',))}")


def latin_1(world: World) -> Said:
    row = json.dumps({"prompt": "ö", "responses": ["a", "b"], "chosen": 0}, ensure_ascii=False).encode("latin-1")
    for split in ("train", "validation"):
        world.write(f"pairs/{split}.jsonl", row)
    return command(world, "pairs", f"data.preferences={world.bad / 'pairs'}")


def long_test_prompts(world: World) -> Said:
    world.pairs(*[{}] * 8)
    world.pairs({"prompt": "x" * 100_000}, splits=("test",))
    chosen = f"data.preferences={world.bad / 'pairs'}"
    return command(world, "guide", chosen, "data.test_prompts=1", "tune.max_length=64")


FAULTS = [
    (REVIEWS, "fewer than prompts are asked for", lambda world: command(world, "data", "data.tuning_prompts=10000"),
     "data.tuning_prompts asks for 10000 reviews, but of the 120 in the train half only 116 are unused and long "
     "enough: lower data.tuning_prompts"),
    (REVIEWS, "that are nowhere", lambda world: command(world, "data", "data.reviews=nowhere"),
     "dataset 'nowhere' is no local path, not in the path map, not to be had from the model hub (…) and not in the "
     "catalogue (imdb, …): give a folder, or map the name to one"),
    (REVIEWS, "with broken UTF-8", reviews("bad.csv", "review,sentiment\nschön,positive\n".encode("latin-1")),
     "…bad.csv is not UTF-8 text (byte 20): save it as UTF-8"),
    (REVIEWS, "with broken UTF-8 in JSON lines", reviews("bad.jsonl", '{"text": "ö"}'.encode("latin-1")),
     "…bad.jsonl is not UTF-8 text (byte 10): save it as UTF-8"),
    (REVIEWS, "without a label column", reviews("bad.csv", "review,stars\nA film,1\n"),
     "…bad.csv, row 1 has no column sentiment or label (its columns: review, stars): rename one"),
    (REVIEWS, "without a text column", reviews("bad.csv", "body,label\nA film,1\n"),
     "…bad.csv, row 1 has no column review or text (its columns: body, label): rename one"),
    (REVIEWS, "with another label", reviews("bad.csv", "review,sentiment\nA film,mixed\n"),
     "…bad.csv, row 1 has label 'mixed': write positive or negative, or 1 or 0"),
    (REVIEWS, "with another split", reviews("bad.csv", "review,sentiment,split\nA film,positive,dev\n"),
     "…bad.csv, row 1 has split 'dev': write train or test, or drop the column"),
    (REVIEWS, "with an empty text", reviews("bad.csv", "review,sentiment\n,positive\n"),
     "…bad.csv, row 1 has no text: fill it or drop the row"),
    (REVIEWS, "with lists for texts", lists_for_texts,
     "…lists.parquet, row 1: the text is ['a', 'b'] and must be a text: mend or drop the row"),
    (REVIEWS, "with numbers for texts", reviews("bad.jsonl", '{"text": 5, "label": 1}\n'),
     "…bad.jsonl, row 1: the text is 5 and must be a text: write it in quotation marks"),
    (REVIEWS, "with half of a character", reviews("bad.jsonl", '{"text": "A film \\ud83d", "label": 1}\n'),
     "…bad.jsonl, row 1: the text is 'A film \\ud83d' and holds '\\ud83d', half of a character (a lone surrogate): "
     "mend the text"),
    (REVIEWS, "with a comma without quotation marks", reviews("bad.csv", "review,sentiment\nA film, then,positive\n"),
     "…bad.csv, line 2 has 3 cells and the header 2: put cells with commas in quotation marks, or mend the row"),
    (REVIEWS, "that are no JSON", reviews("bad.jsonl", '{"text": "A film"\n'),
     "…bad.jsonl, line 1 is not JSON (…): mend or drop it"),
    (REVIEWS, "that are lists", reviews("bad.jsonl", "[1]\n"),
     "…bad.jsonl, line 1 holds 1, which is not a JSON object: give columns by name"),
    (REVIEWS, "in an empty file", reviews("bad.csv", ""),
     "…bad.csv cannot be read (it is empty): give a header with the names of the columns, and rows"),
    (REVIEWS, "with a quotation without end", reviews("bad.csv", 'review,sentiment\n"A film,positive\n'),
     "…bad.csv cannot be read at line 2 (…): put cells with quotes, commas or line breaks in quotation marks, and "
     "double the quotes in them"),
    (REVIEWS, "that are no Parquet", reviews("bad.parquet", "A film"),
     "…bad.parquet cannot be read (…): mend it, or save it anew"),
    (REVIEWS, "of another kind", reviews("bad.txt", "A film"),
     "…bad.txt is neither CSV, JSON lines nor Parquet: give one that ends in .csv, .tsv, .jsonl, .parquet"),
    (REVIEWS, "in an empty folder", lambda world: command(world, "data", f"data.reviews={world.bad}"),
     "…bad holds no .csv, .tsv, .jsonl, .parquet file: give a file of reviews"),
    (INSTRUCTIONS, "of another column", instructions("bad.jsonl", '{"text": "Hi"}\n'),
     "…bad.jsonl, row 1 has no column of prompts (its columns: text): name it in columns.prompt"),
    (INSTRUCTIONS, "that are no JSON", instructions("bad.jsonl", '{"prompt": "Hi"\n'),
     "…bad.jsonl, line 1 is not JSON (…): mend or drop it"),
    (INSTRUCTIONS, "with an empty prompt", instructions("bad.csv", 'prompt,n\n"",1\n'),
     "…bad.csv, row 1 has '' for prompt, which is no prompt: fill it or drop the row"),
    (INSTRUCTIONS, "with a key twice", instructions("bad.jsonl", '{"prompt": "Hi", "prompt": "Ho"}\n'),
     "…bad.jsonl, line 1 is not JSON ('prompt' is given twice): mend or drop it"),
    (INSTRUCTIONS, "with half of a character", instructions("bad.jsonl", '{"prompt": "Hi \\udc4d"}\n'),
     "…bad.jsonl, row 1: prompt is 'Hi \\udc4d' and holds '\\udc4d', half of a character (a lone surrogate): mend the "
     "text"),
    (INSTRUCTIONS, "with an image", instructions("bad.jsonl", json.dumps({"messages": [asked([{"type": "image"}])]})),
     "…bad.jsonl, row 1: messages, message 1: content, part 1 is of type 'image', and models read texts alone: give "
     '{"type": "text", "text": ...}'),
    (INSTRUCTIONS, "of another role", instructions("bad.jsonl", json.dumps({"messages": [asked("Hi", role="human")]})),
     "…bad.jsonl, row 1: messages, message 1 has the role 'human': write one of system, developer, user, assistant, "
     "tool, function, ipython"),
    (INSTRUCTIONS, "with tools", instructions("bad.jsonl", json.dumps({"messages": [asked("Hi")], "tools": [{}]})),
     "…bad.jsonl, row 1 has tools beside its messages, which are not shown to the models: write what matters of them "
     "into a system message and drop the column tools"),
    (INSTRUCTIONS, "that are too few", instructions("bad.txt", "Hi\nHo\nhi\n"),
     "…bad.txt holds 2 different instructions, and data.test_prompts 4 + data.validation_prompts 4 + "
     "data.tuning_prompts 8 are asked for: lower them"),
    (INSTRUCTIONS, "of another kind", instructions("bad.pdf", "Hi"),
     "…bad.pdf is of no known kind: give a file that ends in .jsonl, .json, .csv, .tsv, .parquet, .arrow, .txt"),
    (PAIRS, "of a conversation and a text", conversation(" is bad"),
     "…pairs/train.jsonl, row 1: chosen is a conversation and rejected ' is bad': give both as messages"),
    (PAIRS, "with a number for a text", pairs({"responses": ["a", 5]}),
     "…pairs/train.jsonl, row 1: response 1 is 5 and must be a text: write it in quotation marks"),
    (PAIRS, "with dates for texts", dates,
     "…pairs/train.parquet, row 1: chosen is 2021-01-01, a date or time, and must be a text: store its column "
     "as texts"),
    (PAIRS, "with an answer that calls a tool", conversation([{"role": "assistant", "tool_calls": [{}]}]),
     "…pairs/train.jsonl, row 1: rejected holds tool_calls, and only a text is learned: write it all into content as "
     "the model is to write it, or drop the row"),
    (PAIRS, "with an answer of nothing", conversation([{"role": "assistant", "content": None}]),
     "…pairs/train.jsonl, row 1: rejected, message 1: content is empty and must be a text: fill it or drop the row"),
    (PAIRS, "without its columns", lambda world: command(world, "pairs", f"data.preferences={other_columns(world)}"),
     "…pairs, split train has the columns a: it needs (prompt, responses, chosen) or (prompt, chosen, rejected) or "
     "(chosen, rejected)"),
    (PAIRS, "without a validation split", no_validation_split,
     "…pairs has the splits 'train' and lacks 'validation': add it, for instance with "
     "datasets.Dataset.train_test_split"),
    (PAIRS, "in a folder without files", lambda world: command(world, "pairs", f"data.preferences={world.bad}"),
     "…bad cannot be read as a data set (…): give Parquet, JSON or CSV files in UTF-8, named after their splits"),
    (PAIRS, "of empty files", pairs(),
     "…pairs, split train has no rows: give at least one pair"),
    (PAIRS, "with broken UTF-8", latin_1, "…pairs/train.jsonl is not UTF-8 text (byte …): save it as UTF-8"),
    (PAIRS, "with a third winner", pairs({}, {"chosen": 2}),
     "…pairs/train.jsonl, row 2: chosen is 2 and must be 0 or 1: mend or drop the row"),
    (PAIRS, "with a third response", pairs({"responses": ["a", "b", "c"]}),
     "…pairs/train.jsonl, row 1: responses and chosen must give two texts, not ['a', 'b', 'c']: mend or drop the row"),
    (PAIRS, "without a prompt", pairs({"prompt": None}),
     "…pairs/train.jsonl, row 1: prompt is empty and must be a text or a list of messages: mend or drop the row"),
    (PAIRS, "with words for token ids", pairs({"token_ids": [["a"], ["b"]], "prompt_ids": [1]}),
     "…pairs/train.jsonl, row 1: token_ids is [['a'], ['b']] and must hold one entry for each of two responses"),
    (PAIRS, "with a word for a probability", pairs({"probability": "high"}),
     "…pairs/train.jsonl, row 1: probability is 'high' and must be a number from 0 to 1"),
    (PAIRS, "with another model's tokens", pairs({"token_ids": [[5], [5000]], "prompt_ids": [1]}, stage="tune"),
     "pair train-00000 holds token 5000 and the model has 320: tune the model that the responses were sampled from"),
    (PAIRS, "with a negative token", pairs({"token_ids": [[5], [-1]], "prompt_ids": [1]}, stage="tune"),
     "pair train-00000 holds token -1 and the model has 320: tune the model that the responses were sampled from"),
    (PAIRS, "with empty responses", pairs({"responses": ["", ""]}, stage="tune"),
     "none of 1 pairs has two responses that fit max_length 64 behind their prompt: raise tune.max_length or give "
     "longer responses"),
    (PAIRS, "with messages for a model without a chat template",
     pairs({"prompt": [{"role": "user", "content": "Hi"}]}, stage="tune"),
     "…smol has no chat template: save one as chat_template.jinja beside its tokenizer, or give its prompts as plain "
     "text, with a template that has {prompt} in it"),
    (PAIRS, "with a test prompt of 100,000 characters", long_test_prompts,
     "a prompt of … tokens and 6 new ones exceed large's context of 256: shorten the prompt or lower max_new_tokens"),
    (PAIRS, "with too few test prompts",
     pairs({}, *[{"prompt": f"Film {number}"} for number in range(7)], stage="guide", more=("data.test_prompts=9",)),
     "…pairs has 8 test prompts and data.test_prompts asks for 9: lower it to 8, or give a data set with a test split"),
]  # fmt: skip


def other_columns(world: World) -> str:
    for split in ("train", "validation"):
        world.write(f"pairs/{split}.jsonl", '{"a": 1}\n')
    return str(world.bad / "pairs")
