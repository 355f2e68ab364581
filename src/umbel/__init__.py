"""umbel: a distributed task queue that speaks Celery's language."""
