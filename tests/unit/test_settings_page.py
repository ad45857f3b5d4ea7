"""docs/settings.md lists every setting with its default, and compose's own variables as docker-compose.yml has them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from facewire.runtime.settings import Settings
from facewire_detector.service import DetectorServiceSettings
from facewire_gateway.service import GatewayServiceSettings
from facewire_recognizer.service import RecognizerServiceSettings
from facewire_standalone.settings import StandaloneSettings

ROOT = Path(__file__).parents[2]
CLASSES: dict[str, type[Settings]] = {
    "D": DetectorServiceSettings,
    "R": RecognizerServiceSettings,
    "G": GatewayServiceSettings,
    "S": StandaloneSettings,
}
UNITS = (("GiB", 1024**3), ("MiB", 1024**2))


def rows(columns: int) -> list[list[str]]:
    lines = (ROOT / "docs" / "settings.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    return [[row[0].strip("`"), *row[1:]] for row in cells if len(row) == columns]


def shown(default: Any) -> str:
    match default:
        case None:
            return "none"
        case bool():
            return str(default).lower()
        case int():
            return next(
                (f"{default // size} {unit}" for unit, size in UNITS if default and default % size == 0), str(default)
            )
        case float():
            return f"{default:g}"
        case tuple():
            return json.dumps(default)
    return str(default)


def users(setting: str) -> str:
    return " ".join(letter for letter, settings in CLASSES.items() if setting.lower() in settings.model_fields)


def default_of(setting: str) -> str:
    """Return the default; of a service where the standalone process chooses its own at the start."""
    fields = [
        settings.model_fields[setting.lower()]
        for settings in CLASSES.values()
        if setting.lower() in settings.model_fields
    ]
    defaults = {shown(field.default) for field in fields if field.default_factory is None}
    assert len(defaults) == 1, f"{setting}: {defaults}"
    return defaults.pop()


def test_the_page_has_every_setting_once() -> None:
    listed = [row[0] for row in rows(4)]
    assert sorted(listed) == sorted({name.upper() for settings in CLASSES.values() for name in settings.model_fields})


@pytest.mark.parametrize("row", rows(4), ids=lambda row: row[0])
def test_a_row_is_true(row: list[str]) -> None:
    setting, default, services, meaning = row
    assert default == default_of(setting)
    assert services == users(setting)
    assert meaning


def test_the_variables_of_compose_are_true() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    used = {name: default or "none" for name, default in re.findall(r"\$\{(\w+):-([^}]*)\}", text)}
    listed = {name: default for name, default, _ in rows(3)}
    settings = {f"FACEWIRE_{row[0]}": row[1] for row in rows(4)}
    assert listed == {name: default for name, default in used.items() if name not in settings}
    assert all(settings[name] == default for name, default in used.items() if name in settings)
