"""What must be in an sdist and a wheel, and what must not: `python .ci/check_dist.py dist`."""

import sys
import tarfile
import zipfile
from pathlib import Path

PACKAGE = Path("fastbcast")
CORE = sorted(str(path.with_suffix("")) for path in PACKAGE.rglob("*.pyx"))
DATA = ["fastbcast/py.typed", "fastbcast/web/index.html", "pytest_fastbcast.py", *map(str, PACKAGE.rglob("*.py"))]
DATA += ["fastbcast/load/report.html.jinja", "fastbcast/load/floor/floor.c", "fastbcast/load/floor/wire.h"]
DATA += [f"{name}.{ending}" for name in CORE for ending in ("pyx", "pxd", "pyi")]


def check(archive: Path, names: list[str], wanted: list[str], unwanted: tuple[str, ...]) -> bool:
    missing = [name for name in wanted if name not in names]
    leaked = [name for name in names if name.startswith("fastbcast/") and name.endswith(unwanted)]
    leaked = [name for name in leaked if name not in wanted]
    leaked += [name for name in names if name.startswith((".", "build/")) or "node_modules/" in name]
    print(f"{archive.name}: {len(names)} files, missing: {missing or 'none'}, too many: {leaked or 'none'}")
    return not missing and not leaked


def main(folder: Path) -> int:
    if not CORE:
        sys.exit("there is no fastbcast/*.pyx here to compare with: run it in the folder of the repository")
    (sdist,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    with tarfile.open(sdist) as tar:
        in_sdist = [member.name.partition("/")[2] for member in tar.getmembers() if member.isfile()]
    in_wheel = zipfile.ZipFile(wheel).namelist()
    compiled = [name.partition(".")[0] for name in in_wheel if name.endswith(".so")]
    is_right = check(sdist, in_sdist, [*DATA, "setup.py", "Makefile", "tests/conftest.py"], (".c", ".so"))
    is_right &= check(wheel, in_wheel, DATA, (".c",))
    if sorted(compiled) != CORE:
        print(f"the wheel's compiled modules are {sorted(compiled)}, the sources' {CORE}")
        is_right = False
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
