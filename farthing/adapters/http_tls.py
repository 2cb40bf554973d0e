"""The TLS settings of every upstream connection."""

import ssl

import certifi

from farthing.core.errors import ConfigError


def client_tls(ca_file: str = "", *, alpn: tuple[str, ...] = ("http/1.1",)) -> ssl.SSLContext:
    """A verifying context. ``ca_file`` replaces the system's authorities; ``SSL_CERT_FILE`` works as for OpenSSL.

    Raises ``ConfigError`` when the file cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError([f"CA file {ca_file!r} cannot be used: {error}. Give a PEM file."], source="TLS") from None
    paths = ssl.get_default_verify_paths()
    if not ca_file and not any((paths.cafile, paths.capath)):
        context.load_verify_locations(certifi.where())  # a slim container without a system bundle
    context.set_alpn_protocols(list(alpn))
    return context
