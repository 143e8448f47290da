"""The model registry of this deployment, as a Dagster resource."""

import dagster as dg
from pydantic import Field

from headrace.masking import secrets_in
from headrace.registry.mlflow_models import ModelRegistry
from headrace.settings import TRACKING_URI, Settings


class RegistryResource(dg.ConfigurableResource):
    """MLflow: embedded (`sqlite:///…`) or a server. Connects when it is first used."""

    tracking_uri: str = Field(description="Where MLflow is: sqlite:///FILE, or http(s)://HOST:PORT.")
    artifacts: str | None = Field(
        default=None,
        description="Where an embedded MLflow keeps pictures (file:///DIRECTORY); a server has its own place.",
    )
    request_timeout_seconds: int = Field(
        default=10, gt=0, description="How long one request to a server may take, in seconds."
    )
    request_retries: int = Field(default=1, ge=0, description="How often a failed request is sent again.")

    def models(self) -> ModelRegistry:
        return ModelRegistry(
            self.tracking_uri,
            artifacts=self.artifacts,
            request_timeout_seconds=self.request_timeout_seconds,
            request_retries=self.request_retries,
        )


def registry_resource(settings: Settings) -> RegistryResource:
    uri = settings.tracking_uri
    return RegistryResource(
        # Dagster's UI shows a resource's settings, but only the name of a variable.
        tracking_uri=dg.EnvVar(TRACKING_URI) if secrets_in(uri) else uri,
        artifacts=(settings.home / "mlflow-artifacts").as_uri(),
    )
