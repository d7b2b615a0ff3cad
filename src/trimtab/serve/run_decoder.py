"""A decoder of a finished run, as a program in Python uses it."""

from pathlib import Path

from trimtab.assets.resolve import Assets
from trimtab.errors import ConfigurationError, check_type, suggestion
from trimtab.search.chunk_beam import Search
from trimtab.search.decoders import search_settings
from trimtab.search.guided_model import GuidedModel
from trimtab.serve.engine_parts import RoleParts
from trimtab.serve.loading import Served, of_run
from trimtab.serve.model_names import decoder_named


def load_run(run: str | Path, decoder: str, assets: Assets | None = None) -> GuidedModel:
    """A decoder of a finished run: its models, templates, search, sampling, stop strings, length and seed.

    Args:
        run: the run directory.
        decoder: a decoder's name in the run's table, or another search of its models such as `cbs-2-2-5`.
        assets: where models are looked up (default: the usual places).

    Raises:
        RunError: the run has no report, or an artifact of it is not whole.
        ConfigurationError: there is no such decoder, or it needs what cannot be loaded from the run; or the run's large
            model is behind an endpoint.
        AssetError, ModelError: a model cannot be found or loaded.

    >>> load_run("runs/quickstart", "cbs-4-4-5").generate("I really")  # doctest: +SKIP
    ' enjoyed this film'
    """
    check_type("run", run, str | Path, "a run directory")
    check_type("decoder", decoder, str, "a decoder's name")
    check_type("assets", assets, Assets | None, "a trimtab.Assets")
    served = Served(of_run(Path(run)), assets or Assets())
    names, guide = served.names, served.experiment.guide
    own = {config.name: config for config in guide.decoders}
    config = names.decoders.get(decoder) or own.get(decoder) or decoder_named(decoder, names.model)
    if config is None:
        raise ConfigurationError(f"{run} has no decoder {decoder}: {suggestion(decoder, own)}")
    needs = "the answers of another decoder" if config.best_of is not None else served.missing(config)
    if needs is None and config.chunk_ends:
        needs = "texts at which a chunk ends, which a GuidedModel does not know"
    if needs is not None:
        raise ConfigurationError(f"{decoder} cannot be loaded from {run}, since it needs {needs}: name another decoder")
    parts = RoleParts(served.roles, served.gold)(config)
    search = Search(**search_settings(config), max_new_tokens=guide.max_new_tokens)
    return GuidedModel(parts.model, parts.value, search, guide.sampling, guide.stop, served.experiment.seed)
