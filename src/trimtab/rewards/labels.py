"""The labels of a sequence classifier: which of them is the positive one, from its configuration alone."""

from transformers import PreTrainedConfig

from trimtab.errors import ModelError

_POSITIVE, _NEGATIVE = ("positive", "pos"), ("negative", "neg")


def check_default_label(config: PreTrainedConfig, name: str) -> None:
    """Raise ModelError where the labels' names say that the default positive label, 1, is not the positive one."""
    names = [str(config.id2label.get(index, "")) for index in range(config.num_labels)]
    labels = [label.strip().lower() for label in names]
    positive = [index for index, label in enumerate(labels) if label in _POSITIVE]
    if len(labels) > 1 and ((positive and 1 not in positive) or labels[1] in _NEGATIVE):
        raise ModelError(
            f"the reward model {name} calls its labels {', '.join(names)}, and reward.positive_label is left out, "
            f'which is label 1, {names[1]}: give its name, such as "{names[positive[0] if positive else 0]}"'
        )


def positive_index(config: PreTrainedConfig, label: int | str, definition: str) -> int:
    """Index of the positive label in the head's logits.

    Raises:
        ModelError: the head has no such label, or does not fit the definition.
    """
    count = config.num_labels
    names = [str(config.id2label.get(index, f"LABEL_{index}")) for index in range(count)]
    if count < 2:
        raise ModelError(f"the reward model has {count} label, a scalar head: set reward.definition to scalar")
    if definition == "margin" and count != 2:
        raise ModelError(
            f"the reward model has {count} labels and `margin` needs exactly 2: give a classifier with two labels, "
            "or set reward.definition to positive_logit"
        )
    choices = ", ".join(f"{index} ({name})" for index, name in enumerate(names))
    named = [index for index, name in enumerate(names) if name == str(label)]
    if isinstance(label, bool):
        raise ModelError(f"reward.positive_label {label} is a boolean: write a label in quotes, of {choices}")
    if isinstance(label, int) and 0 <= label < count:
        if named not in ([], [label]):
            raise ModelError(
                f"reward.positive_label {label} is the index of {names[label]!r} and the name of label {named[0]}: "
                f'write the name in quotes, as "{names[label]}" or "{label}"'
            )
        return label
    if isinstance(label, str) and len(named) > 1:
        raise ModelError(f"reward.positive_label {label!r} is the name of several labels: give an index, of {choices}")
    if isinstance(label, int) or not named:
        raise ModelError(f"reward.positive_label {label!r} is no label of the reward model: it has {choices}")
    return named[0]
