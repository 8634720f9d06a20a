"""The shape that requests are held to."""

from __future__ import annotations

from typing import Any

import botocore.loaders
import botocore.model
import pytest


@pytest.fixture(scope="session")
def shape() -> Any:
    plain = botocore.loaders.Loader().load_service_model("sagemaker", "service-2")
    return botocore.model.ServiceModel(plain).operation_model("CreateTrainingJob").input_shape
