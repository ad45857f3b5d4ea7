"""Take the Lambda runtime interface emulator, which tests run functions under, out of the wheel of aws-sam-cli.

pip download --no-deps --dest build aws-sam-cli
python tools/lambda_emulator.py build
"""

import argparse
import platform
import sys
import zipfile
from pathlib import Path

#: What the emulator calls this processor.
MACHINES = {"x86_64": "x86_64", "aarch64": "arm64"}


def extract(folder: Path) -> Path:
    """Write the emulator of this machine, from the wheel in `folder`, to `aws-lambda-rie` beside it."""
    wheels = sorted(folder.glob("aws_sam_cli-*.whl"))
    machine = MACHINES.get(platform.machine())
    if not wheels or machine is None:
        sys.exit(f"needs aws_sam_cli-*.whl in {folder}, and x86_64 or aarch64: this is {platform.machine()}")
    target = folder / "aws-lambda-rie"
    with zipfile.ZipFile(wheels[-1]) as wheel:
        target.write_bytes(wheel.read(f"samcli/local/rapid/aws-lambda-rie-{machine}"))
    target.chmod(0o755)
    return target


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the wheel lies")
    print(extract(parser.parse_args().folder))
