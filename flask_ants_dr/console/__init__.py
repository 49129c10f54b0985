"""The operator's page, as a blueprint to mount (extra ``console``)."""

try:
    import babel as _babel  # noqa: F401
except ModuleNotFoundError:
    raise ImportError(
        "flask_ants_dr.console needs Babel: pip install 'Flask-ANTS-DR[console]'"
    ) from None

from .access import loopback_only as loopback_only
from .blueprint import Console as Console
