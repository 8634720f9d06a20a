"""The layer with what handlers need beyond Lambda's own packages, for Linux on x86-64 whatever this machine is.

`python -m cdk.layers` fetches the wheels that lambdas/requirements.lock names; after that a synth needs no network.
`python -m cdk.layers --lock` writes the locks anew, at the versions that are installed here.
`python -m cdk.layers --providers FILE.zip` makes the layer with the clients of OpenAI, Vertex and Anthropic that paid
tunes need, of lambdas/providers.lock: it is published by hand, and named in `finetune_layer_arns`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import aws_cdk as cdk
import jsii
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from cdk.code import BUNDLING_IMAGE, PYTHON, ROOT, RUNTIME
from stepforge.errors import EnvironmentUnavailable, IntegrityError, InvalidInput

LOCK = ROOT / "lambdas" / "requirements.lock"
PROVIDERS_LOCK = ROOT / "lambdas" / "providers.lock"
WHEELS = ROOT / ".wheels"
PACKAGES = ("annotated-types", "cffi", "cryptography", "pycparser", "pydantic", "pydantic-core", "typing-extensions",
            "typing-inspection")  # fmt: skip
"""pydantic for every handler; cryptography signs for Vertex when a service account's key is rotated."""
PROVIDERS = ("anthropic", "gepa", "google-cloud-aiplatform", "google-cloud-storage", "google-genai", "openai")
NOT_LOADED = ("agentplatform", "vertexai", "google/cloud/aiplatform", "google/cloud/aiplatform_v1beta1",
              "google/cloud/bigquery*", "google/cloud/resourcemanager*", "bin")  # fmt: skip
"""Of google-cloud-aiplatform the clients of version 1 are used, for jobs, models and endpoints; they need none of
these, with which the layer is larger than Lambda takes."""
MOST_PROVIDERS_BYTES = 200 * 2**20
"""Of the 250 MiB that a function and its layers may unpack to, the rest is for handlers, pydantic and cryptography."""
# Lambda's Python 3.11 runs on glibc 2.26: manylinux_2_28 would not load there.
_TARGET = ("--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}",
           "--platform=manylinux2014_x86_64", "--platform=manylinux_2_17_x86_64")  # fmt: skip
_LINE = re.compile(r"(?P<name>[\w-]+)==(?P<version>\S+) --hash=sha256:(?P<sha256>[0-9a-f]{64})")
_HEAD = f"# Written by `python -m cdk.layers --lock`: wheels for Linux on x86-64 with Python {PYTHON}."


def locked(lock: Path = LOCK) -> dict[str, str]:
    """SHA-256 of each wheel to its requirement. Raises InvalidInput for a line without a version or a hash."""
    found = {}
    for line in lock.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        if (match := _LINE.fullmatch(line)) is None:
            raise InvalidInput(f"{lock.name}: {line!r} is no `name==version --hash=sha256:...`: write the lock anew")
        found[match["sha256"]] = f"{match['name']}=={match['version']}"
    return found


def wheels(lock: Path = LOCK, cache: Path = WHEELS) -> list[Path]:
    """The locked wheels, by the names of their requirements; those that are not cached are downloaded.

    Raises EnvironmentUnavailable where one is neither cached nor to be had.
    """
    wanted = locked(lock)
    cached = _by_digest(cache)
    if missing := [requirement for sha256, requirement in wanted.items() if sha256 not in cached]:
        _download(missing, cache, "--require-hashes", lines=lock.read_text(encoding="utf-8"))
        cached = _by_digest(cache)
    if lost := [requirement for sha256, requirement in wanted.items() if sha256 not in cached]:
        raise IntegrityError(f"what was downloaded as {lost} has other digests than {lock.name} says")
    return [cached[sha256] for sha256 in sorted(wanted, key=wanted.__getitem__)]


def lay_out(files: list[Path], target: Path) -> None:
    """Unpack wheels as Lambda finds them: `python/`. The same wheels give the same bytes, names and modes."""
    for wheel in files:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                # RECORD and WHEEL speak of how it was installed; tests and headers are not run.
                if not name.endswith("/") and ".data/" not in name:
                    archive.extract(name, target / "python")
    for path in target.rglob("*"):
        path.chmod(0o755)


@jsii.implements(cdk.ILocalBundling)
class _Unpacked:
    def try_bundle(self, output_dir: str, *_: object, **__: object) -> bool:
        lay_out(wheels(), Path(output_dir))
        return True


