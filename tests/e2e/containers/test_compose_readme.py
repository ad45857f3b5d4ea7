"""The lines of README.md for docker compose, as they stand there."""

import json
import re
import subprocess

from compose_stack import ROOT, Stack


def lines_of(section: str) -> str:
    """Return the first block of shell lines in that section of README.md."""
    [body] = re.findall(rf"^## {section}$(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    [lines, *_] = re.findall(r"```sh\n(.*?)```", body, re.DOTALL)
    return str(lines)


def test_the_lines_of_the_readme_enrol_send_and_answer(stack: Stack) -> None:
    # Which of the two ports a gateway gets would be up to chance.
    port = stack.environment["FACEWIRE_HTTP_PORT"].partition("-")[0]
    script = lines_of("Run it with docker compose").replace("127.0.0.1:8080", f"127.0.0.1:{port}")
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        env={**stack.environment, "FACEWIRE_HTTP_PORT": port},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    # curl puts no line end between the answers.
    answers = [json.loads(line) for line in ran.stdout.replace("}{", "}\n{").splitlines() if line.startswith("{")]
    assert any("face_id" in answer for answer in answers), ran.stdout
    assert answers[-1]["status"] == "done", ran.stdout
    assert answers[-1]["result"] == "Eileen Collins", ran.stdout
