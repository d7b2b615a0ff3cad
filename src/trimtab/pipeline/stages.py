"""The stages of an experiment in their order: each is a command that runs all steps up to its own.

>>> list(COMMAND_WORDS)[:3]
['data', 'reward', 'sft']
"""

COMMAND_WORDS = {
    "data": "Split the reviews and cut prompts from them.",
    "reward": "Train and calibrate the gold reward, and fit the second judge.",
    "sft": "Train the small model on reviews, so that it writes them from its start token alone.",
    "synthesize": "Sample the untuned small model and score its samples with the gold reward.",
    "pairs": "Make preference pairs of the samples.",
    "tune": "Tune the small model on the pairs, by DPO or SLiC-HF.",
    "guide": "Decode the test prompts with every decoder of the experiment.",
    "evaluate": "Score what the decoders wrote.",
    "report": "Write the tables, the figures and the page.",
}
"""What the help of each command says."""
