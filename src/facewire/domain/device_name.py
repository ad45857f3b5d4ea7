"""The line of a device's bundle that holds its name; read without the library that makes certificates."""

from pathlib import Path

from facewire.domain.errors import SettingsError

#: Before the first PEM block, where RFC 7468 (section 2) allows text that readers skip.
DEVICE_LINE = "Facewire device: "


def read_device_name(bundle: Path) -> str:
    """Return the device that a bundle of `facewire certs device` is for.

    SettingsError `bundle` where the file cannot be read or does not say.
    """
    try:
        with bundle.open(encoding="utf-8", errors="replace") as file:
            line = file.readline(1024)
    except OSError as error:
        raise SettingsError("bundle", f"{bundle}: cannot be read: {error.strerror}") from error
    if not line.startswith(DEVICE_LINE):
        detail = f"{bundle}: does not begin with {DEVICE_LINE!r}: give the certificate's name as --camera"
        raise SettingsError("bundle", detail)
    return line.removeprefix(DEVICE_LINE).rstrip("\n")
