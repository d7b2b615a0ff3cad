"""A decoder's answers in the format of AlpacaEval."""

from trimtab.pipeline.decoded import Decoded
from trimtab.records import PromptInput


def alpaca_eval(decoded: Decoded, generator: str) -> list[dict[str, str]]:
    """The entries of AlpacaEval's `model_outputs.json`: instruction, output, generator and dataset.

    A conversation of several messages becomes an instruction with the role before each message. White space around an
    answer is dropped. `dataset` is the source that the instructions' own file gives.
    """
    return [
        {
            "instruction": _instruction(answer.prompt),
            "output": answer.text.strip(),
            "generator": generator,
            "dataset": decoded.sources.get(answer.prompt_id, ""),
        }
        for answer in decoded.answers
    ]


def _instruction(prompt: PromptInput) -> str:
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)
