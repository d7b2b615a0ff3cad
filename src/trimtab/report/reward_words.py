"""What a run's gold reward is, in words that claim no more than its configuration says.

>>> from trimtab.config.reward import RewardConfig
>>> source(RewardConfig(by="rewards.py:brief"))
'the function rewards.py:brief'
>>> tone(RewardConfig(model="someone/toxicity", positive_label="toxic")) is None
True
"""

from typing import Literal

from trimtab.config.experiment import Experiment
from trimtab.config.reward import RewardConfig
from trimtab.report.wording import short_names

Tone = Literal["positive", "negative"]


def classified(reward: RewardConfig) -> bool:
    """Whether a classifier computes the reward."""
    return bool(reward.entry.formula)


def tone(reward: RewardConfig) -> Tone | None:
    """The tone of a text that is rewarded; None where the reward is not a classifier of sentiment.

    A classifier that is trained here learns reviews' sentiment. What a ready one classifies is known by its label's
    name alone.
    """
    if not classified(reward):
        return None
    label = str(reward.positive_label).lower()
    if label in ("0", "1") and reward.training is not None:
        label = ("negative", "positive")[int(label)]
    return "positive" if label == "positive" else "negative" if label == "negative" else None


def source(reward: RewardConfig) -> str:
    """What gives the reward: `a classifier`, `the reward model NAME`, `the function NAME` or `the service ADDRESS`."""
    if classified(reward):
        return "a classifier"
    name = reward.by or next(iter(short_names([reward.label]).values()))
    return f"the {reward.entry.noun} {name}"


def measures(reward: RewardConfig) -> str | None:
    """What a classifier's reward says of a text; None for other rewards, whose meaning is not known."""
    if not classified(reward):
        return None
    sentiment = tone(reward)
    return f"how {sentiment} a text reads" if sentiment else f"how clearly a text has the {_label(reward)}"


def definition(reward: RewardConfig) -> str:
    """A sentence on how the reward is computed and what it means."""
    if not classified(reward):
        return f"The gold reward is what {source(reward)} gives prompt and response: higher is better, {_zero(reward)}."
    (model,) = short_names([reward.model]).values()
    trained = ", fine-tuned here," if reward.training else ""
    sentiment = tone(reward)
    label, other = (sentiment, _opposite(sentiment)) if sentiment else (_label(reward), "its other label")
    higher = f"higher reads as more {sentiment}" if sentiment else f"higher is more clearly {label}"
    formula = reward.entry.formula.format(label=label, other=other)
    judged = f"of the classifier {model}{trained} on prompt and response together"
    return f"The gold reward is {formula} {judged}: {higher}, {_zero(reward)}."


def _zero(reward: RewardConfig) -> str:
    """What a reward of 0 means."""
    return reward.entry.zero or "and 0 has no meaning of its own, so that only differences count"


def judge(experiment: Experiment) -> str:
    """What the second judge does."""
    data = experiment.data
    return (
        f"a logistic regression on words, fitted on {data.judge_reviews:,} labelled {data.reviews} reviews of its own, "
        "which says how positive a text reads"
    )


def odds(reward: RewardConfig) -> str | None:
    """A sentence on the meaning of one unit of the reward; None where it has none."""
    if reward.entry.unit != "nats":
        return None
    sentiment = tone(reward)
    of = f"{sentiment} against {_opposite(sentiment)}" if sentiment else f"{_label(reward)} against the other label"
    return f"One nat multiplies the odds of {of} by 2.7."


def _opposite(sentiment: Tone) -> Tone:
    return "negative" if sentiment == "positive" else "positive"


def _label(reward: RewardConfig) -> str:
    return f"label {reward.positive_label}"
