"""The documents behind texts, with the shares of each that go into the splits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from fourfold.core.errors import UserError
from fourfold.data.corpus import Corpus
from fourfold.data.mixture import mixed
from fourfold.data.readers import Origin
from fourfold.data.text_sources import find_origins

if TYPE_CHECKING:
    from fourfold.data.text import Text


class Stock(NamedTuple):
    """Documents with the shares that go into the splits."""

    corpus: Corpus
    shares: tuple[float, float, float]
    name: str = ""
    trains: bool = True
    """Whether its training share is used."""


def read_stocks(
    options: Text, sources: Any, valid: Any, *, whole: bool
) -> tuple[list[Stock], list[str]]:
    """The sources' documents, then those to train on in their place, then those of the validation split; with notes."""
    train, held, test = options.split
    shares = (train, held, test)
    if whole:
        shares = (0.0, 0.0, 1.0)
    elif valid is not None:
        shares = (train + held, 0.0, test)
    notes: list[str] = []
    groups: list[tuple[str, list[Origin], tuple[float, float, float], bool]] = []
    replaced = options.training is not None and not whole
    if options.mixture is not None and not whole:
        found, notes = mixed(options.mixture, sources, options.field, strict=options.strict)
        groups += [(name, origins, shares, True) for name, origins in found]
    else:
        origins, notes = find_origins(sources, options.field, strict=options.strict)
        groups.append(("", origins, shares, not replaced))
    if replaced:
        more, said = find_origins(options.training, options.field, strict=options.strict)
        groups.append(("", more, (1.0, 0.0, 0.0), True))
        notes += said
    if valid is not None:
        more, said = find_origins(valid, options.field, strict=options.strict)
        known = {o.path.resolve() for group in groups for o in group[1] if o.path}
        if both := known & {o.path.resolve() for o in more if o.path}:
            raise UserError(f"{min(both)}: is among the training and the validation texts")
        groups.append(("", more, (0.0, 1.0, 0.0), True))
        notes += said
    stocks = [Stock(Corpus(some), share, name, on) for name, some, share, on in groups]
    if empty := sum(stock.corpus.empty for stock in stocks):
        notes.append(f"{empty} documents without text left out")
    return stocks, notes