def layer(scope: Construct) -> lambda_.LayerVersion:
    image = cdk.DockerImage.from_registry(BUNDLING_IMAGE)
    code = lambda_.Code.from_asset(
        str(LOCK.parent),
        asset_hash_type=cdk.AssetHashType.CUSTOM,
        # The lock names every byte of it.
        asset_hash=hashlib.sha256(LOCK.read_bytes() + Path(__file__).read_bytes()).hexdigest(),
        bundling=cdk.BundlingOptions(image=image, local=_Unpacked()),
    )
    return lambda_.LayerVersion(
        scope,
        "Packages",
        code=code,
        compatible_runtimes=[RUNTIME],
        compatible_architectures=[lambda_.Architecture.X86_64],
        description="pydantic and cryptography for the handlers",
    )


def _by_digest(folder: Path) -> dict[str, Path]:
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in sorted(folder.glob("*.whl"))}


def _download(requirements: list[str], into: Path, *options: str, lines: str) -> None:
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(lines)
        file.flush()
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(into), *_TARGET]
        done = subprocess.run([*command, *options, "-r", file.name], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvironmentUnavailable(
            f"{requirements} are not in {into.name}/ and cannot be downloaded ({done.stderr.strip()[-300:]}): run "
            "`python -m cdk.layers` once with a network"
        )


def relock(lock: Path = LOCK) -> str:
    """The text of the lock at the versions installed here."""
    requirements = [f"{name}=={version(name)}" for name in PACKAGES]
    with tempfile.TemporaryDirectory() as folder:
        _download(requirements, Path(folder), lines="\n".join(requirements))
        lines = []
        for path in Path(folder).glob("*.whl"):
            name, number, *_ = path.name.split("-")
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            lines.append(f"{name.lower().replace('_', '-')}=={number} --hash=sha256:{digest}")
    return "\n".join([_HEAD, *sorted(lines)]) + "\n"


def relock_providers() -> str:
    """The text of the lock of the clients at the versions installed here, with all that they need.

    What the handlers' own layer has is left out: Lambda lays both over each other, and two versions would mix.
    """
    ours = list(locked().values())
    names = {requirement.partition("==")[0] for requirement in ours}
    with tempfile.TemporaryDirectory() as folder:
        report, constraints = Path(folder) / "report.json", Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(ours))
        wanted = [f"{name}=={version(name)}" for name in PROVIDERS]
        _install(wanted, Path(folder), "--dry-run", f"--report={report}", f"--constraint={constraints}")
        found = json.loads(report.read_text())["install"]
    lines = []
    for one in found:
        name = one["metadata"]["name"].lower().replace("_", "-").replace(".", "-")
        if name not in names:
            sha256 = one["download_info"]["archive_info"]["hashes"]["sha256"]
            lines.append(f"{name}=={one['metadata']['version']} --hash=sha256:{sha256}")
    return "\n".join([_HEAD, *sorted(lines)]) + "\n"


def _install(requirements: list[str], into: Path, *options: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", str(into), *_TARGET]
    done = subprocess.run([*command, *options, *requirements], capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip()[-300:]
        raise EnvironmentUnavailable(f"{requirements} cannot be had ({said}): look at the network")


def providers(target: Path, lock: Path = PROVIDERS_LOCK) -> int:
    """Write the layer with providers' clients as a zip; its unpacked bytes. The same lock gives the same bytes.

    Raises EnvironmentUnavailable where the wheels cannot be had, InvalidInput where Lambda would not take it.
    """
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "python"
        _install(["-r", str(lock)], into, "--no-deps", "--require-hashes")
        for pattern in NOT_LOADED:
            for path in into.glob(pattern):
                shutil.rmtree(path)
        files = sorted(path for path in into.rglob("*") if path.is_file())
        size = sum(path.stat().st_size for path in files)
        if size > MOST_PROVIDERS_BYTES:
            raise InvalidInput(
                f"the clients unpack to {size / 2**20:.0f} MiB, and {MOST_PROVIDERS_BYTES / 2**20:.0f} are left beside "
                "the handlers of what Lambda takes: leave one out"
            )
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in files:
                about = zipfile.ZipInfo(str(path.relative_to(folder)))
                about.external_attr = 0o644 << 16
                archive.writestr(about, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return size


def main(arguments: list[str]) -> None:
    if len(arguments) == 2 and arguments[0] == "--providers":
        print(f"{arguments[1]}: {providers(Path(arguments[1])) / 2**20:.0f} MiB unpacked")
        return
    if arguments == ["--lock"]:
        LOCK.write_text(relock(), encoding="utf-8")
        PROVIDERS_LOCK.write_text(relock_providers(), encoding="utf-8")
    for path in wheels():
        print(path.name)


if __name__ == "__main__":
    main(sys.argv[1:])
