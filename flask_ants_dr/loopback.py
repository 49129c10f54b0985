"""Which addresses only this machine reaches."""

from __future__ import annotations

from ipaddress import ip_address


def is_loopback(host: str | None) -> bool:
    """Whether a host is this machine by a name or an address that no other one has.

    :param host: without brackets, as ``urlsplit(url).hostname`` has it.
    """
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:  # another name
        return False
