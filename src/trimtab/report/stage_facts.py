"""What the stages reported, in words and units: each stage's facts, and where the time went.

>>> value_text(0.80251), value_text({"train": 8000}), value_text([1, 2.5]), value_text(True)
('0.8025', 'train 8,000', '1, 2.5', 'yes')
"""

from collections.abc import Mapping
from typing import Any

from trimtab.report.wording import duration

HEADINGS = {
    "reward": "Gold reward",
    "judge": "Second judge",
    "sft": "Training on reviews",
    "pairs": "Preference pairs",
    "tune": "Tuning",
}
LABELS = {  # in the order in which they are shown
    "accuracy_50_words": "accuracy on 50-word snippets",
    "accuracy": "accuracy on held-out snippets",
    "calibration_error_before": "calibration error, before",
    "calibration_error_after": "calibration error, after",
    "negative_log_likelihood_before": "log loss before calibration (nats)",
    "negative_log_likelihood_after": "log loss after calibration (nats)",
    "temperature": "calibration: temperature",
    "bias": "calibration: bias (nats)",
    "reviews": "training reviews",
    "cut_reviews": "of them cut to length",
    "pairs": "pairs",
    "prompts": "prompts",
    "mean_margin": "mean difference of rewards",
    "agreement": "labels that agree with the reward",
    "eval_accuracy": "validation pairs ordered rightly",
    "eval_loss": "validation loss",
    "final_eval_loss": "validation loss at the end",
    "eval_margin": "validation margin (beta × nats)",
    "eval_logps_chosen": "log p of chosen (nats)",
    "eval_logps_rejected": "log p of rejected (nats)",
    "steps": "training steps",
    "best_step": "step that was kept",
    "snippets": "training snippets",
    "heldout": "held-out reviews",
}
SHARES = {"accuracy", "accuracy_50_words", "calibration_error_before", "calibration_error_after"}
SHARES |= {"agreement", "eval_accuracy"}


def facts(details: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Headings with their named values. A key without a label, or a heading, is shown with spaces for underscores."""
    order = {name: index for index, name in enumerate(LABELS)}
    sections = []
    for heading, section in details.items():
        values = section if isinstance(section, Mapping) else {heading: section}
        entries = [
            (
                LABELS.get(name, name.replace("_", " ")),
                f"{100 * value:.1f} %" if name in SHARES and isinstance(value, float) else value_text(value),
            )
            for name, value in sorted(values.items(), key=lambda entry: order.get(entry[0], len(order)))
        ]
        sections.append((HEADINGS.get(heading, heading.replace("_", " ")), entries))
    return sections


def value_text(value: Any) -> str:
    """A value of `details` as short text; a mapping becomes `name value, name value`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {value_text(entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return ("; " if any(isinstance(entry, Mapping) for entry in value) else ", ").join(map(value_text, value))
    return str(value)


def times_by_stage(seconds: Mapping[str, float]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Each stage's wall time and, where it has several parts (`guide base`, `guide bon-16`), that of each part."""
    stages: dict[str, dict[str, float]] = {}
    for name, spent in seconds.items():
        stage, _, part = name.partition(" ")
        stages.setdefault(stage, {})[part] = spent
    return [
        (
            stage,
            duration(sum(parts.values())),
            [(part, duration(spent)) for part, spent in parts.items()] if len(parts) > 1 else [],
        )
        for stage, parts in stages.items()
    ]
