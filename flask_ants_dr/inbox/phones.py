"""Phone numbers, however they are written, as ANTS writes them."""

from __future__ import annotations

from ..decoding.text import storable

_REGION = "TH"
_LONGEST = 40
_LEAST_DIGITS = 3
_MOST_DIGITS = 15


def international(text: str) -> str | None:
    """A phone number as ANTS writes it: the digits, with the country code in front.

    :param text: in any usual notation; one without a country code is Thai.
    :return: ``None`` where it is no phone number.
    """
    if len(text) > _LONGEST:
        return None
    # Here, because only few processes need it, and importing it takes its time.
    import phonenumbers

    text = text.strip()
    is_bare = text.isascii() and text.isdigit() and not text.startswith("0")
    found = []
    for written, region in ((text, _REGION), (f"+{text}" if is_bare else "", None)):
        try:
            found.append(phonenumbers.parse(written, region))
        except phonenumbers.NumberParseException:
            continue
    valid = [one for one in found if phonenumbers.is_valid_number(one)]
    if not valid and is_bare:  # one that no operator has, as those of tests
        return text if _LEAST_DIGITS <= len(text) <= _MOST_DIGITS else None
    valid += [one for one in found if phonenumbers.is_possible_number(one)]
    if not valid:
        return None
    return phonenumbers.format_number(valid[0], phonenumbers.PhoneNumberFormat.E164)[1:]


def as_asked(to: str) -> str:
    """A number that is looked for, in whatever notation, as it is kept."""
    to = storable(to)
    return international(to) or to


def as_reported(to: str) -> str:
    """The number of a report: what ANTS sends is as it is kept, but for what people write."""
    is_plain = to.isascii() and to.isdigit() and not to.startswith("0")
    return to if is_plain else international(to) or to
