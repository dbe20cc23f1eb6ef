"""Addresses of servers and proxies: what can be one, and which are on this computer."""

import contextlib
import ipaddress
import os
from collections.abc import Sequence
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

from helpers.common.errors import UsageError

HTTP, WEBSOCKETS = ("http", "https"), ("ws", "wss")  # how addresses begin
PROXIES = ("http", "https", "socks5", "socks5h")  # that httpx knows
# This computer, as NO_PROXY names it. Not every library understands a network: hence its usual address, too.
LOCAL_NAMES = ("localhost", "127.0.0.1", "127.0.0.0/8", "::1", "0.0.0.0")


def find_fault(text: str, schemes: Sequence[str] = HTTP) -> str:
    """Why a text is not an address that begins with one of these; "" if it is."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:  # of the port, or of brackets
        return str(error)
    if parts.scheme not in schemes:
        return f"it does not begin with {' or '.join(f'{scheme}://' for scheme in schemes)}"
    return "" if parts.hostname else "it has no host"


def is_address(text: str) -> bool:
    """Whether a text is an address of HTTP with a host."""
    return not find_fault(text) and text.isprintable() and " " not in text


def is_local(url: str) -> bool:
    """True if the address is on this computer: localhost, 127.0.0.0/8, ::1 or 0.0.0.0."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # a bracket without its counterpart
        return False
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):  # the host is a name
        address = ipaddress.ip_address(host)
        return address.is_loopback or address.is_unspecified
    return False


def spare_localhost() -> None:
    """Adds this computer to NO_PROXY, for what reads the environment: libraries, lessons, child processes.

    Without a proxy in the environment it does nothing, because NO_PROXY alone would make Python ignore the
    proxies in the settings of macOS and Windows.
    """
    proxies = getproxies_environment()
    if not proxies.keys() - {"no"}:
        return
    names = [name.strip() for name in proxies.get("no", "").split(",") if name.strip()]
    names += [name for name in LOCAL_NAMES if name not in names]
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(names)


def check_proxies() -> None:
    """A UsageError for a proxy in the environment that is not an address, which httpx does not explain."""
    for scheme, proxy in getproxies_environment().items():
        if scheme == "no" or not proxy:
            continue
        if find_fault(proxy if "://" in proxy else f"http://{proxy}", PROXIES):
            problem = f"{scheme.upper()}_PROXY in the environment is not the address of a proxy."
            raise UsageError(problem, f"Correct or unset it: it begins with one of {', '.join(PROXIES)}.")
