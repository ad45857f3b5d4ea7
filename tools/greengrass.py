"""Build the artifacts of the Greengrass component: a zip of wheels for each kind of device, and the recipe for them.

A device installs from its zip alone. Run it from the project's folder: `make greengrass BUCKET=...`.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from image_requirements import requirements

PYPROJECT = Path("pyproject.toml")
RECIPE = Path("deploy/greengrass/recipe.json")
MACHINES = ("x86_64", "aarch64")
#: Wheels for glibc 2.28 and older: Debian 10, Ubuntu 20.04, Amazon Linux 2023 and all later ones.
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
#: What would make the zip many times as large; nothing at run time needs it.
UNWANTED = ("torch", "torchvision", "facenet_pytorch")
#: Of all members of an archive, so that the same wheels make the same bytes; the earliest that a zip can hold.
_DATE = (1980, 1, 1, 0, 0, 0)


def build_wheel(folder: Path) -> Path:
    """Build the project's own wheel in `folder`."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, "."], check=True
    )
    (wheel,) = folder.glob("facewire-*.whl")
    return wheel


def download_wheels(wheel: Path, machine: str, python_version: str, folder: Path) -> None:
    """Gather the project's wheel and the wheels of what it needs on such a device in `folder`."""
    tag = python_version.replace(".", "")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", str(folder)]
    command += ["--only-binary", ":all:", "--implementation", "cp", "--python-version", python_version]
    for abi in (f"cp{tag}", "abi3", "none"):
        command += ["--abi", abi]
    for platform in PLATFORMS:
        command += ["--platform", f"{platform}_{machine}"]
    subprocess.run([*command, "--constraint", "constraints.txt", *requirements(PYPROJECT, ["greengrass"])], check=True)
    shutil.copy(wheel, folder)
    if unwanted := [found.name for found in folder.iterdir() if found.name.lower().split("-")[0] in UNWANTED]:
        sys.exit(f"a device needs none of {', '.join(unwanted)}: something in the extra `greengrass` asks for it")


def pack(folder: Path, archive: Path) -> None:
    """Put the files of `folder` into `archive`, as they are: wheels are compressed already."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for file in sorted(folder.iterdir()):
            member = zipfile.ZipInfo(file.name, _DATE)
            member.external_attr = 0o644 << 16
            with packed.open(member, "w") as target, file.open("rb") as source:
                shutil.copyfileobj(source, target)


def render(recipe: str, *, version: str, bucket: str) -> str:
    """Return the recipe for one version, whose artifacts are in `bucket`."""
    return recipe.replace("COMPONENT_VERSION", version).replace("BUCKET_NAME", bucket)


def main() -> None:
    """Build it all and say what to do with it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bucket", required=True, help="the bucket that cores fetch the artifacts from")
    parser.add_argument("--python-version", default="3.11", help="of the devices (default: 3.11)")
    parser.add_argument("--machine", choices=MACHINES, action="append", help="only for this one (default: all)")
    parser.add_argument("--out", type=Path, default=Path("build/greengrass"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        wheel = build_wheel(Path(scratch))
        version = wheel.name.split("-")[1]
        given.out.mkdir(parents=True, exist_ok=True)
        for machine in given.machine or MACHINES:
            folder = Path(scratch) / machine
            download_wheels(wheel, machine, given.python_version, folder)
            archive = given.out / f"facewire-{machine}.zip"
            pack(folder, archive)
            print(f"{archive}: {archive.stat().st_size / 1e6:.1f} MB, {len(list(folder.iterdir()))} wheels")
    recipe = given.out / "recipe.json"
    recipe.write_text(render(RECIPE.read_text(), version=version, bucket=given.bucket))
    place = f"s3://{given.bucket}/greengrass/com.clientdevices.FaceDetection/{version}/"
    print(f"{recipe}: version {version}. Next:")
    print(f"  aws s3 cp {given.out} {place} --recursive --exclude '*' --include '*.zip'")
    print(f"  aws greengrassv2 create-component-version --inline-recipe fileb://{recipe}")


if __name__ == "__main__":
    main()
