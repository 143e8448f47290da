"""The settings of this checkout; `headrace.settings` lists the variables and their meaning.

Only this module reads the pipeline's environment variables.
"""

import os
from pathlib import Path

from headrace.settings import TRACKING_URI, Settings, settings_of

__all__ = ["CHECKOUT", "TRACKING_URI", "Settings", "settings_from_environment"]

CHECKOUT = Path(__file__).resolve().parent.parent


def settings_from_environment() -> Settings:
    """Raises: InvalidSetting: a variable has a value that means nothing."""
    return settings_of(os.environ, CHECKOUT)
