"""Credentials in addresses: removed before anything is written or printed.

An address may hold them before its host (s3://KEY:SECRET@bucket) or in its query (https://host/file?token=T). They work
where they are given, for the command itself; no file, message or network gets them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

SCHEME = r"[A-Za-z][A-Za-z0-9+.-]{0,30}://"
USER = r"""(?:(?!://)[^\s?#])*@|[^\s:/?#@\['"<>|]+:(?!\s|\d{1,5}(?:[\s'"<>|,;:)/]|$))(?:(?!://)[^\n])*?@"""
"""What is before a host in a text. Behind its colon a password may hold any character, but a port is none."""
ADDRESS = re.compile(rf"""{SCHEME}(?:{USER})?(?:(?![,;(){{}}\[\]]{SCHEME})[^\s'"<>|])*""")
"""An address in a text; another one may follow behind a comma or a bracket."""
PLAIN_PARAMETERS = frozenset(
    "scheme region endpoint_override allow_bucket_creation allow_bucket_deletion connect_timeout request_timeout "
    "retry_limit_seconds versionId generation".split()
)
"""Parameters of a query that are no secret: those with which pyarrow opens a store, and versions of objects."""
PLAIN_FRAGMENT = re.compile(r"sha256=[0-9a-fA-F]{1,64}|/experiments/[0-9]{1,20}/runs/[0-9a-f]{32}")
"""A checksum, or the page of a run of MLflow."""


def without_credentials(text: str) -> str:
    """A text whose addresses have neither user names and passwords nor queries that may hold secrets."""
    if "://" not in text:
        return text
    if re.match(SCHEME, text) and "\n" not in text and text.count("://") == 1:
        return _plain(text)  # a whole value, whose password may hold any character
    return ADDRESS.sub(lambda match: _plain(match[0]), text)


def host_of(address: str) -> str:
    """Scheme and host of an address, whose path may be a secret, too; empty for a text that is no address."""
    if not re.match(SCHEME, address):
        return ""
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{re.split('[/?#]', rest)[0].rpartition('@')[2]}"


def clean(value: Any) -> Any:
    """JSON-like data in which every text, keys included, is without credentials."""
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, Mapping):
        return {clean(key): clean(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(clean, value)) if type(value) in (list, tuple) else [clean(entry) for entry in value]
    return value


class _Clean(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_credentials(record.getMessage()), ()
        return True


_CLEAN = _Clean()


def logger_of(module: str) -> logging.Logger:
    """The logger of a module, whose messages are without credentials."""
    logger = logging.getLogger(module)
    logger.addFilter(_CLEAN)
    return logger


def _plain(address: str) -> str:
    scheme, _, rest = address.partition("://")
    rest, hash_mark, fragment = rest.partition("#")
    rest, question, query = rest.partition("?")
    if "@" in hash_mark + fragment + question + query and "@" not in rest:
        # A password with one of the marks: the host begins behind the last @.
        whole = address.partition("://")[2]
        rest, hash_mark, fragment = whole.rpartition("@")[2].partition("#")
        rest, question, query = rest.partition("?")
    kept = "&".join(filter(None, map(_plain_parameter, query.split("&"))))
    shown = f"#{fragment}" if PLAIN_FRAGMENT.fullmatch(fragment) else ""
    return f"{scheme}://{_without_user(rest)}{'?' * bool(kept)}{kept}{shown}"


def _without_user(rest: str) -> str:
    """Host and path without what is before the host; a secret key that is not quoted may hold a slash."""
    host, slash, path = rest.partition("/")
    if "@" in host:
        return host.rpartition("@")[2] + slash + path
    if ":" in host and "@" in path and not host.startswith("["):  # what looks like a port may begin a secret
        return rest.rpartition("@")[2]
    return rest


def _plain_parameter(parameter: str) -> str:
    """A parameter of a query, empty unless it is known to be no secret."""
    name, equals, value = parameter.partition("=")
    if name not in PLAIN_PARAMETERS:
        return ""
    host = unquote(value)
    if "@" in host:
        value = host.rpartition("@")[2]
    return name + equals + value
