"""The environment `local`, ready for use: server up, stack deployed, images registered, parameters published.

`cdk deploy` and the image build do on AWS what happens here at the first use and after every change of code.
"""

from __future__ import annotations

import json
from hashlib import sha256

import stepforge
from stepforge.contracts.names import parameter
from stepforge.installation import assets
from stepforge.local import code
from stepforge.local.deploy import deploy
from stepforge.local.images import image_of, register_images
from stepforge.local.lifecycle import LocalAws, ensure_up, status
from stepforge.local.state import locked

NAME = "local"
REPOSITORIES: dict[str, str] = {name: f"stepforge/{name}" for name in ("data", "serve", "train")}
INSTANCE_TYPE = "ml.m5.large"
"""A name that SageMaker knows; jobs run on this machine whatever it says."""


def ready() -> LocalAws:
    """Start, deploy and publish what is not so yet. Costs a walk over file times where nothing has changed."""
    aws = ensure_up()
    mark = aws.home / "local" / "ready"
    state = f"{_fingerprint()} {status().started}"
    if mark.is_file() and mark.read_text() == state:
        return aws
    with locked(aws.home / "local" / "ready.lock"):
        if not (mark.is_file() and mark.read_text() == state):
            deploy(aws)
            _publish(aws)
            mark.write_text(state)
    return aws


def _publish(aws: LocalAws) -> None:
    """Register the images under the digest of the code that they hold, and write the parameters that name them."""
    publish_images(aws, NAME, {name: (name, repository) for name, repository in REPOSITORIES.items()})
    _put(aws, NAME, {f"instance-types/{name}": INSTANCE_TYPE for name in ("serve", "train")})


def publish_images(aws: LocalAws, environment: str, images: dict[str, tuple[str, str]]) -> dict[str, str]:
    """What the build of images does in the cloud: publish their addresses, and the digests of the code that they hold.

    `images`: the parameter (`train`) to a folder of containers/ and a repository. Here an image is the process that
    its Dockerfile starts, on the sources that this stepforge was imported from. Returns the
    addresses by parameter.
    """
    containers = assets.folder("containers")
    codes = code.codes()
    packages = code.roots()
    # As the Dockerfiles copy them.
    sources = {
        "/opt/stepforge/sdk": packages["stepforge"].parent,
        "/opt/stepforge/jobs": packages["stepforge_jobs"].parent,
    }
    registry = f"{aws.account_id}.dkr.ecr.{aws.region}.amazonaws.com"
    register_images(
        {
            f"{registry}/{repository}": image_of(
                containers / container / "Dockerfile",
                "serve" if container == "serve" else "train",
                sources,
                pinned=container != "serve",
            )
            for container, repository in images.values()
        }
    )
    address = code.image_digest(codes)
    addresses = {name: f"{registry}/{repository}@sha256:{address}" for name, (_, repository) in images.items()}
    # Codes last, as the build writes them: who reads in between has the images of before.
    _put(aws, environment, {f"images/{name}": value for name, value in addresses.items()})
    _put(aws, environment, {f"code/{work}": found for work, found in codes.items()})
    return addresses


def _put(aws: LocalAws, environment: str, values: dict[str, str]) -> None:
    ssm = aws.client("ssm")
    for key, value in values.items():
        ssm.put_parameter(Name=parameter(environment, key), Value=value, Type="String", Overwrite=True)


def _fingerprint() -> str:
    """Changes with any of our files: names, sizes and times, without reading them."""
    folders = [*code.roots().values(), *(assets.folder(name) for name in ("statemachines", "lambdas", "containers"))]
    state = sha256(stepforge.__version__.encode())
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".py", ".json", ".lock", ".toml", "") and "__pycache__" not in path.parts:
                found = path.stat()
                state.update(json.dumps([str(path), found.st_size, found.st_mtime_ns]).encode())
    return state.hexdigest()
