"""AWS credentials as AWS's own tools find them: the environment, or a profile of a credentials file."""

import configparser
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from farthing.core.errors import ConfigError
from farthing.core.signing_aws import AwsKeys

_ID: Final = "aws_access_key_id"
_SECRET: Final = "aws_secret_access_key"
_TOKEN: Final = "aws_session_token"


def keys_of_env(env: Mapping[str, str]) -> AwsKeys | None:
    """The keys of ``AWS_ACCESS_KEY_ID`` and its companions; None without them."""
    key_id, secret = (env.get(name.upper(), "").strip() for name in (_ID, _SECRET))
    if not key_id or not secret:
        return None
    return AwsKeys(key_id=key_id, secret=secret, token=env.get(_TOKEN.upper(), "").strip())


class CredentialsFile:
    """A profile of a credentials file, read again whenever the file changes: whoever rotates keys writes it."""

    def __init__(self, path: Path, profile: str) -> None:
        """Raises :class:`ConfigError` when the file has no such profile."""
        self._path = path
        self._profile = profile
        self._changed_ns = -1
        self._keys = self._read()

    def __call__(self) -> AwsKeys:
        """The keys of this moment; a file that cannot be read just now leaves those that were read last."""
        try:
            if self._path.stat().st_mtime_ns != self._changed_ns:
                self._keys = self._read()
        except (OSError, ConfigError):
            return self._keys
        return self._keys

    def _read(self) -> AwsKeys:
        reader = configparser.ConfigParser(interpolation=None)
        try:
            changed_ns = self._path.stat().st_mtime_ns
            reader.read_string(self._path.read_text(encoding="utf-8"))
            part = reader[self._profile]
            found = AwsKeys(key_id=part[_ID], secret=part[_SECRET], token=part.get(_TOKEN, ""))
        except OSError as error:
            raise ConfigError([f"{self._path} cannot be read: {error.strerror}"], source="aws_credentials") from None
        except (configparser.Error, KeyError, UnicodeDecodeError):  # the parser's own words quote the file
            raise ConfigError(
                [f"{self._path} has no profile '{self._profile}' with {_ID} and {_SECRET}"], source="aws_credentials"
            ) from None
        self._changed_ns = changed_ns
        return found


def always(keys: AwsKeys) -> Callable[[], AwsKeys]:
    """Keys that stay."""
    return lambda: keys
