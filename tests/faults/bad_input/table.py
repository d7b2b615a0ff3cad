"""The table of bad inputs and the line that each gives; `…` stands for what differs from run to run.

`test_table.py` compares it with what the command line prints.
"""

import pickle
from collections.abc import Callable
from dataclasses import dataclass

from bad_input import artifacts, data, models
from bad_input.world import Said, World, command, trimtab


@dataclass(frozen=True)
class Fault:
    """What is wrong, how it comes about, and what is printed behind `trimtab: `."""

    part: str
    what: str
    happen: Callable[[World], Said]
    line: str


def checked(*overrides: str) -> Callable[[World], Said]:
    """`trimtab check quickstart --set ...`."""
    return lambda world: trimtab(world.monkeypatch, "check", "quickstart", "--set", *overrides)


def in_file(content: str | bytes) -> Callable[[World], Said]:
    """`trimtab check` of a file with this content."""
    return lambda world: trimtab(world.monkeypatch, "check", str(world.write("mine.yaml", content)))


def mapped(content: str | bytes) -> Callable[[World], Said]:
    """A run with this path map."""
    return lambda world: command(world, "data", path_map=world.write("paths.yaml", content))


SETTING = "A setting"
FILE = "An experiment file"
PATHS = "A path map"
CONFIGURATION = [
    (SETTING, "width 0", checked("guide.decoders.3.width=0"),
     "…quickstart.yaml: guide.decoders.3.width is 0: input should be greater than or equal to 1"),
    (SETTING, "chunk -1", checked("guide.decoders.3.chunk=-1"),
     "…: guide.decoders.3.chunk is -1: input should be greater than or equal to 1"),
    (SETTING, "beta NaN", checked("tune.beta=.nan"), "…: tune.beta is nan: input should be a finite number"),
    (SETTING, "an infinite weight of EFT", checked("guide.decoders.6.beta=.inf"),
     "…: guide.decoders.6.beta is inf: input should be a finite number"),
    (SETTING, "a misspelt field", checked("tune.betta=1"), "…: tune.betta is unknown: did you mean beta?"),
    (SETTING, "a misspelt part", checked("tun.beta=1"), "…: tun is unknown: did you mean tune?"),
    (SETTING, "a misspelt field of a decoder", checked("guide.decoders.1.sucessors=4"),
     "…: guide.decoders.1.sucessors is unknown: did you mean successors?"),
    (SETTING, "a field like no other", checked("evaluate.xyz=1"),
     "…: evaluate.xyz is unknown: known are bootstrap, confidence, examples, threshold, "
     "kl_samples, columns"),
    (SETTING, "several faults", checked("tune.betta=1", "guide.rows=0", "seed", "judge.snippet_words=[9, 3]"),
     "…: override 'seed' has no `=`: write it as part.field=value; judge.snippet_words: [9, 3] is no range: give two "
     "numbers of at least 1, the smaller first; tune.betta is unknown: did you mean beta?; guide.rows: 0 is no "
     "number of rows: give a whole number of at least 1, or auto"),
    (SETTING, "plug-ins that are not there", checked("plugins=[nowhere.py, no_such_module]", "tune.betta=1"),
     "…: plugins.0: there is no …nowhere.py…; plugins.1: there is no …no_such_module…; tune.betta is unknown: did you "
     "mean beta?"),
    (SETTING, "an override without a value", checked("tune.beta"),
     "…: override 'tune.beta' has no `=`: write it as part.field=value"),
    (SETTING, "an override of a decoder that is not there", checked("guide.decoders.99.chunk=2"),
     "…: override 'guide.decoders.99.chunk=2': there is no entry 99 in a list of …"),
    (SETTING, "an override within a number", checked("seed.low=1"),
     "…: override 'seed.low=1': seed is … and has no fields"),
    (SETTING, "an override that is no YAML", checked("guide.stop=["),
     "…: override 'guide.stop=[' cannot be read as YAML: …"),
    (SETTING, "beams without chunks", checked("guide.decoders.1.width=4"),
     "…: guide.decoders.1.chunk: width is 4 without a chunk: give chunk, or width 1"),
    (SETTING, "no decoder", checked("guide.decoders=[]"), "…: guide.decoders: the list is empty: name at least one"),
    (SETTING, "two decoders of one name", checked("guide.decoders=[{}, {}]"),
     "…: guide.decoders: two decoders are named base: give each a name of its own"),
    (SETTING, "two decoders of nearly one name", checked("guide.decoders.4.name=Base"),
     "…: guide.decoders: the decoders base and Base differ in upper and lower case alone: rename one"),
    (SETTING, "a pick from no decoder", checked("guide.decoders=[{best_of: bon-9}]"),
     "…: guide.decoders: gold-bon-9 picks from bon-9, which is no decoder of this experiment"),
    (SETTING, "a pick with settings", checked("guide.decoders=[{successors: 2}, {best_of: bon-2, width: 2}]"),
     "…: guide.decoders.1: best_of takes everything from the decoder it names: drop width"),
    (SETTING, "a value that is none", checked("guide.decoders.1.value=rewrd"),
     "…: guide.decoders.1.value.0.by: 'rewrd' is no value: give implicit, reward, or a function as module:name"),
    (SETTING, "a value without candidates", checked("guide.decoders.0.value=reward"),
     "…: guide.decoders.0: value has no candidates to judge: give successors"),
    (SETTING, "a weight of 0 for a value", checked("guide.decoders.1.value={by: reward, weight: 0}"),
     "…: guide.decoders.1.value.0.weight is 0: input should be greater than 0"),
    (SETTING, "steps of the implicit value", checked("guide.decoders.1.value={steps: sum}"),
     "…: guide.decoders.1.value.0.steps: the implicit value is a sum over tokens already: drop steps"),
    (SETTING, "groups that do not divide the width", checked("guide.decoders.3.groups=3"),
     "…: guide.decoders.3: groups is 3 and width 4: give a number of groups that divides the width"),
    (SETTING, "a pool for one chunk", checked("guide.decoders.1.pool=4"),
     "…: guide.decoders.1: pool frees slots for the next chunk and there is one only: give chunk"),
    (SETTING, "early rejection of beams", checked("guide.decoders.3.reject={at: [4]}"),
     "…: guide.decoders.3: reject drops samples of best-of-N: give successors, and no chunk"),
    (SETTING, "early rejection at falling lengths", checked("guide.decoders.1.reject={at: [8, 4]}"),
     "…: guide.decoders.1.reject.at: [8, 4] is in no order: give growing lengths"),
    (SETTING, "a vote that is no regular expression", checked("guide.decoders.1.vote=(a"),
     "…: guide.decoders.1: vote '(a' is no regular expression: …"),
    (SETTING, "ends of no chunk", checked("guide.decoders.1.chunk_ends=[.]"),
     "…: guide.decoders.1: chunk_ends has no chunk to end: give in chunk the most tokens of one"),
    (SETTING, "one term of EFT and several", checked("guide.decoders.6.emulate=[{weight: 1}]"),
     "…: guide.decoders.6: beta is the one term of emulated fine-tuning and emulate gives several: drop one of them"),
    (SETTING, "a pick from a shortened list", checked("guide.decoders.1.n_best=2"),
     "…: guide.decoders: gold-bon-8 picks from all of bon-8's candidates: drop its n_best"),
    (SETTING, "a budget of nothing", checked("guide.decoders.1.budget=0"),
     "…: guide.decoders.1.budget is 0: input should be greater than 0"),
    (SETTING, "shards of blocks that each machine cuts", lambda world: command(world, "guide", "guide.rows=auto",
                                                                              "--shard", "1/2"),
     "guide.rows is auto, which depends on the machine, but all shards must cut the prompts into the same blocks: give "
     "a number, such as --set guide.rows=256"),
    (SETTING, "no process at all", lambda world: command(world, "run", "--jobs", "0"), "--jobs is 0: give at least 1"),
    (SETTING, "a share of min-p above 1", checked("guide.sampling.min_p=2"),
     "…: guide.sampling.min_p is 2: input should be less than or equal to 1"),
    (SETTING, "a repetition penalty of 0", checked("guide.sampling.repetition_penalty=0"),
     "…: guide.sampling.repetition_penalty is 0: input should be greater than 0"),
    (SETTING, "a template without a place", checked("large.template='Review:'"),
     "…: large.template: the template 'Review:' must hold {prompt} exactly once, or be chat"),
    (SETTING, "a system message without a conversation", checked("small.system=Be brief."),
     "…: small: system is a message of a conversation and template is a text: write template: chat"),
    (SETTING, "a range in the wrong order", checked("data.prompt_words=[8, 2]"),
     "…: data.prompt_words: [8, 2] is no range: give two numbers of at least 1, the smaller first"),
    (SETTING, "judge snippets in the wrong order", checked("judge.snippet_words=[60, 15]"),
     "…: judge.snippet_words: [60, 15] is no range: give two numbers of at least 1, the smaller first"),
    (SETTING, "unprompted samples without a number of pairs", checked("synthesize.unprompted=true"),
     "…: pairs: synthesize.unprompted shares one prompt: say in pairs.total how many pairs to make of it"),
    (SETTING, "a threshold twice", checked("pairs.margin={value: 1, quantile: 0.5}"),
     "…: pairs.margin: give either value, quantile or deviations"),
    (SETTING, "a temperature next to nothing", checked("guide.sampling.temperature=1e-9"),
     "…: guide.sampling.temperature: 1e-09 makes logits overflow: give at least 0.001, or 0 for greedy"),
    (SETTING, "a name with a slash", checked("name=../elsewhere"),
     "…: name is '../elsewhere': string should match pattern …"),
    (SETTING, "a loss that there is not", checked("tune.loss=ppo"),
     "…: tune.loss: 'ppo' is no loss: known are sigmoid, hinge, hinge_sft"),
    (SETTING, "a label that training does not make", checked("reward.positive_label=GOOD"),
     "…: reward.positive_label: 'GOOD' is no label of a trained reward: give negative (0) or positive (1)"),
    (SETTING, "a boolean for a label", checked("reward.positive_label=yes"),
     "…: reward.positive_label: True is no number, YAML takes yes, no, on and off for true or false: put a text in "
     "quotation marks, or give a number"),
    (SETTING, "a reward that is none", checked("reward={by: cheerful}"),
     "…: reward.by: 'cheerful' is no reward: give a function as module:name, or an address as http://..."),
    (SETTING, "a reward by two", checked("reward={by: rewards.py:score, model: me/mine}"),
     "…: reward: by names what gives the reward: drop model"),
    (SETTING, "training of a scalar head", checked("reward={model: me/mine, definition: scalar, training: {}}"),
     "…: reward: definition scalar does not read training: drop it, or give definition margin or positive_logit"),
    (SETTING, "a template without the response", checked("reward={model: a, definition: scalar, template: '{prompt}'}"),
     "…: reward: template '{prompt}' must hold {prompt} and {response}, or be chat"),
    (SETTING, "training without reviews", checked("data.instructions=my.jsonl", "data.reviews=null"),
     "…: reward: training wants labelled reviews: give data.reviews, or a reward that needs no training"),
    (SETTING, "no prompts", checked("data.reviews=null"),
     "…: data: reviews is null and there are no other prompts: give reviews, instructions or preferences"),
    (SETTING, "an empty stop string", checked("guide.stop=['']"),
     "…: guide.stop.0 is '': string should have at least 1 character"),
    (FILE, "that is not there", lambda world: trimtab(world.monkeypatch, "check", "quickstrat"),
     "there is no file quickstrat: give the path of an experiment file, or one of chat, imdb-cpu, imdb-gpt2, "
     "quickstart, search-options, slic-gpt2, …"),
    (FILE, "that is a folder", lambda world: trimtab(world.monkeypatch, "check", str(world.bad)),
     "…bad is no file: give the path of an experiment file"),
    (FILE, "that is a list", in_file("- name: mine\n"),
     "the experiment file …mine.yaml is no mapping: write lines such as `name: my-experiment`"),
    (FILE, "that is empty", in_file(""), "…mine.yaml: name: it is missing: give it"),
    (FILE, "that is no YAML", in_file("name: [mine\n"), "…mine.yaml cannot be read as YAML: …"),
    (FILE, "without a name", in_file("seed: 1\n"), "…mine.yaml: name: it is missing: give it"),
    (FILE, "that says a thing twice", in_file("name: mine\nseed: 1\nseed: 2\n"),
     "…mine.yaml cannot be read as YAML: seed is given twice: drop one of them in …line 3…"),
    (FILE, "not in UTF-8", in_file("name: überaus".encode("latin-1")),
     "…mine.yaml is not UTF-8 text (byte 6): save it as UTF-8"),
    (FILE, "with brackets without end", in_file("name: " + "[" * 5000), "…mine.yaml cannot be read as YAML: maximum …"),
    (FILE, "with a number for a part", in_file("name: mine\ntune: 3\n"),
     "…mine.yaml: tune is 3: give its fields, one `field: value` a line"),
    (FILE, "with yes for a text", in_file("name: mine\nreward: {by: yes}\n"),
     "…mine.yaml: reward.by is True: YAML takes yes, no, on and off for true or false: put a text in quotation marks"),
    (FILE, "with a date for a text", in_file("name: 2024-01-01\n"),
     "…mine.yaml: name is 2024-01-01: YAML takes it for a date: put a text in quotation marks"),
    (FILE, "with yes for a number", in_file("name: mine\nseed: yes\n"),
     "…mine.yaml: seed: True is no number, YAML takes yes, no, on and off for true or false: give a number"),
    (FILE, "with a number in base eight", in_file("name: mine\nseed: 010\n"),
     "…mine.yaml cannot be read as YAML: 010 is 8 to YAML, by base 8: put it in quotation marks if it is a text, else "
     "write the number in base ten without leading zeros …"),
    (FILE, "with a number for a key", in_file("name: mine\n1: 2\n"),
     "the experiment file …mine.yaml has the name 1: YAML takes it for a number: put a text in quotation marks"),
    (FILE, "with a number for a key of a part", in_file("name: mine\ntune: {1: 2}\n"),
     "…mine.yaml: tune.1: write it in quotation marks"),
    (FILE, "that would run code", in_file("name: !!python/object/apply:os.system ['touch ran']\n"),
     "…mine.yaml cannot be read as YAML: could not determine a constructor for the tag …"),
    (PATHS, "that is not there", lambda world: command(world, "data", path_map=world.bad / "none.yaml"),
     "the path map …none.yaml cannot be read (No such file or directory): mend TRIMTAB_PATH_MAP"),
    (PATHS, "that is no YAML", mapped("imdb: [\n"), "the path map …paths.yaml cannot be read as YAML: …"),
    (PATHS, "that is a list", mapped("- imdb\n"),
     "the path map …paths.yaml is no mapping: write lines such as `name: folder`"),
    (PATHS, "with a number for a folder", mapped("imdb: 3\n"),
     "the path map …paths.yaml gives no folder for 'imdb' but 3: write `name: folder`; YAML takes it for a number: put "
     "a text in quotation marks"),
    (PATHS, "with a name of no letters", mapped("2024: gone\n"),
     "the path map …paths.yaml has the name 2024: YAML takes it for a number: put a text in quotation marks"),
    (PATHS, "to a place that is not there", mapped("imdb: gone\n"),
     "the path map gives …gone for imdb, which does not exist: mend the path map"),
    (PATHS, "that would run code", mapped("imdb: !!python/object/apply:os.system ['touch ran']\n"),
     "the path map …paths.yaml cannot be read as YAML: could not determine a constructor for the tag …"),
    (PATHS, "that is a pickle", mapped(pickle.dumps({"imdb": "here"})),
     "the path map …paths.yaml is not UTF-8 text (byte 0): save it as UTF-8"),
]  # fmt: skip
TABLE = [Fault(*entry) for entry in (*CONFIGURATION, *data.FAULTS, *models.FAULTS, *artifacts.FAULTS)]
