"""The marks that decoders are measured by: the gold reward's own pick from samples, and the best decoder.

>>> guide = GuideConfig.model_validate({"decoders": [{}, {"successors": 4}, {"best_of": "bon-4"}]})
>>> oracle_of(guide, guide.decoder("bon-4")).name, best_decoder(guide, {"base": 0.0, "bon-4": 1.0, "gold-bon-4": 2.0})
('gold-bon-4', 'bon-4')
"""

from collections.abc import Mapping

from trimtab.config.guide import DecoderConfig, GuideConfig


def oracle_of(guide: GuideConfig, decoder: DecoderConfig) -> DecoderConfig | None:
    """The `best_of` decoder whose gain is the whole headroom of `decoder`; None where there is none for its model.

    Of several: the one that picks from `decoder` itself, else from as many candidates, else from the most.
    """
    source = sampled_by(guide, decoder)

    def closeness(oracle: DecoderConfig) -> tuple[bool, bool, int]:
        sampled = sampled_by(guide, oracle)
        size = sampled.width * sampled.successors
        return (sampled == source, size == source.width * source.successors, size)

    fitting = [
        oracle
        for oracle in guide.decoders
        if oracle.best_of is not None
        and (sampled := sampled_by(guide, oracle)).model == source.model
        and sampled.terms == source.terms
    ]
    return max(fitting, key=closeness, default=None)


def sampled_by(guide: GuideConfig, decoder: DecoderConfig) -> DecoderConfig:
    """The decoder that wrote the candidates: another one where this one picks from its samples."""
    return decoder if decoder.best_of is None else guide.decoder(decoder.best_of)


def best_decoder(guide: GuideConfig, rewards: Mapping[str, float]) -> str | None:
    """The decoder of highest mean reward, of those that the gold reward did not help; None where it helped all."""
    unaided = {
        name: reward
        for name, reward in rewards.items()
        if guide.decoder(name).best_of is None and not guide.decoder(name).guided_by_gold
    }
    return max(unaided, key=unaided.__getitem__) if unaided else None
