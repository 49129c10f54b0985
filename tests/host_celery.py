"""The Celery application of :mod:`host`, for ``celery --app host_celery``."""

from __future__ import annotations

from host import create_app

celery_app = create_app().extensions["celery"]
